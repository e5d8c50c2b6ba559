// CUDA graphs: what is issued to a GPU is recorded once and issued again as a whole. libtorch has them; its bindings do not.
//
// Linked to libtorch's CUDA half, which the trainer must start without. So this is a library of its own, which is opened
// at run time: see src/cuda.rs. Without a driver every function says so and does nothing.
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

// Ends a recording that failed. The device goes on as if it had not been begun, but libtorch's allocator has to be told.
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

// Makes `device` the thread's, and has the thread issue to a stream of its own: the default one cannot be recorded.
extern "C" char *distillery_cuda_begin(int8_t device) {
    return guarded([&] {
        c10::cuda::set_device(device);
        c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(false, device));
    });
}

// Records what `work` issues to the thread's stream, without doing it. `work` says whether it went well; it must not
// throw. The memory that it takes is the graph's as long as that lives.
extern "C" char *distillery_graph_record(CUDAGraph **made, bool (*work)(void *), void *context) {
    return guarded([&] {
        auto graph = std::make_unique<CUDAGraph>();
        c10::cuda::device_synchronize();
        // What is kept for others is of no use to the graph, whose memory is apart.
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
