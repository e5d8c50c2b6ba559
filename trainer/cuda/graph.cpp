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

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

void attempt(const std::function<void()> &work) {
    try {
        work();
    } catch (const std::exception &) {
    }
}

// A graph that can be given up at any point of its recording.
class Recording : public at::cuda::CUDAGraph {
  public:
    // Ends a recording that failed. The device forgets it, but libtorch's allocator must be told, once: until then it
    // serves every allocation of this thread from the graph's pool.
    void abandon(c10::cuda::MempoolId_t pool) {
        attempt([&] { capture_end(); });
        // Then the destructor releases the pool, even if the graph could not be instantiated.
        if (capture_ended_) return;
        const auto device = c10::cuda::current_device();
        // Fails if the recording ended with an invalid graph, or did not begin.
        attempt([&] { allocator::endAllocateToPool(device, pool); });
        attempt([&] { allocator::releasePool(device, pool); });
    }
};

}  // namespace

// Makes `device` the thread's current one, with a stream of its own: the default stream cannot be recorded.
extern "C" char *distillery_cuda_begin(int8_t device) {
    return guarded([&] {
        c10::cuda::set_device(device);
        c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(false, device));
    });
}

// The thread's stream on `device`, a cudaStream_t, to which kernels of our own are issued.
extern "C" void *distillery_cuda_stream(int8_t device) { return c10::cuda::getCurrentCUDAStream(device).stream(); }

// Records the kernels that `work` issues to the thread's stream, without running them. `work` returns whether it
// succeeded, and must not throw. The graph owns the memory that `work` allocates.
extern "C" char *distillery_graph_record(Recording **made, bool (*work)(void *), void *context) {
    return guarded([&] {
        auto graph = std::make_unique<Recording>();
        c10::cuda::device_synchronize();
        // The graph has a memory pool of its own and cannot use memory that the allocator has cached.
        allocator::emptyCache();
        const auto pool = at::cuda::graph_pool_handle();
        try {
            graph->capture_begin(pool);
            if (!work(context)) throw std::runtime_error("an operation cannot be recorded");
            graph->capture_end();
        } catch (const std::exception &) {
            graph->abandon(pool);
            throw;
        }
        *made = graph.release();
    });
}

extern "C" char *distillery_graph_replay(Recording *graph) {
    return guarded([&] { graph->replay(); });
}

extern "C" void distillery_graph_free(Recording *graph) {
    attempt([&] { delete graph; });
}
