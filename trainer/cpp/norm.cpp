// Batch norm in training mode with the sum and the ReLU that follow it: two passes over the map forward and two
// backward. libtorch needs up to nine, some of them several times slower if the gradient comes in another layout.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>
#include <vector>

#include "norm_loops.h"
#include "parallel.h"
#include "shim.h"

#define DECLARE(variant)           \
    namespace variant {            \
    NormKernels<float> of_float(); \
    NormKernels<Bfloat16> of_bfloat16(); \
    }
FOR_EACH_VARIANT(DECLARE)

template <>
NormKernels<float> norm_kernels<float>() {
    static const auto chosen = CHOOSE(of_float);
    return chosen;
}

template <>
NormKernels<Bfloat16> norm_kernels<Bfloat16>() {
    static const auto chosen = CHOOSE(of_bfloat16);
    return chosen;
}

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Numbers of a map that a thread takes at a time. Sums are float32 within a block and double across blocks, in an order
// that does not depend on the number of threads.
constexpr int64_t BLOCK = 1 << 14;

// How a channels-last map [B, C, H, W] is cut into blocks.
struct Cut {
    int64_t channels, rows, width, block, blocks;

    explicit Cut(const Tensor &map) : channels(map.size(1)), rows(map.numel() / std::max<int64_t>(channels, 1)) {
        // Whole vectors of 16 floats, and enough of them for sums that do not wait for each other.
        width = channels * (16 / std::gcd<int64_t>(channels, 16));
        while (width < 256) width *= 2;
        block = std::max<int64_t>(1, BLOCK / width) * width;
        blocks = (map.numel() + block - 1) / block;
    }

    // Calls work(block, first, count) for each block, on all threads.
    template <class Work>
    void each(Work work) const {
        const int64_t total = channels * rows;
        at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
            for (int64_t index = begin; index < end; index++)
                work(index, index * block, std::min(block, total - index * block));
        });
    }

    // Repeats the values of the channels up to the width.
    std::vector<float> repeated(const float *values) const {
        std::vector<float> all(width);
        for (int64_t i = 0; i < width; i++) all[i] = values[i % channels];
        return all;
    }

    // Two sums per channel. work(first, count, one, other) adds to arrays of the width.
    template <class Work>
    std::array<std::vector<double>, 2> sums(Work work) const {
        std::vector<float> parts(blocks * 2 * channels);
        each([&](int64_t index, int64_t first, int64_t count) {
            std::vector<float> one(width), other(width);
            work(first, count, one.data(), other.data());
            float *part = parts.data() + index * 2 * channels;
            for (int64_t i = 0; i < width; i++) {
                part[i % channels] += one[i];
                part[channels + i % channels] += other[i];
            }
        });
        std::array<std::vector<double>, 2> totals{std::vector<double>(channels), std::vector<double>(channels)};
        for (int64_t index = 0; index < blocks; index++)
            for (int64_t c = 0; c < channels; c++) {
                totals[0][c] += parts[index * 2 * channels + c];
                totals[1][c] += parts[(index * 2 + 1) * channels + c];
            }
        return totals;
    }
};

Tensor channels_last(const Tensor &map) { return map.contiguous(at::MemoryFormat::ChannelsLast); }

template <class T>
T *data(const Tensor &map) {
    return map.defined() ? static_cast<T *>(map.data_ptr()) : nullptr;
}

template <class T>
Tensor forward(const Tensor &x, const Tensor &added, const Tensor &weight, const Tensor &bias, Tensor running_mean,
               Tensor running_var, bool relu, double momentum, double epsilon, Tensor mean, Tensor inverse) {
    const auto kernels = norm_kernels<T>();
    const Cut cut(x);
    const auto *from = data<T>(x);
    // Shifting by the first pixel, which is close to the mean, avoids cancellation in the difference of squares.
    const auto shift_tensor = x.select(0, 0).select(1, 0).select(1, 0).to(at::kFloat).contiguous();
    const float *shift = shift_tensor.template data_ptr<float>();
    const auto shifts = cut.repeated(shift);
    const auto sums = cut.sums([&](int64_t first, int64_t count, float *sum, float *squares) {
        kernels.moments(from + first, count, cut.width, shifts.data(), sum, squares);
    });
    std::vector<float> scale(cut.channels), offset(cut.channels);
    const double count = static_cast<double>(cut.rows);
    for (int64_t c = 0; c < cut.channels; c++) {
        const double shifted = sums[0][c] / count;
        const double variance = std::max(sums[1][c] / count - shifted * shifted, 0.0);
        const double centre = shift[c] + shifted, factor = 1 / std::sqrt(variance + epsilon);
        mean.data_ptr<float>()[c] = static_cast<float>(centre);
        inverse.data_ptr<float>()[c] = static_cast<float>(factor);
        scale[c] = static_cast<float>(weight.data_ptr<float>()[c] * factor);
        offset[c] = static_cast<float>(bias.data_ptr<float>()[c] - centre * weight.data_ptr<float>()[c] * factor);
        float &average = running_mean.data_ptr<float>()[c], &spread = running_var.data_ptr<float>()[c];
        average = static_cast<float>((1 - momentum) * average + momentum * centre);
        // The unbiased variance, as in PyTorch.
        spread = static_cast<float>((1 - momentum) * spread + momentum * variance * count / (count - 1));
    }
    const auto scales = cut.repeated(scale.data()), offsets = cut.repeated(offset.data());
    auto y = at::empty_like(x);
    const T *summand = data<T>(added);
    cut.each([&](int64_t, int64_t first, int64_t count) {
        kernels.apply(from + first, summand ? summand + first : nullptr, data<T>(y) + first, count, cut.width, scales.data(),
                      offsets.data(), relu);
    });
    return y;
}

