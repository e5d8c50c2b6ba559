// 3×3 convolutions with stride 1 and padding 1, by Winograd's minimal filtering F(2×2, 3×3), which needs 4/9 of the
// multiplications of a direct convolution (winograd_loops.h). Sums and transforms are computed in float32.
#include "winograd_loops.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "parallel.h"
#include "shim.h"

#if defined(__x86_64__)
#include <cpuid.h>

namespace v3 {
WinogradLoops<float> winograd();
}
namespace v4 {
WinogradLoops<float> winograd();
}
namespace v4_bf16 {
WinogradLoops<Bfloat16> winograd();
}

template <>
const WinogradLoops<float> *winograd_loops<float>() {
    static const bool is_v4 = __builtin_cpu_supports("x86-64-v4"), is_v3 = __builtin_cpu_supports("x86-64-v3");
    static const auto chosen = is_v4 ? v4::winograd() : is_v3 ? v3::winograd() : WinogradLoops<float>{};
    return is_v3 ? &chosen : nullptr;
}

template <>
const WinogradLoops<Bfloat16> *winograd_loops<Bfloat16>() {
    // With AMX, which multiplies matrices several times as fast, oneDNN's direct convolutions win.
    const auto has_amx = [] {
        unsigned eax, ebx, ecx, edx;
        return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 22 & 1);
    };
    static const bool fits = __builtin_cpu_supports("avx512bf16") && !has_amx();
    static const auto chosen = fits ? v4_bf16::winograd() : WinogradLoops<Bfloat16>{};
    return fits ? &chosen : nullptr;
}
#else
template <>
const WinogradLoops<float> *winograd_loops<float>() {
    return nullptr;
}

template <>
const WinogradLoops<Bfloat16> *winograd_loops<Bfloat16>() {
    return nullptr;
}
#endif

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
const T *numbers(const Tensor &tensor) {
    return static_cast<const T *>(tensor.const_data_ptr());
}

template <class T>
T *numbers(Tensor &tensor) {
    return static_cast<T *>(tensor.mutable_data_ptr());
}

// Calls work(T()) with the C++ type of the kind.
template <class Work>
auto for_kind(at::ScalarType kind, Work work) {
    return kind == at::kBFloat16 ? work(Bfloat16()) : work(float());
}

// Maps as [B, H, W, C].
Tensor pixels_first(const Tensor &maps) { return maps.permute({0, 2, 3, 1}).contiguous(); }

template <class T>
Maps<T> maps_of(const Tensor &pixels) {
    return {numbers<T>(pixels), pixels.size(0), pixels.size(1), pixels.size(2), pixels.size(3)};
}

// Calls work(begin, end) for parts of 0..count, on all threads.
template <class Work>
void in_parallel(int64_t count, Work work) {
    at::parallel_for(0, count, 1, work);
}

// Calls work(begin, end) for parts of the tiles that consist of whole strips, on all threads.
template <class Work>
void over_strips(int64_t tiles, int64_t strip, Work work) {
    in_parallel((tiles + strip - 1) / strip,
           [&](int64_t begin, int64_t end) { work(begin * strip, std::min(end * strip, tiles)); });
}

// Transforms weights [outputs, C, 3, 3] for maps of that kind; rotated by 180° for the gradient of the maps.
Tensor transformed_weight(const Tensor &weight, at::ScalarType kind, bool rotated) {
    const auto kernels = pixels_first(weight);
    const int64_t outputs = kernels.size(0), channels = kernels.size(3);
    auto transformed = at::empty({16, outputs, channels}, kernels.options().dtype(kind));
    for_kind(kind, [&](auto number) {
        using T = decltype(number);
        const auto &loops = *winograd_loops<T>();
        const auto transform = rotated ? loops.transform_rotated : loops.transform;
        in_parallel((rotated ? channels : outputs) / loops.lanes, [&, to = numbers<T>(transformed)](int64_t begin, int64_t end) {
            transform(kernels.const_data_ptr<float>(), outputs, channels, to, begin, end);
        });
    });
    return transformed;
}

// Convolves maps [B, H, W, C] with a transformed weight: [B, H, W, outputs].
Tensor convolved(const Tensor &pixels, const Tensor &transformed, int64_t outputs, const std::optional<Tensor> &bias,
                 const std::optional<Tensor> &added, bool relu) {
    auto made = at::empty({pixels.size(0), pixels.size(1), pixels.size(2), outputs}, pixels.options());
    for_kind(pixels.scalar_type(), [&](auto number) {
        using T = decltype(number);
        const auto maps = maps_of<T>(pixels);
        const Results<T> results = {numbers<T>(made), outputs, bias ? bias->const_data_ptr<float>() : nullptr,
                                    added ? numbers<T>(*added) : nullptr, relu};
        const auto &loops = *winograd_loops<T>();
        over_strips(maps.tiles(), loops.strip(maps.channels), [&](int64_t begin, int64_t end) {
            loops.convolve(maps, numbers<T>(transformed), results, begin, end);
        });
    });
    return made;
}

