// A kernel of our own on a GPU. As in src/device/gpu_kernel.rs.
#pragma once

#include <c10/util/Exception.h>

struct GpuKernel {
    void *kernel;
    // cuLaunchKernel and cuGetErrorString.
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                  void **);
    int (*describe)(int, const char **);
    // distillery_cuda_stream of cuda/graph.cpp.
    void *(*stream)(int8_t);

    // Issues it, with its one argument, to this thread's stream on a GPU.
    template <class Arguments>
    void issue(Arguments &arguments, unsigned blocks, unsigned threads, int8_t device) const {
        void *parameters[] = {&arguments};
        const int status = launch(kernel, blocks, 1, 1, threads, 1, 1, 0, stream(device), parameters, nullptr);
        if (status == 0) return;
        const char *reason = nullptr;
        describe(status, &reason);
        TORCH_CHECK(false, "CUDA error: ", reason ? reason : "unknown", " (status ", status,
                    " of a kernel of our own)");
    }
};
