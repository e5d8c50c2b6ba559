// CUDA graphs: kernels are recorded once and issued again as a whole. libtorch has them, its bindings do not.
//
// This is a library of its own, because it links to libtorch's CUDA half, without which the trainer must be able to
// start. It is loaded at run time: see src/device/cuda.rs. Without a driver every function returns an error.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <functional>
#include <memory>
#include <stdexcept>

#include "../cpp/shim.h"

using at::cuda::CUDAGraph;

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

void attempt(const std::function<void()> &work) {
    try {
        work();
    } catch (const std::exception &) {
    }
}

// Ends a recording that failed. The device forgets it, but libtorch's allocator must be told.
void abandon(CUDAGraph &graph, c10::cuda::MempoolId_t pool) {
    try {
        graph.capture_end();
    } catch (const std::exception &) {
        const auto device = c10::cuda::current_device();
        attempt([&] { allocator::endAllocateToPool(device, pool); });
        attempt([&] { allocator::releasePool(device, pool); });
    }
}

}  // namespace

// Makes `device` the thread's current one, with a stream of its own: the default stream cannot be recorded.
extern "C" char *distillery_cuda_begin(int8_t device) {
    return guarded([&] {
        c10::cuda::set_device(device);
        c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(false, device));
    });
}

// Records the kernels that `work` issues to the thread's stream, without running them. `work` returns whether it
// succeeded, and must not throw. The graph owns the memory that `work` allocates.
extern "C" char *distillery_graph_record(CUDAGraph **made, bool (*work)(void *), void *context) {
    return guarded([&] {
        auto graph = std::make_unique<CUDAGraph>();
        c10::cuda::device_synchronize();
        // The graph has a memory pool of its own and cannot use memory that the allocator has cached.
        allocator::emptyCache();
        const auto pool = at::cuda::graph_pool_handle();
        graph->capture_begin(pool);
        if (!work(context)) {
            abandon(*graph, pool);
            throw std::runtime_error("an operation cannot be recorded");
        }
        try {
            graph->capture_end();
        } catch (const std::exception &) {
            abandon(*graph, pool);
            throw;
        }
        *made = graph.release();
    });
}

extern "C" char *distillery_graph_replay(CUDAGraph *graph) {
    return guarded([&] { graph->replay(); });
}

extern "C" void distillery_graph_free(CUDAGraph *graph) {
    attempt([&] { delete graph; });
}
