// Operators over all parameters at once, which the bindings do not have: one or two launches instead of several for each
// parameter. On the CPU they compute what one after the other would.
#include <ATen/ATen.h>

#include <vector>

#include "shim.h"

namespace {

using at::Tensor;

// Handles to tensors, as the bindings hold them.
std::vector<Tensor> list(const Tensor *const *tensors, int64_t count) {
    std::vector<Tensor> all;
    all.reserve(count);
    for (int64_t i = 0; i < count; i++) all.push_back(*tensors[i]);
    return all;
}

}  // namespace

// Leaves tensors without a gradient, so that the next way back hands its own over rather than adding it to zeros.
extern "C" char *distillery_drop_gradients(Tensor *const *tensors, int64_t count) {
    return guarded([&] {
        for (int64_t i = 0; i < count; i++) tensors[i]->mutable_grad().reset();
    });
}

// Scales gradients in place so that their common norm is at most `largest`; the result is the norm before that.
extern "C" char *distillery_clip(Tensor **result, const Tensor *const *gradients, int64_t count, double largest) {
    return guarded([&] {
        auto all = list(gradients, count);
        const auto norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(all)), 2);
        // Always multiplied, by one where the norm is small: to look at the norm would be to wait for the device.
        at::_foreach_mul_(all, ((norm + 1e-6).reciprocal() * largest).clamp_max(1.0));
        *result = new Tensor(norm);
    });
}

// A step of SGD; `momenta` are as many as parameters, or null where there is no momentum.
extern "C" char *distillery_sgd(const Tensor *const *parameters, const Tensor *const *gradients, const Tensor *const *momenta,
                                int64_t count, const Tensor *rate, double weight_decay, double momentum, bool nesterov) {
    return guarded([&] {
        // The buffers start at zero, so that the first step makes them the gradient without being told that it is the first.
        at::_fused_sgd_(list(parameters, count), list(gradients, count), list(momenta, momenta ? count : 0), weight_decay,
                        momentum, *rate, 0.0, nesterov, false, false);
    });
}

// A step of AdamW, the one whose number is in `step`.
extern "C" char *distillery_adamw(const Tensor *const *parameters, const Tensor *const *gradients,
                                  const Tensor *const *first, const Tensor *const *second, int64_t count, const Tensor *rate,
                                  const Tensor *step, double beta1, double beta2, double weight_decay, double epsilon) {
    return guarded([&] {
        const std::vector<Tensor> steps(count, step->to(at::kFloat));
        at::_fused_adamw_(list(parameters, count), list(gradients, count), list(first, count), list(second, count), {}, steps,
                          *rate, beta1, beta2, weight_decay, epsilon, false, false);
    });
}
