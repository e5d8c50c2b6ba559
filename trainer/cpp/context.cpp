// How libtorch computes on GPUs, where its bindings leave that open.
#include <ATen/Context.h>

#include "shim.h"

// Whether float32 may be multiplied with 10 bits of mantissa, and whether cuDNN tries several algorithms for each size.
// It always takes such as give the same every time.
extern "C" char *distillery_cuda_arithmetic(bool tf32, bool benchmark) {
    return guarded([&] {
        auto &context = at::globalContext();
        context.setAllowTF32CuDNN(tf32);
        context.setAllowTF32CuBLAS(tf32);
        context.setDeterministicCuDNN(true);
        context.setBenchmarkCuDNN(benchmark);
    });
}
