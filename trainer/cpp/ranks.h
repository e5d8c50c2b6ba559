// What ranks.cpp asks of nccl.cpp, which is a library of its own, since it needs CUDA.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

// A new backend for the GPUs of `count` ranks that meet in `store`.
using MakeBackend = c10d::Backend *(*)(const c10::intrusive_ptr<c10d::Store> &store, int rank, int count,
                                       std::chrono::milliseconds timeout);
