// Batch norm in training mode, with the sum and the ReLU that follow it, by the kernels of cuda/kernels/batch_norm.cuh.
// On the CPU, norm.cpp is faster.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "../cuda/kernels/batch_norm.cuh"
#include "gpu_kernel.h"
#include "parallel.h"
#include "shim.h"

// The kernels in the order of NormPass. As in src/device/norm_kernel.rs.
struct NormLaunches {
    GpuKernel passes[4];
};

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum NormPass { MOMENTS, APPLY, GRADIENT_SUMS, GRADIENT };

template <class T>
void norm_on_cpu(NormPass pass, const batch_norm::Arguments &arguments, int blocks) {
    const batch_norm::Block block{};
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t index = begin; index < end; index++) {
            batch_norm::Shared shared;
            const int number = static_cast<int>(index);
            switch (pass) {
                case MOMENTS: batch_norm::moments<T>(block, arguments, number, shared); break;
                case APPLY: batch_norm::apply<T>(block, arguments, number, shared); break;
                case GRADIENT_SUMS: batch_norm::gradient_sums<T>(block, arguments, number, shared); break;
                case GRADIENT: batch_norm::gradient<T>(block, arguments, number, shared); break;
            }
        }
    });
}

// The map tells device and kind.
void run_norm(NormPass pass, batch_norm::Arguments &arguments, const Tensor &map, const NormLaunches *gpu) {
    const int blocks = batch_norm::tiles(arguments) * arguments.parts_count;
    if (gpu)
        gpu->passes[pass].issue(arguments, static_cast<unsigned>(blocks), batch_norm::LANES * batch_norm::ROWS,
                                map.get_device());
    else if (map.scalar_type() == at::kBFloat16)
        norm_on_cpu<batch_norm::Bfloat16>(pass, arguments, blocks);
    else
        norm_on_cpu<float>(pass, arguments, blocks);
}

// What both directions have in common. `parts` gets the scratch memory.
batch_norm::Arguments norm_arguments(const Tensor &x, const Tensor &weight, const Tensor &mean, const Tensor &inverse,
                                     Tensor &parts) {
    batch_norm::Arguments arguments{};
    arguments.pixels = x.numel() / x.size(1);
    arguments.channels = static_cast<int>(x.size(1));
    const long long by_size = arguments.pixels / batch_norm::LEAST_PIXELS;
    arguments.parts_count = static_cast<int>(std::clamp<long long>(by_size, 1, batch_norm::MOST_PARTS));
    parts = at::empty({2, arguments.parts_count, arguments.channels}, weight.options());
    arguments.x = x.data_ptr();
    arguments.weight = weight.data_ptr<float>();
    arguments.mean = mean.data_ptr<float>();
    arguments.inverse = inverse.data_ptr<float>();
    arguments.parts = parts.data_ptr<float>();
    return arguments;
}

struct KernelNorm : torch::autograd::Function<KernelNorm> {
    static Tensor forward(AutogradContext *context, Tensor x, std::optional<Tensor> summand, Tensor weight, Tensor bias,
                          Tensor running_mean, Tensor running_variance, bool relu, double momentum, double epsilon,
                          const NormLaunches *gpu) {
        TORCH_CHECK(x.dim() == 4 && x.numel() > x.size(1), "a batch norm of ", x.sizes(), " has no variance");
        TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, "batch norm's kernels take no ",
                    x.scalar_type());
        TORCH_CHECK(x.size(1) <= std::numeric_limits<int>::max() / batch_norm::MOST_PARTS, "too many channels");
        for (const Tensor &of_channels : {weight, bias, running_mean, running_variance})
            TORCH_CHECK(of_channels.numel() == x.size(1) && of_channels.is_contiguous(), "a batch norm of ", x.sizes(),
                        " has weights of ", of_channels.sizes());
        TORCH_CHECK(!summand || (summand->sizes() == x.sizes() && summand->scalar_type() == x.scalar_type()),
                    "another map is added to that of a batch norm");
        x = x.contiguous(at::MemoryFormat::ChannelsLast);
        const auto added = summand ? summand->contiguous(at::MemoryFormat::ChannelsLast) : Tensor();
        const auto mean = at::empty_like(weight), inverse = at::empty_like(weight);
        const auto y = at::empty_like(x);
        Tensor parts;
        auto arguments = norm_arguments(x, weight, mean, inverse, parts);
        arguments.added = added.defined() ? added.data_ptr() : nullptr;
        arguments.made = y.data_ptr();
        arguments.bias = bias.data_ptr<float>();
        arguments.running_mean = running_mean.data_ptr<float>();
        arguments.running_variance = running_variance.data_ptr<float>();
        arguments.has_relu = relu;
        arguments.momentum = momentum;
        arguments.epsilon = epsilon;
        run_norm(MOMENTS, arguments, x, gpu);
        run_norm(APPLY, arguments, x, gpu);
        context->saved_data["adds"] = added.defined();
        // It is never freed.
        context->saved_data["gpu"] = reinterpret_cast<int64_t>(gpu);
        context->save_for_backward({x, relu ? y : Tensor(), weight, mean, inverse});
        return y;
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &x = saved[0], &y = saved[1], &weight = saved[2];
        const bool adds = context->saved_data["adds"].toBool();
        const auto gpu = reinterpret_cast<const NormLaunches *>(context->saved_data["gpu"].toInt());
        const auto gradient = gradients[0].to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
        // The gradient of the summand is the one behind the ReLU.
        const bool clears = adds && y.defined();
        const auto cleared = clears ? at::empty_like(x) : Tensor();
        const auto of_x = at::empty_like(x), of_weight = at::empty_like(weight), of_bias = at::empty_like(weight);
        Tensor parts;
        auto arguments = norm_arguments(x, weight, saved[3], saved[4], parts);
        arguments.y = y.defined() ? y.data_ptr() : nullptr;
        arguments.gradient = gradient.data_ptr();
        arguments.cleared = clears ? cleared.data_ptr() : nullptr;
        arguments.made = of_x.data_ptr();
        arguments.of_weight = of_weight.data_ptr<float>();
        arguments.of_bias = of_bias.data_ptr<float>();
        run_norm(GRADIENT_SUMS, arguments, x, gpu);
        if (clears) {
            // Then y need not be read again.
            arguments.gradient = cleared.data_ptr();
            arguments.y = nullptr;
        }
        run_norm(GRADIENT, arguments, x, gpu);
        variable_list found(10);
        found[0] = of_x;
        if (adds) found[1] = clears ? cleared : gradient;
        found[2] = of_weight;
        found[3] = of_bias;
        return found;
    }
};

}  // namespace

// `gpu` is null on the CPU, and is not freed while gradients may still be computed.
extern "C" char *distillery_norm_by_kernels(at::Tensor **result, const at::Tensor *x, const at::Tensor *added,
                                            const at::Tensor *weight, const at::Tensor *bias,
                                            const at::Tensor *running_mean, const at::Tensor *running_variance,
                                            bool relu, double momentum, double epsilon, const NormLaunches *gpu) {
    return guarded([&] {
        const auto summand = added ? std::optional<at::Tensor>(*added) : std::nullopt;
        *result = new at::Tensor(KernelNorm::apply(*x, summand, *weight, *bias, *running_mean, *running_variance, relu,
                                                   momentum, epsilon, gpu));
    });
}