// The gradient of weights [outputs, C, 3, 3], in float32. Each thread sums over its part of the tiles, some of which
// its caches still hold, and the partial sums are added in order. If the partial sums would take too much memory,
// threads share a part and split it by the rows of the transform domain.
template <class T>
Tensor gradient_of_weight(const Tensor &pixels, const Tensor &gradient) {
    const auto &loops = *winograd_loops<T>();
    const auto maps = maps_of<T>(pixels), given = maps_of<T>(gradient);
    const int64_t outputs = given.channels, channels = maps.channels, tiles = maps.tiles(), threads = at::get_num_threads();
    // The most numbers in all partial sums.
    constexpr int64_t LARGEST = 1 << 24;
    const int64_t parts =
        std::clamp<int64_t>(threads, 1, std::max<int64_t>(1, LARGEST / (16 * outputs * channels)));
    auto sums = at::zeros({parts, 16, outputs, channels}, pixels.options().dtype(at::kFloat));
    float *of_places = sums.mutable_data_ptr<float>();
    in_parallel(4 * parts, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; task++) {
            const int64_t part = task / 4;
            loops.sum(maps, given, static_cast<int>(task % 4), of_places + task * 4 * outputs * channels,
                      tiles * part / parts, tiles * (part + 1) / parts);
        }
    });
    auto of_weight = at::empty({outputs, 3, 3, channels}, sums.options());
    in_parallel(outputs, [&, to = of_weight.mutable_data_ptr<float>()](int64_t begin, int64_t end) {
        loops.kernel_gradient(of_places, parts, outputs, channels, to, begin, end);
    });
    return of_weight.permute({0, 3, 1, 2});
}

struct Convolution : torch::autograd::Function<Convolution> {
    static Tensor forward(AutogradContext *context, Tensor x, Tensor weight, std::optional<Tensor> bias) {
        const auto pixels = pixels_first(x);
        context->save_for_backward({pixels, weight});
        context->saved_data["has_bias"] = bias.has_value();
        return convolved(pixels, transformed_weight(weight, x.scalar_type(), false), weight.size(0), bias, std::nullopt, false)
            .permute({0, 3, 1, 2});
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &pixels = saved[0], &weight = saved[1];
        const auto gradient = pixels_first(gradients[0]);
        Tensor of_x, of_bias;
        if (context->needs_input_grad(0))
            of_x = convolved(gradient, transformed_weight(weight, pixels.scalar_type(), true), weight.size(1), std::nullopt,
                             std::nullopt, false)
                       .permute({0, 3, 1, 2});
        const auto of_weight = for_kind(pixels.scalar_type(), [&](auto number) {
            return gradient_of_weight<decltype(number)>(pixels, gradient);
        });
        if (context->saved_data["has_bias"].toBool()) of_bias = gradient.sum({0, 1, 2}, false, at::kFloat);
        return {of_x, of_weight, of_bias};
    }
};

std::optional<Tensor> optional(const Tensor *tensor) { return tensor ? std::optional(*tensor) : std::nullopt; }

}  // namespace

// Whether this processor has the instructions for the functions below, for maps of float32 or bfloat16, and they are
// fast.
extern "C" bool distillery_has_winograd(bool is_float) {
    return is_float ? winograd_loops<float>() != nullptr : winograd_loops<Bfloat16>() != nullptr;
}

// Convolves x [B, C, H, W] (float32 or bfloat16) with weight [outputs, C, 3, 3] and, if not null, bias [outputs], both
// float32. C and outputs are multiples of CHANNELS.
extern "C" char *distillery_winograd(Tensor **result, const Tensor *x, const Tensor *weight, const Tensor *bias) {
    return guarded([&] { *result = new Tensor(Convolution::apply(*x, *weight, optional(bias))); });
}

// Transforms a weight for `distillery_frozen_winograd` of maps of float32 or bfloat16: [16, outputs, C].
extern "C" char *distillery_winograd_weight(Tensor **result, const Tensor *weight, bool is_float) {
    return guarded([&] { *result = new Tensor(transformed_weight(*weight, is_float ? at::kFloat : at::kBFloat16, false)); });
}

// The same without gradients, with a transformed weight and a bias [outputs] in float32; then the sum with `added`
// [B, outputs, H, W] and a ReLU, if wanted.
extern "C" char *distillery_frozen_winograd(Tensor **result, const Tensor *x, const Tensor *transformed, const Tensor *bias,
                                            const Tensor *added, bool relu) {
    return guarded([&] {
        const auto summand = added ? std::optional(pixels_first(*added)) : std::nullopt;
        *result = new Tensor(
            convolved(pixels_first(*x), *transformed, transformed->size(1), *bias, summand, relu).permute({0, 3, 1, 2}));
    });
}
