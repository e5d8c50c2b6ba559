// Convolutions of 3×3 with a stride and a padding of one by Winograd's minimal filtering F(2×2, 3×3), which needs 4/9 of a
// direct convolution's multiplications (winograd_loops.h). Sums, and what is within a change of basis, are float32.
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
WinogradLoops<Brain> winograd();
}

template <>
const WinogradLoops<float> *winograd_loops<float>() {
    static const bool is_v4 = __builtin_cpu_supports("x86-64-v4"), is_v3 = __builtin_cpu_supports("x86-64-v3");
    static const auto chosen = is_v4 ? v4::winograd() : is_v3 ? v3::winograd() : WinogradLoops<float>{};
    return is_v3 ? &chosen : nullptr;
}

template <>
const WinogradLoops<Brain> *winograd_loops<Brain>() {
    // AMX multiplies matrices several times as fast, and oneDNN's direct convolutions use it.
    const auto has_amx = [] {
        unsigned eax, ebx, ecx, edx;
        return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 22 & 1);
    };
    static const bool fits = __builtin_cpu_supports("avx512bf16") && !has_amx();
    static const auto chosen = fits ? v4_bf16::winograd() : WinogradLoops<Brain>{};
    return fits ? &chosen : nullptr;
}
#else
template <>
const WinogradLoops<float> *winograd_loops<float>() {
    return nullptr;
}

template <>
const WinogradLoops<Brain> *winograd_loops<Brain>() {
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

// work(T()) for the numbers of that kind.
template <class Work>
auto for_kind(at::ScalarType kind, Work work) {
    return kind == at::kBFloat16 ? work(Brain()) : work(float());
}

// Maps as [B, H, W, C].
Tensor pixels_first(const Tensor &maps) { return maps.permute({0, 2, 3, 1}).contiguous(); }

template <class T>
Maps<T> maps_of(const Tensor &pixels) {
    return {numbers<T>(pixels), pixels.size(0), pixels.size(1), pixels.size(2), pixels.size(3)};
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

// Weights [outputs, C, 3, 3] in the other basis, for maps of that kind; or turned, for the gradient of the maps.
Tensor changed_weight(const Tensor &weight, at::ScalarType kind, bool turned) {
    const auto kernels = pixels_first(weight);
    const int64_t outputs = kernels.size(0), channels = kernels.size(3);
    auto changed = at::empty({16, outputs, channels}, kernels.options().dtype(kind));
    for_kind(kind, [&](auto number) {
        using T = decltype(number);
        const auto &loops = *winograd_loops<T>();
        const auto change = turned ? loops.change_turned : loops.change;
        shared((turned ? channels : outputs) / loops.lanes, [&, to = numbers<T>(changed)](int64_t begin, int64_t end) {
            change(kernels.const_data_ptr<float>(), outputs, channels, to, begin, end);
        });
    });
    return changed;
}

// Of maps [B, H, W, C] by a changed weight: [B, H, W, outputs].
Tensor convolved(const Tensor &pixels, const Tensor &changed, int64_t outputs, const std::optional<Tensor> &bias,
                 const std::optional<Tensor> &added, bool relu) {
    auto made = at::empty({pixels.size(0), pixels.size(1), pixels.size(2), outputs}, pixels.options());
    for_kind(pixels.scalar_type(), [&](auto number) {
        using T = decltype(number);
        const auto maps = maps_of<T>(pixels);
        const Results<T> results = {numbers<T>(made), outputs, bias ? bias->const_data_ptr<float>() : nullptr,
                                    added ? numbers<T>(*added) : nullptr, relu};
        const auto &loops = *winograd_loops<T>();
        over_strips(maps.tiles(), loops.strip(maps.channels), [&](int64_t begin, int64_t end) {
            loops.convolve(maps, numbers<T>(changed), results, begin, end);
        });
    });
    return made;
}

// The gradient of weights [outputs, C, 3, 3] in float32. Each thread sums its part of the tiles, of which its caches still hold
// some, and the sums are added in order. Where those of all threads would be too large, they share a part by the rows of the
// other basis.
template <class T>
Tensor gradient_of_weight(const Tensor &pixels, const Tensor &gradient) {
    const auto &loops = *winograd_loops<T>();
    const auto maps = maps_of<T>(pixels), given = maps_of<T>(gradient);
    const int64_t outputs = given.channels, channels = maps.channels, tiles = maps.tiles(), threads = at::get_num_threads();
    // Numbers of all sums.
    constexpr int64_t MOST = 1 << 24;
    const int64_t parts =
        std::clamp<int64_t>(threads, 1, std::max<int64_t>(1, MOST / (16 * outputs * channels)));
    auto sums = at::zeros({parts, 16, outputs, channels}, pixels.options().dtype(at::kFloat));
    float *of_places = sums.mutable_data_ptr<float>();
    shared(4 * parts, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; task++) {
            const int64_t part = task / 4;
            loops.sum(maps, given, static_cast<int>(task % 4), of_places + task * 4 * outputs * channels,
                      tiles * part / parts, tiles * (part + 1) / parts);
        }
    });
    auto of_weight = at::empty({outputs, 3, 3, channels}, sums.options());
    shared(outputs, [&, to = of_weight.mutable_data_ptr<float>()](int64_t begin, int64_t end) {
        loops.kernel_gradient(of_places, parts, outputs, channels, to, begin, end);
    });
    return of_weight.permute({0, 3, 1, 2});
}

struct Convolution : torch::autograd::Function<Convolution> {
    static Tensor forward(AutogradContext *context, Tensor x, Tensor weight, std::optional<Tensor> bias) {
        const auto pixels = pixels_first(x);
        context->save_for_backward({pixels, weight});
        context->saved_data["has_bias"] = bias.has_value();
        return convolved(pixels, changed_weight(weight, x.scalar_type(), false), weight.size(0), bias, std::nullopt, false)
            .permute({0, 3, 1, 2});
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &pixels = saved[0], &weight = saved[1];
        const auto gradient = pixels_first(gradients[0]);
        Tensor of_x, of_bias;
        if (context->needs_input_grad(0))
            of_x = convolved(gradient, changed_weight(weight, pixels.scalar_type(), true), weight.size(1), std::nullopt,
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

// Whether the functions below can be called on this processor for maps of float32, or else of bfloat16, and are worth it.
extern "C" bool distillery_has_winograd(bool is_float) {
    return is_float ? winograd_loops<float>() != nullptr : winograd_loops<Brain>() != nullptr;
}

// The convolution of x [B, C, H, W], float32 or bfloat16, by weight [outputs, C, 3, 3] with a bias [outputs] or none, both
// float32. C and outputs are multiples of CHANNELS.
extern "C" char *distillery_winograd(Tensor **result, const Tensor *x, const Tensor *weight, const Tensor *bias) {
    return guarded([&] { *result = new Tensor(Convolution::apply(*x, *weight, optional(bias))); });
}

// The weight of `distillery_frozen_winograd` for maps of float32, or else of bfloat16: [16, outputs, C].
extern "C" char *distillery_winograd_weight(Tensor **result, const Tensor *weight, bool is_float) {
    return guarded([&] { *result = new Tensor(changed_weight(*weight, is_float ? at::kFloat : at::kBFloat16, false)); });
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
