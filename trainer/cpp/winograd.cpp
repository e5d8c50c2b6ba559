// Convolutions of 3×3 with a stride and a padding of one by Winograd's minimal filtering F(2×2, 3×3), which needs 4/9 of a
// direct convolution's multiplications (winograd_loops.h). In bfloat16; sums, and what is within a change of basis, are float32.
#include "winograd_loops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

#include "shim.h"

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const Brain *brains(const Tensor &tensor) { return static_cast<const Brain *>(tensor.const_data_ptr()); }
Brain *brains(Tensor &tensor) { return static_cast<Brain *>(tensor.mutable_data_ptr()); }

// Maps as [B, H, W, C].
Tensor pixels_first(const Tensor &maps) { return maps.permute({0, 2, 3, 1}).contiguous(); }
Maps maps_of(const Tensor &pixels) {
    return {brains(pixels), pixels.size(0), pixels.size(1), pixels.size(2), pixels.size(3)};
}

// work(begin, end) for parts of a count, on all threads.
template <class Work>
void shared(int64_t count, Work work) {
    at::parallel_for(0, count, 1, work);
}

// work(begin, end) for the tiles, in whole strips.
template <class Work>
void over_strips(int64_t tiles, int64_t strip, Work work) {
    shared((tiles + strip - 1) / strip,
           [&](int64_t begin, int64_t end) { work(begin * strip, std::min(end * strip, tiles)); });
}

// Weights [outputs, C, 3, 3] in the other basis; or turned, for the gradient of the maps.
Tensor changed_weight(const Tensor &weight, bool turned) {
    const auto kernels = pixels_first(weight);
    const int64_t outputs = kernels.size(0), channels = kernels.size(3);
    auto changed = at::empty({16, outputs, channels}, kernels.options().dtype(at::kBFloat16));
    const auto change = turned ? winograd_change_turned : winograd_change;
    shared((turned ? channels : outputs) / LANES, [&, to = brains(changed)](int64_t begin, int64_t end) {
        change(kernels.const_data_ptr<float>(), outputs, channels, to, begin, end);
    });
    return changed;
}

// Of maps [B, H, W, C] by a changed weight: [B, H, W, outputs].
Tensor convolved(const Tensor &pixels, const Tensor &changed, int64_t outputs, const std::optional<Tensor> &bias,
                 const std::optional<Tensor> &added, bool relu) {
    const auto maps = maps_of(pixels);
    auto made = at::empty({maps.count, maps.height, maps.width, outputs}, pixels.options());
    const Results results = {brains(made), outputs, bias ? bias->const_data_ptr<float>() : nullptr,
                             added ? brains(*added) : nullptr, relu};
    over_strips(maps.tiles(), winograd_strip(maps.channels), [&](int64_t begin, int64_t end) {
        winograd_convolve(maps, brains(changed), results, begin, end);
    });
    return made;
}

// The gradient of weights [outputs, C, 3, 3] in float32. Work is divided by rows of the other basis, and where that is not
// enough for all threads, among parts of the tiles whose sums are added in order.
Tensor gradient_of_weight(const Tensor &pixels, const Tensor &gradient) {
    const auto maps = maps_of(pixels), given = maps_of(gradient);
    const int64_t outputs = given.channels, channels = maps.channels, tiles = maps.tiles(), threads = at::get_num_threads();
    constexpr int64_t MOST = 1 << 24;
    const int64_t parts =
        std::clamp<int64_t>(threads / std::gcd<int64_t>(threads, 4), 1, std::max<int64_t>(1, MOST / (16 * outputs * channels)));
    auto sums = at::zeros({parts, 16, outputs, channels}, pixels.options().dtype(at::kFloat));
    float *of_places = sums.mutable_data_ptr<float>();
    shared(4 * parts, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; task++) {
            const int64_t part = task / 4;
            winograd_sum(maps, given, static_cast<int>(task % 4), of_places + task * 4 * outputs * channels,
                         tiles * part / parts, tiles * (part + 1) / parts);
        }
    });
    auto of_weight = at::empty({outputs, 3, 3, channels}, sums.options());
    shared(outputs, [&, to = of_weight.mutable_data_ptr<float>()](int64_t begin, int64_t end) {
        winograd_kernel_gradient(of_places, parts, outputs, channels, to, begin, end);
    });
    return of_weight.permute({0, 3, 1, 2});
}

struct Convolution : torch::autograd::Function<Convolution> {
    static Tensor forward(AutogradContext *context, Tensor x, Tensor weight, std::optional<Tensor> bias) {
        const auto pixels = pixels_first(x);
        context->save_for_backward({pixels, weight});
        context->saved_data["has_bias"] = bias.has_value();
        return convolved(pixels, changed_weight(weight, false), weight.size(0), bias, std::nullopt, false)
            .permute({0, 3, 1, 2});
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &pixels = saved[0], &weight = saved[1];
        const auto gradient = pixels_first(gradients[0]);
        Tensor of_x, of_bias;
        if (context->needs_input_grad(0))
            of_x = convolved(gradient, changed_weight(weight, true), weight.size(1), std::nullopt, std::nullopt, false)
                       .permute({0, 3, 1, 2});
        const auto of_weight = gradient_of_weight(pixels, gradient);
        if (context->saved_data["has_bias"].toBool()) of_bias = gradient.sum({0, 1, 2}, false, at::kFloat);
        return {of_x, of_weight, of_bias};
    }
};

std::optional<Tensor> optional(const Tensor *tensor) { return tensor ? std::optional(*tensor) : std::nullopt; }

}  // namespace

// Whether the functions below can be called on this processor, and are worth it.
extern "C" bool distillery_has_winograd() { return has_winograd(); }

// The convolution of x [B, C, H, W], bfloat16, by weight [outputs, C, 3, 3] with a bias [outputs] or none, both float32.
// C and outputs are multiples of LANES.
extern "C" char *distillery_winograd(Tensor **result, const Tensor *x, const Tensor *weight, const Tensor *bias) {
    return guarded([&] { *result = new Tensor(Convolution::apply(*x, *weight, optional(bias))); });
}

// The weight of `distillery_frozen_winograd`: [16, outputs, C].
extern "C" char *distillery_winograd_weight(Tensor **result, const Tensor *weight) {
    return guarded([&] { *result = new Tensor(changed_weight(*weight, false)); });
}

// The same without gradients, by a weight that was changed before, with a bias [outputs] in float32, plus `added`
// [B, outputs, H, W] where it is not null, and without what is negative where `relu`.
extern "C" char *distillery_frozen_winograd(Tensor **result, const Tensor *x, const Tensor *changed, const Tensor *bias,
                                            const Tensor *added, bool relu) {
    return guarded([&] {
        const auto summand = added ? std::optional(pixels_first(*added)) : std::nullopt;
        *result = new Tensor(
            convolved(pixels_first(*x), *changed, changed->size(1), *bias, summand, relu).permute({0, 3, 1, 2}));
    });
}
