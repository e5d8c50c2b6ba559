// Several processes that train one network, by libtorch's own c10d: Gloo between CPUs, NCCL (nccl.cpp) between GPUs.
// Gradients are averaged by the reducer of DistributedDataParallel, in buckets and while backward still runs.
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

// Of one exchange. A rank that dies is noticed by its parent at once; this is for one that hangs, and longer than an
// evaluation that the others wait for.
constexpr std::chrono::hours PATIENCE(12);
// Of the others' start, which loads data.
constexpr std::chrono::hours PATIENCE_TO_MEET(2);

std::vector<at::Tensor> list(at::Tensor *const *tensors, int64_t count) {
    std::vector<at::Tensor> all;
    all.reserve(count);
    for (int64_t i = 0; i < count; i++) all.push_back(*tensors[i]);
    return all;
}

}  // namespace

// Meets the other ranks by a file that all of them can write. Without `make` Gloo serves GPUs as well.
extern "C" char *distillery_ranks_meet(Ranks **result, const char *file, int rank, int count, MakeBackend make) {
    return guarded([&] {
        auto store = c10::make_intrusive<c10d::FileStore>(file, count);
        store->setTimeout(PATIENCE_TO_MEET);
        auto options = ProcessGroupGloo::Options::create(PATIENCE);
        options->devices.push_back(ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
        auto group = c10::make_intrusive<ProcessGroup>(store, rank, count);
        auto gloo = c10::make_intrusive<ProcessGroupGloo>(store, rank, count, options);
        group->setBackend(at::kCPU, ProcessGroup::BackendType::GLOO, gloo);
        if (make) {
            auto backend = c10::intrusive_ptr<c10d::Backend>::unsafe_steal_from_new(make(store, rank, count, PATIENCE));
            group->setBackend(at::kCUDA, ProcessGroup::BackendType::NCCL, backend);
        } else {
            group->setBackend(at::kCUDA, ProcessGroup::BackendType::GLOO, gloo);
        }
        *result = new Ranks{group, nullptr};
    });
}

// All ranks' sum, or the least of their values, in place.
extern "C" char *distillery_ranks_combine(Ranks *ranks, const at::Tensor *tensor, bool least) {
    return guarded([&] {
        std::vector<at::Tensor> tensors{*tensor};
        c10d::AllreduceOptions options;
        options.reduceOp = least ? c10d::ReduceOp::MIN : c10d::ReduceOp::SUM;
        ranks->group->allreduce(tensors, options)->wait();
    });
}

// Overwrites tensors by those of rank 0.
extern "C" char *distillery_ranks_copy_first(Ranks *ranks, at::Tensor *const *tensors, int64_t count) {
    return guarded([&] {
        at::NoGradGuard guard;
        c10d::broadcast_coalesced(ranks->group, list(tensors, count), c10d::kDefaultBucketBytesCap);
    });
}

// From now on every backward of these parameters averages their gradients. They are given in the order of forward, and
// have no gradients afterwards.
extern "C" char *distillery_ranks_average(Ranks *ranks, at::Tensor *const *tensors, int64_t count) {
    return guarded([&] {
        const auto parameters = list(tensors, count);
        c10d::verify_params_across_processes(ranks->group, parameters, std::nullopt);
        const std::vector<bool> sparse(count, false);
        // A small first bucket, so that the exchange begins early.
        const std::vector<size_t> limits{c10d::kDefaultFirstBucketBytes, c10d::kDefaultBucketBytesCap};
        auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(parameters, limits, sparse));
        // Gradients come from the end.
        std::reverse(buckets.begin(), buckets.end());
        ranks->reducer = std::make_unique<c10d::Reducer>(
            parameters, buckets, ranks->group, sparse, c10d::kDefaultBucketBytesCap, /*find_unused_parameters=*/false,
            /*gradient_as_bucket_view=*/false, std::unordered_map<size_t, std::string>(), c10d::kDefaultFirstBucketBytes,
            /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>());
        // The reducer fills its buckets anew after the first step, in the order in which gradients came. Sums are rounded
        // otherwise then, so that is done before: a run that is resumed adds as one that was not interrupted.
        at::AutoGradMode enabled(true);
        auto loss = parameters[0].sum() * 0;
        for (int64_t i = 1; i < count; i++) loss = loss + parameters[i].sum() * 0;
        ranks->reducer->prepare_for_backward({loss});
        loss.backward();
        ranks->reducer->rebuild_buckets();
        for (const auto &parameter : parameters) parameter.mutable_grad().reset();
    });
}

// Precedes each backward.
extern "C" char *distillery_ranks_expect(Ranks *ranks, const at::Tensor *loss) {
    return guarded([&] {
        ranks->reducer->prepare_for_backward({*loss});
    });
}

extern "C" void distillery_ranks_part(Ranks *ranks) { delete ranks; }
