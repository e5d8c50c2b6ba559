// Numbers as maps store them, for loops over maps whose channels are last.
#pragma once

#include <cstdint>

// bfloat16 as it is stored.
struct Brain {
    uint16_t bits;
};

// The instruction sets that loops are compiled for, and the choice among them when the program runs: see build.rs.
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
