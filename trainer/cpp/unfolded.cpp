// bfloat16 convolutions whose weight's gradient is one matrix product. In oneDNN's own kernels for that gradient,
// threads wait for each other at every image and spin: if cores are shared with other work, a step takes ten times as
// long.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "shim.h"

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t ONES[2] = {1, 1}, ZEROS[2] = {0, 0};

// Unfolds maps [B, C, H, W]: for each of the [height, width] results, the pixels that it depends on, zero beyond the
// edges: [B·height·width, side·side·C].
Tensor columns(const Tensor &maps, int64_t side, int64_t by, int64_t padding, int64_t height, int64_t width) {
    const auto pixels = maps.permute({0, 2, 3, 1}).contiguous();
    if (side == 1 && by == 1) return pixels.view({-1, pixels.size(3)});
    const auto padded = padding ? at::constant_pad_nd(pixels, {0, 0, padding, padding, padding, padding}) : pixels;
    const int64_t channels = pixels.size(3);
    const auto stride = padded.strides();
    const auto around = padded.as_strided({pixels.size(0), height, width, side, side * channels},
                                          {stride[0], by * stride[1], by * stride[2], stride[1], 1});
    return around.reshape({pixels.size(0) * height * width, side * side * channels});
}

struct Unfolded : torch::autograd::Function<Unfolded> {
    static Tensor forward(AutogradContext *context, Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t stride,
                          int64_t padding) {
        const auto own = weight.to(x.scalar_type());
        context->save_for_backward({x, own});
        context->saved_data["stride"] = stride;
        context->saved_data["padding"] = padding;
        context->saved_data["has_bias"] = bias.has_value();
        const auto offset = bias ? std::optional(bias->to(x.scalar_type())) : std::nullopt;
        return at::conv2d(x, own, offset, {stride, stride}, {padding, padding}, ONES, 1);
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &x = saved[0], &weight = saved[1], &gradient = gradients[0];
        const int64_t stride = context->saved_data["stride"].toInt(), padding = context->saved_data["padding"].toInt();
        const int64_t side = weight.size(2), outputs = weight.size(0);
        Tensor of_x, of_bias;
        if (context->needs_input_grad(0))
            of_x = std::get<0>(at::convolution_backward(gradient, x, weight, std::nullopt, {stride, stride}, {padding, padding}, ONES,
                                                        false, ZEROS, 1, {true, false, false}));
        const auto pixels = gradient.permute({0, 2, 3, 1}).reshape({-1, outputs});
        const auto products = at::mm(pixels.t(), columns(x, side, stride, padding, gradient.size(2), gradient.size(3)));
        // Has the strides of the weight.
        const auto of_weight = products.to(at::kFloat).view({outputs, side, side, -1}).permute({0, 3, 1, 2});
        if (context->saved_data["has_bias"].toBool()) of_bias = gradient.sum({0, 2, 3}, false, at::kFloat);
        return {of_x, of_weight, of_bias, Tensor(), Tensor()};
    }
};

}  // namespace

// Convolves x [B, C, H, W] (bfloat16) with weight [outputs, C, side, side] and, if not null, bias [outputs], both
// float32.
extern "C" char *distillery_unfolded(Tensor **result, const Tensor *x, const Tensor *weight, const Tensor *bias, int64_t stride,
                                     int64_t padding) {
    return guarded([&] {
        const auto offset = bias ? std::optional(*bias) : std::nullopt;
        *result = new Tensor(Unfolded::apply(*x, *weight, offset, stride, padding));
    });
}
