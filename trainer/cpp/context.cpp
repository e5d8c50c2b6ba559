// Settings of libtorch for GPUs that its bindings do not expose.
#include <ATen/Context.h>

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
