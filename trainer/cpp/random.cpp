// Random masks for dropout and stochastic depth, and counters of batches.
#include <ATen/ATen.h>

#include <vector>

#include "parallel.h"
#include "shim.h"

namespace {

constexpr uint64_t INCREMENT = 0x9e3779b97f4a7c15;
// Elements that a thread takes at a time.
constexpr int64_t GRAIN = 1 << 14;

// splitmix64's hash.
inline uint64_t hash(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

}  // namespace

// A float32 tensor whose element i is `value` if the first 24 bits of splitmix64's output i are below the threshold,
// else 0. The state is a hash of the key and of the step, an int64 scalar on the CPU.
extern "C" char *distillery_mask(at::Tensor **result, const int64_t *size, int64_t dimensions, const at::Tensor *step, uint64_t key,
                                 uint32_t threshold, double value) {
    return guarded([&] {
        const auto number = static_cast<uint64_t>(*step->const_data_ptr<int64_t>());
        const uint64_t state = hash((number * INCREMENT) ^ key);
        const auto mask = at::empty(at::IntArrayRef(size, dimensions), at::kFloat);
        auto *to = mask.mutable_data_ptr<float>();
        const auto one = static_cast<float>(value);
        at::parallel_for(0, mask.numel(), GRAIN, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const uint64_t drawn = hash(state + (static_cast<uint64_t>(i) + 1) * INCREMENT) >> 40;
                to[i] = drawn < threshold ? one : 0.0f;
            }
        });
        *result = new at::Tensor(mask);
    });
}

// Adds a number to each of some tensors in place.
extern "C" char *distillery_count(at::Tensor *const *tensors, int64_t count, int64_t by) {
    return guarded([&] {
        std::vector<at::Tensor> all;
        all.reserve(count);
        for (int64_t i = 0; i < count; i++) all.push_back(*tensors[i]);
        at::_foreach_add_(all, at::Scalar(by));
    });
}
