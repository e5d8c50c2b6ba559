// Processes that train one network together, through libtorch's c10d: Gloo between CPUs, NCCL (nccl.cpp) between GPUs.
// Gradients are averaged by the reducer of DistributedDataParallel, in buckets, while backward still runs.
#define USE_C10D_GLOO 1
#include "ranks.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "shim.h"

namespace {

using c10d::ProcessGroup;
using c10d::ProcessGroupGloo;

struct Ranks {
    c10::intrusive_ptr<ProcessGroup> group;
    std::unique_ptr<c10d::Reducer> reducer;
};

// For one exchange: longer than an evaluation, during which other ranks wait. It is for a rank that hangs; the parent
// notices at once if one dies.
constexpr std::chrono::hours EXCHANGE_TIMEOUT(12);
// For joining: the other ranks load their data first.
constexpr std::chrono::hours JOIN_TIMEOUT(2);

std::vector<at::Tensor> list(at::Tensor *const *tensors, int64_t count) {
    std::vector<at::Tensor> all;
    all.reserve(count);
    for (int64_t i = 0; i < count; i++) all.push_back(*tensors[i]);
    return all;
}

}  // namespace

// Joins the other ranks through a file that all of them can write. Without `make`, Gloo serves GPUs as well.
extern "C" char *distillery_ranks_join(Ranks **result, const char *file, int rank, int world_size, MakeBackend make) {
    return guarded([&] {
        auto store = c10::make_intrusive<c10d::FileStore>(file, world_size);
        store->setTimeout(JOIN_TIMEOUT);
        auto options = ProcessGroupGloo::Options::create(EXCHANGE_TIMEOUT);
        options->devices.push_back(ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
        auto group = c10::make_intrusive<ProcessGroup>(store, rank, world_size);
        auto gloo = c10::make_intrusive<ProcessGroupGloo>(store, rank, world_size, options);
        group->setBackend(at::kCPU, ProcessGroup::BackendType::GLOO, gloo);
        if (make) {
            auto backend =
                c10::intrusive_ptr<c10d::Backend>::unsafe_steal_from_new(make(store, rank, world_size, EXCHANGE_TIMEOUT));
            group->setBackend(at::kCUDA, ProcessGroup::BackendType::NCCL, backend);
        } else {
            group->setBackend(at::kCUDA, ProcessGroup::BackendType::GLOO, gloo);
        }
        *result = new Ranks{group, nullptr};
    });
}

// Replaces a tensor by the sum, or the minimum, over all ranks.
extern "C" char *distillery_ranks_all_reduce(Ranks *ranks, const at::Tensor *tensor, bool min) {
    return guarded([&] {
        std::vector<at::Tensor> tensors{*tensor};
        c10d::AllreduceOptions options;
        options.reduceOp = min ? c10d::ReduceOp::MIN : c10d::ReduceOp::SUM;
        ranks->group->allreduce(tensors, options)->wait();
    });
}

// Overwrites tensors by rank 0's.
extern "C" char *distillery_ranks_broadcast(Ranks *ranks, at::Tensor *const *tensors, int64_t count) {
    return guarded([&] {
        at::NoGradGuard guard;
        c10d::broadcast_coalesced(ranks->group, list(tensors, count), c10d::kDefaultBucketBytesCap);
    });
}

// Makes every backward of these parameters average their gradients. The parameters come in the order of the forward
// pass and have no gradients afterwards.
extern "C" char *distillery_ranks_average(Ranks *ranks, at::Tensor *const *tensors, int64_t count) {
    return guarded([&] {
        const auto parameters = list(tensors, count);
        c10d::verify_params_across_processes(ranks->group, parameters, std::nullopt);
        const std::vector<bool> sparse(count, false);
        // A small first bucket lets the exchange begin early.
        const std::vector<size_t> limits{c10d::kDefaultFirstBucketBytes, c10d::kDefaultBucketBytesCap};
        auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(parameters, limits, sparse));
        // Backward begins with the last parameter.
        std::reverse(buckets.begin(), buckets.end());
        ranks->reducer = std::make_unique<c10d::Reducer>(
            parameters, buckets, ranks->group, sparse, c10d::kDefaultBucketBytesCap, /*find_unused_parameters=*/false,
            /*gradient_as_bucket_view=*/false, std::unordered_map<size_t, std::string>(), c10d::kDefaultFirstBucketBytes,
            /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>());
        // After the first step the reducer rebuilds its buckets in the order in which gradients came, which changes how
        // sums are rounded. Doing that here makes a resumed run add like one that was never interrupted.
        at::AutoGradMode enabled(true);
        auto loss = parameters[0].sum() * 0;
        for (int64_t i = 1; i < count; i++) loss = loss + parameters[i].sum() * 0;
        ranks->reducer->prepare_for_backward({loss});
        loss.backward();
        ranks->reducer->rebuild_buckets();
        for (const auto &parameter : parameters) parameter.mutable_grad().reset();
    });
}

// Must precede each backward.
extern "C" char *distillery_ranks_prepare_backward(Ranks *ranks, const at::Tensor *loss) {
    return guarded([&] {
        ranks->reducer->prepare_for_backward({*loss});
    });
}

extern "C" void distillery_ranks_leave(Ranks *ranks) { delete ranks; }
