// Convolutions of 3×3 over very small maps of many channels, as products of matrices: oneDNN's own kernels work row by
// row, and rows of four pixels leave them at half the speed of a product. In bfloat16.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels.h"
#include "shim.h"

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor pixels_first(const Tensor &map) { return map.permute({0, 2, 3, 1}).contiguous(); }

// Of a map [B, H, W, C], the 3×3 pixels around each, zeros beyond the edges: [B·H·W, 9·C].
Tensor unfold(const Tensor &map) {
    const auto padded = at::constant_pad_nd(map, {0, 0, 1, 1, 1, 1});
    const auto size = map.sizes(), stride = padded.strides();
    const auto around = padded.as_strided({size[0], size[1], size[2], 3, 3 * size[3]},
                                          {stride[0], stride[1], stride[2], stride[1], 1});
    return around.reshape({size[0] * size[1] * size[2], 9 * size[3]});
}

// The other way around: sums what belongs to the same pixel.
Tensor fold(const Tensor &columns, at::IntArrayRef size) {
    static const auto kernel = fold_kernel();
    const int64_t height = size[1], width = size[2], channels = size[3], image = height * width * channels;
    auto map = at::empty(size, columns.options());
    const auto *from = static_cast<const Brain *>(columns.data_ptr());
    auto *to = static_cast<Brain *>(map.data_ptr());
    at::parallel_for(0, size[0], 1, [&](int64_t begin, int64_t end) {
        for (int64_t index = begin; index < end; index++)
            kernel(from + 9 * index * image, to + index * image, height, width, channels);
    });
    return map;
}

// [outputs, 9·C] of a kernel [outputs, C, 3, 3]: without a copy where its channels are last.
Tensor matrix(const Tensor &weight) { return weight.permute({0, 2, 3, 1}).reshape({weight.size(0), -1}); }

struct Convolution : torch::autograd::Function<Convolution> {
    static Tensor forward(AutogradContext *context, Tensor x, Tensor weight, std::optional<Tensor> bias) {
        context->save_for_backward({x, weight});
        context->saved_data["has_bias"] = bias.has_value();
        const auto y = at::linear(unfold(pixels_first(x)), matrix(weight), bias);
        return y.view({x.size(0), x.size(2), x.size(3), -1}).permute({0, 3, 1, 2});
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto map = pixels_first(saved[0]);
        const auto gradient = pixels_first(gradients[0]).view({-1, gradients[0].size(1)});
        const auto &weight = saved[1];
        Tensor of_x, of_weight, of_bias;
        if (context->needs_input_grad(0))
            of_x = fold(at::mm(gradient, matrix(weight)), map.sizes()).permute({0, 3, 1, 2});
        of_weight = at::mm(gradient.t(), unfold(map)).view({weight.size(0), 3, 3, -1}).permute({0, 3, 1, 2});
        if (context->saved_data["has_bias"].toBool()) of_bias = gradient.sum(0, false, at::kFloat).to(gradient.scalar_type());
        return {of_x, of_weight, of_bias};
    }
};

}  // namespace

// The convolution of x [B, C, H, W] by weight [outputs, C, 3, 3], with a stride and a padding of one and a bias
// [outputs] or none, all of them bfloat16.
extern "C" char *distillery_small_convolution(at::Tensor **result, const at::Tensor *x, const at::Tensor *weight,
                                              const at::Tensor *bias) {
    return guarded([&] {
        const auto offset = bias ? std::optional<at::Tensor>(*bias) : std::nullopt;
        *result = new at::Tensor(Convolution::apply(*x, *weight, offset));
    });
}
