// Stored numbers: float32 and bfloat16. NVRTC gets this before each of the kernels that need it.
#ifndef DISTILLERY_NUMBERS
#define DISTILLERY_NUMBERS

#ifdef __CUDACC_RTC__
#define DEVICE __device__ inline
#else
#include <math.h>
#include <string.h>
#define DEVICE inline
#endif

namespace numbers {

DEVICE float of_bits(unsigned bits) {
#ifdef __CUDACC_RTC__
    return __uint_as_float(bits);
#else
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
#endif
}

DEVICE unsigned bits_of(float number) {
#ifdef __CUDACC_RTC__
    return __float_as_uint(number);
#else
    unsigned bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
#endif
}

DEVICE float not_a_number() { return of_bits(0x7fc00000u); }
DEVICE float minus_infinity() { return of_bits(0xff800000u); }

using Float32 = float;

// The upper half of a float32.
struct Bfloat16 {
    unsigned short bits;
};

DEVICE float load(const float *from, long long index) { return from[index]; }
DEVICE float load(const Bfloat16 *from, long long index) { return of_bits((unsigned)from[index].bits << 16); }
DEVICE void store(float *to, long long index, float number) { to[index] = number; }

// Rounds to the nearest, ties to even.
DEVICE void store(Bfloat16 *to, long long index, float number) {
    const unsigned bits = bits_of(number);
    to[index].bits = (unsigned short)(number != number ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace numbers

#undef DEVICE
#endif
