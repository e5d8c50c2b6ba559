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

// A step of LAMB in timm's formulation. `step` holds its number, from 1. Vectors, such as biases, have no weight decay
// and no rate of their own; without weight decay nothing has.
extern "C" char *distillery_lamb(const Tensor *const *parameters, const Tensor *const *gradients,
                                 const Tensor *const *first, const Tensor *const *second, int64_t count, const Tensor *rate,
                                 const Tensor *step, double beta1, double beta2, double weight_decay, double epsilon) {
    return guarded([&] {
        const auto values = list(parameters, count), slopes = list(gradients, count);
        auto means = list(first, count), squares = list(second, count);
        at::_foreach_mul_(means, beta1);
        at::_foreach_add_(means, slopes, 1.0 - beta1);
        at::_foreach_mul_(squares, beta2);
        at::_foreach_addcmul_(squares, slopes, slopes, 1.0 - beta2);
        const auto number = step->to(at::kDouble);
        const auto correction = [&](double beta) { return 1.0 - at::pow(at::Scalar(beta), number); };
        auto roots = at::_foreach_sqrt(squares);
        at::_foreach_mul_(roots, correction(beta2).rsqrt().to(at::kFloat));
        at::_foreach_add_(roots, epsilon);
        auto updates = at::_foreach_div(means, roots);
        at::_foreach_mul_(updates, correction(beta1).reciprocal().to(at::kFloat));
        for (int64_t i = 0; weight_decay != 0 && i < count; i++) {
            if (values[i].dim() <= 1) continue;
            updates[i].add_(values[i], weight_decay);
            const auto of_value = at::linalg_vector_norm(values[i], 2), of_update = at::linalg_vector_norm(updates[i], 2);
            const auto is_usable = (of_value > 0).logical_and(of_update > 0);
            updates[i].mul_(at::where(is_usable, of_value / of_update, at::ones_like(of_value)));
        }
        at::_foreach_mul_(updates, *rate);
        at::_foreach_sub_(values, updates);
    });
}

// Moves each average towards its tensor: average + weight * (tensor - average).
extern "C" char *distillery_average(const Tensor *const *averages, const Tensor *const *tensors, int64_t count, double weight) {
    return guarded([&] { at::_foreach_lerp_(list(averages, count), list(tensors, count), weight); });
}
