// Convolutions of 3×3 with a stride and a padding of one by Winograd's minimal filtering F(2×2, 3×3): 16 products of
// matrices, which need 4/9 of a direct convolution's multiplications (winograd_loops.h), and oneDNN multiplies matrices
// at the processor's full rate. In bfloat16; sums within a change of basis are in float32.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "shim.h"
#include "winograd_loops.h"

#define DECLARE(variant)      \
    namespace variant {       \
    WinogradLoops winograd(); \
    }
FOR_EACH_VARIANT(DECLARE)

const WinogradLoops &winograd_loops() {
    static const WinogradLoops chosen = CHOOSE(winograd);
    return chosen;
}

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const Brain *brains(const Tensor &tensor) { return static_cast<const Brain *>(tensor.const_data_ptr()); }
Brain *brains(Tensor &tensor) { return static_cast<Brain *>(tensor.mutable_data_ptr()); }

// Maps as [B, H, W, C].
Tensor pixels_first(const Tensor &maps) { return maps.permute({0, 2, 3, 1}).contiguous(); }
Map size_of(const Tensor &maps) { return {maps.size(1), maps.size(2), maps.size(3)}; }

// work(first, last) for parts of a count, on all threads.
template <class Work>
void shared(int64_t count, Work work) {
    at::parallel_for(0, count, 1, work);
}

// [16, B·tiles, C] of maps [B, H, W, C].
Tensor tiles_of(const Tensor &maps, bool of_gradient) {
    const Map size = size_of(maps);
    const int64_t count = maps.size(0), rows = count * size.tiles();
    auto tiles = at::empty({16, rows, size.channels}, maps.options());
    const auto &loops = winograd_loops();
    const auto loop = of_gradient ? loops.output_gradient : loops.input;
    const auto *from = brains(maps);
    auto *to = brains(tiles);
    shared(count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            loop(from + i * size.height * size.width * size.channels, to + i * size.tiles() * size.channels,
                 rows * size.channels, size);
    });
    return tiles;
}

// Maps [B, H, W, C] of the sizes of `like` in all but the channels, of tiles [16, B·tiles, C].
Tensor maps_of(const Tensor &tiles, const Tensor &like, const std::optional<Tensor> &bias, const std::optional<Tensor> &added,
               bool relu) {
    const Map size = {like.size(1), like.size(2), tiles.size(2)};
    auto maps = at::empty({like.size(0), size.height, size.width, size.channels}, tiles.options());
    const int64_t count = like.size(0), numbers_each = size.height * size.width * size.channels;
    const auto loop = winograd_loops().output;
    const Brain *from = brains(tiles), *summand = added ? brains(*added) : nullptr;
    const auto *offset = bias ? bias->const_data_ptr<float>() : nullptr;
    auto *to = brains(maps);
    shared(count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            loop(from + i * size.tiles() * size.channels, tiles.size(1) * size.channels, offset,
                 summand ? summand + i * numbers_each : nullptr, to + i * numbers_each, size, relu);
    });
    return maps;
}

// The gradient of maps [B, H, W, C] of that size, of the gradient of their tiles.
Tensor gradient_of_maps(const Tensor &tiles, at::IntArrayRef sizes) {
    auto gradient = at::empty(sizes, tiles.options());
    const Map size = size_of(gradient);
    const auto loop = winograd_loops().input_gradient;
    const auto *from = brains(tiles);
    auto *to = brains(gradient);
    shared(sizes[0], [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            loop(from + i * size.tiles() * size.channels, tiles.size(1) * size.channels,
                 to + i * size.height * size.width * size.channels, size);
    });
    return gradient;
}

// [16, outputs, C] of weights [outputs, C, 3, 3] in float32.
Tensor changed_weight(const Tensor &weight) {
    const auto own = pixels_first(weight);
    const int64_t outputs = own.size(0), channels = own.size(3);
    auto changed = at::empty({16, outputs, channels}, own.options().dtype(at::kBFloat16));
    const auto loop = winograd_loops().weight;
    const auto *from = own.const_data_ptr<float>();
    auto *to = brains(changed);
    shared(outputs, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            loop(from + i * 9 * channels, to + i * channels, outputs * channels, channels);
    });
    return changed;
}

// The gradient of weights [outputs, C, 3, 3] in float32, of that of their change of basis.
Tensor gradient_of_weight(const Tensor &changed) {
    const int64_t outputs = changed.size(1), channels = changed.size(2);
    auto gradient = at::empty({outputs, 3, 3, channels}, changed.options().dtype(at::kFloat));
    const auto loop = winograd_loops().weight_gradient;
    const auto *from = brains(changed);
    auto *to = gradient.mutable_data_ptr<float>();
    shared(outputs, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            loop(from + i * channels, outputs * channels, to + i * 9 * channels, channels);
    });
    return gradient.permute({0, 3, 1, 2});
}

struct Convolution : torch::autograd::Function<Convolution> {
    static Tensor forward(AutogradContext *context, Tensor x, Tensor weight, std::optional<Tensor> bias) {
        const auto maps = pixels_first(x);
        const auto tiles = tiles_of(maps, false), changed = changed_weight(weight);
        context->save_for_backward({tiles, changed});
        context->saved_data["size"] = maps.sizes();
        context->saved_data["has_bias"] = bias.has_value();
        return maps_of(at::bmm(tiles, changed.transpose(1, 2)), maps, bias, std::nullopt, false).permute({0, 3, 1, 2});
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &tiles = saved[0], &changed = saved[1];
        const auto gradient = pixels_first(gradients[0]);
        const auto of_products = tiles_of(gradient, true);
        Tensor of_x, of_bias;
        if (context->needs_input_grad(0)) {
            const auto size = context->saved_data["size"].toIntVector();
            of_x = gradient_of_maps(at::bmm(of_products, changed), size).permute({0, 3, 1, 2});
        }
        const auto of_weight = gradient_of_weight(at::bmm(of_products.transpose(1, 2), tiles));
        if (context->saved_data["has_bias"].toBool()) of_bias = gradient.sum({0, 1, 2}, false, at::kFloat);
        return {of_x, of_weight, of_bias};
    }
};

std::optional<Tensor> optional(const Tensor *tensor) { return tensor ? std::optional(*tensor) : std::nullopt; }

}  // namespace

// The convolution of x [B, C, H, W], bfloat16, by weight [outputs, C, 3, 3] with a bias [outputs] or none, both float32.
// C and outputs are multiples of LANES.
extern "C" char *distillery_winograd(Tensor **result, const Tensor *x, const Tensor *weight, const Tensor *bias) {
    return guarded([&] { *result = new Tensor(Convolution::apply(*x, *weight, optional(bias))); });
}

// The weight of `distillery_frozen_winograd`: [16, outputs, C].
extern "C" char *distillery_winograd_weight(Tensor **result, const Tensor *weight) {
    return guarded([&] { *result = new Tensor(changed_weight(*weight)); });
}

// The same without gradients, by a weight that was changed before, with a bias [outputs] in float32, plus `added`
// [B, outputs, H, W] where it is not null, and without what is negative where `relu`.
extern "C" char *distillery_frozen_winograd(Tensor **result, const Tensor *x, const Tensor *changed, const Tensor *bias,
                                            const Tensor *added, bool relu) {
    return guarded([&] {
        const auto maps = pixels_first(*x);
        const auto summand = added ? std::optional(pixels_first(*added)) : std::nullopt;
        const auto products = at::bmm(tiles_of(maps, false), changed->transpose(1, 2));
        *result = new Tensor(maps_of(products, maps, *bias, summand, relu).permute({0, 3, 1, 2}));
    });
}
