// Types of stored numbers.
#pragma once

#include <cstdint>

// The upper half of a float32.
struct Bfloat16 {
    uint16_t bits;
};