template <class T>
variable_list backward(const Tensor &gradient, const Tensor &y, const Tensor &x, const Tensor &weight, const Tensor &mean,
                       const Tensor &inverse, bool adds) {
    const auto kernels = norm_kernels<T>();
    const Cut cut(x);
    // The gradient of the summand is the gradient behind the ReLU.
    const auto cleared = !adds ? Tensor() : y.defined() ? at::empty_like(x) : gradient;
    const T *from = data<T>(gradient), *output = data<T>(y), *input = data<T>(x);
    T *to = adds && y.defined() ? data<T>(cleared) : nullptr;
    const auto means = cut.repeated(mean.data_ptr<float>());
    const auto sums = cut.sums([&](int64_t first, int64_t count, float *sum, float *products) {
        kernels.gradient_sums(from + first, output ? output + first : nullptr, input + first, to ? to + first : nullptr,
                              count, cut.width, means.data(), sum, products);
    });
    auto of_weight = at::empty_like(weight), of_bias = at::empty_like(weight);
    std::vector<float> factor(cut.channels), slope(cut.channels), constant(cut.channels);
    const double count = static_cast<double>(cut.rows);
    for (int64_t c = 0; c < cut.channels; c++) {
        const double scale = inverse.data_ptr<float>()[c], product = sums[1][c] * scale;
        of_weight.data_ptr<float>()[c] = static_cast<float>(product);
        of_bias.data_ptr<float>()[c] = static_cast<float>(sums[0][c]);
        const double by = weight.data_ptr<float>()[c] * scale, along = -by * scale * product / count;
        factor[c] = static_cast<float>(by);
        slope[c] = static_cast<float>(along);
        constant[c] = static_cast<float>(-by * sums[0][c] / count - along * mean.data_ptr<float>()[c]);
    }
    const auto factors = cut.repeated(factor.data()), slopes = cut.repeated(slope.data()),
               constants = cut.repeated(constant.data());
    auto of_x = at::empty_like(x);
    // If the gradient behind the ReLU was written, y need not be read again.
    const T *again = to ? to : from;
    const T *mask = to ? nullptr : output;
    cut.each([&](int64_t, int64_t first, int64_t count) {
        kernels.gradient(again + first, mask ? mask + first : nullptr, input + first, data<T>(of_x) + first, count, cut.width,
                         factors.data(), slopes.data(), constants.data());
    });
    return {of_x, cleared, of_weight, of_bias};
}

struct Norm : torch::autograd::Function<Norm> {
    static Tensor forward(AutogradContext *context, Tensor x, std::optional<Tensor> summand, Tensor weight,
                          Tensor bias, Tensor running_mean, Tensor running_var, bool relu, double momentum, double epsilon) {
        x = channels_last(x);
        const auto added = summand ? channels_last(*summand) : Tensor();
        auto mean = at::empty_like(weight), inverse = at::empty_like(weight);
        const auto run = x.scalar_type() == at::kBFloat16 ? ::forward<Bfloat16> : ::forward<float>;
        auto y = run(x, added, weight, bias, running_mean, running_var, relu, momentum, epsilon, mean, inverse);
        context->saved_data["adds"] = added.defined();
        context->save_for_backward({x, relu ? y : Tensor(), weight, mean, inverse});
        return y;
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &x = saved[0];
        const auto gradient = channels_last(gradients[0].to(x.scalar_type()));
        const auto run = x.scalar_type() == at::kBFloat16 ? ::backward<Bfloat16> : ::backward<float>;
        auto found = run(gradient, saved[1], x, saved[2], saved[3], saved[4], context->saved_data["adds"].toBool());
        found.resize(9);
        return found;
    }
};

}  // namespace

extern "C" char *distillery_norm(at::Tensor **result, const at::Tensor *x, const at::Tensor *added, const at::Tensor *weight,
                                 const at::Tensor *bias, const at::Tensor *running_mean, const at::Tensor *running_var,
                                 bool relu, double momentum, double epsilon) {
    return guarded([&] {
        const auto summand = added ? std::optional<at::Tensor>(*added) : std::nullopt;
        *result = new at::Tensor(
            Norm::apply(*x, summand, *weight, *bias, *running_mean, *running_var, relu, momentum, epsilon));
    });
}
