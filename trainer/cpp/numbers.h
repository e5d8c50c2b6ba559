// Numbers as maps store them, for loops over maps whose channels are last.
#pragma once

#include <cstdint>

// bfloat16 as it is stored.
struct Brain {
    uint16_t bits;
};
