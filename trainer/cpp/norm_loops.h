// Loops of a batch norm over channels-last maps, once per instruction set.
//
// A map is a sequence of numbers in which the channels repeat. `width` is a multiple of the channels that whole vectors
// fill, and arrays of `width` floats hold a value for each number of such a period. `count` need not be a multiple of
// `width`.
#pragma once

#include "numbers.h"

// The instruction sets that loops are compiled for (see build.rs), and the choice among them at run time.
#if defined(__x86_64__)
#define FOR_EACH_VARIANT(DECLARE) DECLARE(baseline) DECLARE(v3) DECLARE(v4)
#define CHOOSE(function)                                       \
    (__builtin_cpu_supports("x86-64-v4")   ? v4::function()    \
     : __builtin_cpu_supports("x86-64-v3") ? v3::function()    \
                                           : baseline::function())
#else
#define FOR_EACH_VARIANT(DECLARE) DECLARE(baseline)
#define CHOOSE(function) baseline::function()
#endif

template <class T>
struct NormKernels {
    // Adds x - shift and its square to the sums.
    void (*moments)(const T *x, int64_t count, int64_t width, const float *shift, float *sum, float *squares);
    // y = x * scale + offset, plus `added` unless it is null, with a ReLU if `relu`.
    void (*apply)(const T *x, const T *added, T *y, int64_t count, int64_t width, const float *scale, const float *offset,
                  bool relu);
    // Let g be the gradient of y, set to zero where the ReLU's output y is zero (y is null without a ReLU). Adds g and
    // g * (x - mean) to the sums, and writes g to `cleared` unless that is null.
    void (*gradient_sums)(const T *gradient, const T *y, const T *x, T *cleared, int64_t count, int64_t width,
                          const float *mean, float *sum, float *products);
    // The gradient of x: g * factor + x * slope + constant.
    void (*gradient)(const T *gradient, const T *y, const T *x, T *result, int64_t count, int64_t width, const float *factor,
                     const float *slope, const float *constant);
};

template <class T>
NormKernels<T> norm_kernels();
