// Operators over all parameters at once, which the bindings do not expose: one or two launches instead of several for
// each parameter. On the CPU they compute the same as separate operators.
#include <ATen/ATen.h>

#include <vector>

#include "shim.h"

namespace {

using at::Tensor;

// Tensors from the pointers that the bindings hold.
std::vector<Tensor> list(const Tensor *const *tensors, int64_t count) {
    std::vector<Tensor> all;
    all.reserve(count);
    for (int64_t i = 0; i < count; i++) all.push_back(*tensors[i]);
    return all;
}

}  // namespace

// Removes the tensors' gradients, so that the next backward sets them rather than adding to zeros.
extern "C" char *distillery_drop_gradients(Tensor *const *tensors, int64_t count) {
    return guarded([&] {
        for (int64_t i = 0; i < count; i++) tensors[i]->mutable_grad().reset();
    });
}

// Scales gradients in place so that their total norm is at most `largest`. The result is the norm before that.
extern "C" char *distillery_clip(Tensor **result, const Tensor *const *gradients, int64_t count, double largest) {
    return guarded([&] {
        auto all = list(gradients, count);
        const auto norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(all)), 2);
        // Always multiplies, by one if the norm is small: branching on the norm would wait for the device.
        at::_foreach_mul_(all, ((norm + 1e-6).reciprocal() * largest).clamp_max(1.0));
        *result = new Tensor(norm);
    });
}

// A step of SGD. `momenta` is null without momentum.
extern "C" char *distillery_sgd(const Tensor *const *parameters, const Tensor *const *gradients, const Tensor *const *momenta,
                                int64_t count, const Tensor *rate, double weight_decay, double momentum, bool nesterov) {
    return guarded([&] {
        // The buffers start at zero, so the first step sets them to the gradient without special treatment.
        at::_fused_sgd_(list(parameters, count), list(gradients, count), list(momenta, momenta ? count : 0), weight_decay,
                        momentum, *rate, 0.0, nesterov, false, false);
    });
}

// A step of AdamW. `step` holds its number, from 1.
extern "C" char *distillery_adamw(const Tensor *const *parameters, const Tensor *const *gradients,
                                  const Tensor *const *first, const Tensor *const *second, int64_t count, const Tensor *rate,
                                  const Tensor *step, double beta1, double beta2, double weight_decay, double epsilon) {
    return guarded([&] {
        const std::vector<Tensor> steps(count, step->to(at::kFloat));
        at::_fused_adamw_(list(parameters, count), list(gradients, count), list(first, count), list(second, count), {}, steps,
                          *rate, beta1, beta2, weight_decay, epsilon, false, false);
    });
}
