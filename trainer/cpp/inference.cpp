// Convolutions of a frozen network. On the CPU, oneDNN adds and applies ReLU while it writes the result: libtorch has
// these operators for its compiler, and no header declares them, so they are called by name.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "shim.h"

namespace {

using at::Tensor;
using Pair = at::IntArrayRef;
using Scalars = c10::List<std::optional<at::Scalar>>;
using Text = std::optional<std::string_view>;
using Maybe = const std::optional<Tensor> &;
using Convolve = Tensor(const Tensor &, const Tensor &, Maybe, Pair, Pair, Pair, int64_t, std::string_view, Scalars, Text);
using ConvolveAdd = Tensor &(Tensor &, const Tensor &, const Tensor &, Maybe, Pair, Pair, Pair, int64_t, std::string_view,
                             std::optional<at::Scalar>, Text, Scalars, Text);
using Pack = Tensor(const Tensor &, Pair, Pair, Pair, int64_t, at::OptionalIntArrayRef);

template <class Signature>
auto find(const char *name, const char *overload) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).template typed<Signature>();
}

constexpr int64_t NOT_DILATED[2] = {1, 1};

}  // namespace

// A convolution with a bias, with a ReLU if `relu`. If `added` is not null, the result is the sum of both, in the
// memory of `added`.
extern "C" char *distillery_convolution(at::Tensor **result, const at::Tensor *x, const at::Tensor *weight,
                                        const at::Tensor *bias, const at::Tensor *added, const int64_t *stride,
                                        const int64_t *padding, int64_t groups, bool relu) {
    return guarded([&] {
        const Pair strides(stride, 2), paddings(padding, 2), dilations(NOT_DILATED, 2);
        if (added) {
            static const auto op = find<ConvolveAdd>("mkldnn::_convolution_pointwise_", "binary");
            Tensor sum = *added;
            op.call(sum, *x, *weight, *bias, paddings, strides, dilations, groups, "add", at::Scalar(1.0),
                    relu ? Text("relu") : Text(), Scalars(), Text());
            *result = new Tensor(sum);
        } else {
            static const auto op = find<Convolve>("mkldnn::_convolution_pointwise", "");
            *result = new Tensor(op.call(*x, *weight, *bias, paddings, strides, dilations, groups, relu ? "relu" : "none",
                                         Scalars(), Text("")));
        }
    });
}

// The weight in the layout that oneDNN prefers for an input of that size. Only for the function above.
extern "C" char *distillery_pack(at::Tensor **result, const at::Tensor *weight, const int64_t *stride, const int64_t *padding,
                                 int64_t groups, const int64_t *input) {
    return guarded([&] {
        static const auto op = find<Pack>("mkldnn::_reorder_convolution_weight", "");
        const Pair strides(stride, 2), paddings(padding, 2), dilations(NOT_DILATED, 2);
        *result = new Tensor(op.call(*weight, paddings, strides, dilations, groups, Pair(input, 4)));
    });
}

// A convolution with a bias, the sum with `added` if that is not null, and a ReLU in one kernel of cuDNN, which has
// none for some sizes. The bindings have it as well, but when an operator that takes a number throws, they end in a
// panic: they find the error while they free the number.
extern "C" char *distillery_convolution_of_cudnn(at::Tensor **result, const at::Tensor *x, const at::Tensor *weight,
                                                 const at::Tensor *bias, const at::Tensor *added, const int64_t *stride,
                                                 const int64_t *padding, int64_t groups) {
    return guarded([&] {
        const Pair strides(stride, 2), paddings(padding, 2), dilations(NOT_DILATED, 2);
        *result = new Tensor(
            added ? at::cudnn_convolution_add_relu(*x, *weight, *added, 1.0, *bias, strides, paddings, dilations, groups)
                  : at::cudnn_convolution_relu(*x, *weight, *bias, strides, paddings, dilations, groups));
    });
}
