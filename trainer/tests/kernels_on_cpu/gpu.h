// What CUDA's language has and the kernels use, on a CPU. The threads of a block are coroutines: each runs until it waits
// for others, in an order that the caller chooses. Results that depend on the order show that the kernel does not wait
// where it should, and threads that wait for each other forever are an error.
#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace gpu {

constexpr int WARP = 32;
constexpr size_t STACK = 1 << 16;

struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
};

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool is_done = false;
};

struct Index {
    unsigned x;
};

inline ucontext_t scheduler;
inline std::vector<Thread> threads;
inline std::vector<Barrier> warps;
inline Barrier block;
// A number of each thread, for the others of its warp.
inline std::vector<unsigned> exchanged;
inline std::function<void()> kernel;
inline int current;
inline unsigned block_index, blocks;
// Barriers that were passed, and threads that ended.
inline long progress;

inline void wait(Barrier &barrier, int count) {
    const unsigned mine = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        barrier.generation++;
        progress++;
        return;
    }
    while (barrier.generation == mine) swapcontext(&threads[current].context, &scheduler);
}

template <class T>
T exchange(T value, int mask) {
    static_assert(sizeof(T) == sizeof(unsigned));
    const int thread = current, lane = thread % WARP;
    memcpy(&exchanged[thread], &value, sizeof value);
    wait(warps[thread / WARP], WARP);
    T other;
    memcpy(&other, &exchanged[thread - lane + (lane ^ mask)], sizeof other);
    wait(warps[thread / WARP], WARP);
    return other;
}

inline void run_thread() {
    kernel();
    threads[current].is_done = true;
    progress++;
}

// 0, 1, … in one of ORDERS orders.
constexpr int ORDERS = 3;
inline std::vector<int> in_order(int count, int order) {
    std::vector<int> all;
    for (int i = 0; i < count; i++) all.push_back(order == 1 ? count - 1 - i : i);
    if (order == 2)
        for (int i = 0; i + 1 < count; i += 2) std::swap(all[i], all[count - 1 - i]);
    return all;
}

inline void run_block(const std::vector<int> &order) {
    block = Barrier();
    warps.assign(order.size() / WARP, Barrier());
    for (Thread &thread : threads) {
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = &scheduler;
        makecontext(&thread.context, run_thread, 0);
        thread.is_done = false;
    }
    for (;;) {
        const long before = progress;
        bool is_done = true;
        for (const int index : order) {
            if (threads[index].is_done) continue;
            current = index;
            swapcontext(&scheduler, &threads[index].context);
            is_done = is_done && threads[index].is_done;
        }
        if (is_done) return;
        if (progress == before) {
            fprintf(stderr, "the threads of a block wait for each other\n");
            exit(2);
        }
    }
}

// Runs a kernel in blocks of `count` threads.
inline void launch(int number_of_blocks, int count, int order, std::function<void()> work) {
    if (static_cast<int>(threads.size()) != count) {
        threads = std::vector<Thread>(count);
        for (Thread &thread : threads) thread.stack = std::make_unique<char[]>(STACK);
        exchanged.resize(count);
    }
    kernel = std::move(work);
    blocks = number_of_blocks;
    for (const int index : in_order(number_of_blocks, order)) {
        block_index = index;
        run_block(in_order(count, order));
    }
}

}  // namespace gpu

#define __device__
#define __global__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(threads)
#define threadIdx (gpu::Index{static_cast<unsigned>(gpu::current)})
#define blockIdx (gpu::Index{gpu::block_index})
#define gridDim (gpu::Index{gpu::blocks})

inline void __syncthreads() { gpu::wait(gpu::block, static_cast<int>(gpu::threads.size())); }
inline void __threadfence() {}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return gpu::exchange(value, mask);
}

inline unsigned atomicAdd(unsigned *to, unsigned number) {
    const unsigned before = *to;
    *to += number;
    return before;
}

inline float __uint_as_float(unsigned bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

inline unsigned __float_as_uint(float number) {
    unsigned bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

inline float __fmul_rn(float one, float other) { return one * other; }
inline float __fadd_rn(float one, float other) { return one + other; }
