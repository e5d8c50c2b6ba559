// NCCL between the GPUs of several ranks, for cpp/ranks.cpp. Compiled only if NCCL's header is available.
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "../cpp/ranks.h"

extern "C" c10d::Backend *distillery_nccl_backend(const c10::intrusive_ptr<c10d::Store> &store, int rank, int world_size,
                                                  std::chrono::milliseconds timeout) {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world_size, options).release();
}
