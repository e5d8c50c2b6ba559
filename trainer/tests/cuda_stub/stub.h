// A stand-in for a GPU: what libtorch's CUDA half needs of CUDA's driver and runtime, cuBLAS, cuDNN, NVRTC and NCCL, so
// that it runs on a machine without one. Kernels do nothing, so no number is right. Device memory is the host's, and
// copies copy. All other functions do nothing and succeed; `build` generates them.
//
// What a real GPU forbids while a stream is recorded fails: waiting, and copies between host and device. Errors are
// injected with CUDA_STUB_ERRORS=cudaMalloc=2,launch=700@40: a function, the status that it returns, and from which of
// its calls on (default: the first). `launch` stands for all kernels, `synchronize` for all that waits, `fused` for
// graphs of cuDNN's with several operations. 214 and 700 are sticky, as with a real GPU. CUDA_STUB_RANK_ERRORS, if
// set, takes its place in the processes of other ranks than 0. CUDA_STUB_DEVICES is the number of GPUs (default: 1),
// each of CUDA_STUB_MEMORY bytes (default: 8 GiB), and CUDA_STUB_DRIVER the newest version of CUDA that the driver
// supports (default: 13000).
#pragma once

#include <stddef.h>

typedef void *pointer;

enum { INVALIDATED = 901, UNSUPPORTED_IN_CAPTURE = 900, OUT_OF_MEMORY = 2, ILLEGAL_ADDRESS = 700, ECC = 214 };

// Only functions of NVIDIA's libraries are to be seen from outside.
#pragma GCC visibility push(hidden)

// The status that is injected into this call of a function; 0 if none is.
int fails(const char *name);

// The last error of this thread, which CUDA's runtime remembers.
extern __thread int last;

// For functions of the runtime.
#define ENTER(name)                     \
    do {                                \
        const int code = fails(name);   \
        if (code) return (last = code); \
    } while (0)

// The newest CUDA that the driver supports: CUDA_STUB_DRIVER, or 13000 for 13.0.
int version_of_driver(void);

// The name of every GPU.
#define NAME "stub"

// The device of an address, -1 for pinned memory, -2 for the rest of the host's.
int device_of(const void *address);

#pragma GCC visibility pop

const char *cudaGetErrorString(int code);
