// How libtorch computes on GPUs, where its bindings leave that open.
#include <ATen/Context.h>

#include "shim.h"

// Has cuDNN take only algorithms that give the same every time.
extern "C" char *distillery_deterministic() {
    return guarded([&] { at::globalContext().setDeterministicCuDNN(true); });
}

// Lets convolutions of float32 be multiplied with 10 bits of mantissa, or not; `allowed` becomes what was before.
extern "C" char *distillery_tf32(bool *allowed) {
    return guarded([&] {
        auto &context = at::globalContext();
        const bool before = context.allowTF32CuDNN();
        context.setAllowTF32CuDNN(*allowed);
        *allowed = before;
    });
}
