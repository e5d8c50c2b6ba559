// What ranks.cpp needs from nccl.cpp, which is compiled into a library of its own because it needs CUDA.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

// Creates a backend for the GPUs of `world_size` ranks that join through `store`.
using MakeBackend = c10d::Backend *(*)(const c10::intrusive_ptr<c10d::Store> &store, int rank, int world_size,
                                       std::chrono::milliseconds timeout);
