// Settings and operations of libtorch for GPUs that its bindings do not expose.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/GradMode.h>

#include "shim.h"

// Restricts cuDNN to deterministic algorithms.
extern "C" char *distillery_deterministic() {
    return guarded([&] { at::globalContext().setDeterministicCuDNN(true); });
}

// Allows or forbids TF32 in float32 convolutions. `allowed` becomes the previous setting.
extern "C" char *distillery_tf32(bool *allowed) {
    return guarded([&] {
        auto &context = at::globalContext();
        const bool before = context.allowTF32CuDNN();
        context.setAllowTF32CuDNN(*allowed);
        *allowed = before;
    });
}

// A copy in pinned memory of the host, which GPUs read and write while they compute. (libtorch warns of its own
// function with a device, the one in the bindings, at every call.)
extern "C" char *distillery_pin(at::Tensor **result, const at::Tensor *tensor) {
    return guarded([&] { *result = new at::Tensor(tensor->pin_memory()); });
}

// Copies `source`, on a GPU, to `destination`, in pinned memory of the host, once the GPU gets there: the host does not
// wait. Both must live until then.
extern "C" char *distillery_copy_later(const at::Tensor *destination, const at::Tensor *source) {
    return guarded([&] {
        c10::NoGradGuard guard;
        destination->copy_(*source, /*non_blocking=*/true);
    });
}
