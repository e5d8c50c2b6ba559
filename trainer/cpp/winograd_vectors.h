// Vectors and small matrix products of one instruction set, for winograd_loops.cpp alone.
#pragma once

#include <cstring>

#include "winograd_loops.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
// Numbers in a vector, and rows of a product that are summed at a time: with two vectors per row, as many sums as fit
// into the registers beside the factors.
constexpr int64_t LANES = 16;
constexpr int ROWS = 8, GRADIENT_ROWS = 8;
#else
constexpr int64_t LANES = 8;
constexpr int ROWS = 6, GRADIENT_ROWS = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));

template <class T>
inline T read(const void *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Vector load(const float *from) { return read<Vector>(from); }
inline void store(float *to, Vector value) { std::memcpy(to, &value, sizeof value); }

#if defined(__AVX512BF16__)
using Number = Bfloat16;
// Products that one instruction adds to each sum.
constexpr int64_t DEPTH = 2;

inline Vector load(const Bfloat16 *from) {
    const auto halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline void store(Bfloat16 *to, Vector value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), (__m256i)_mm512_cvtneps_pbh(value));
}

// Interleaves the numbers of DEPTH rows, as the products read them.
inline void store_interleaved(Bfloat16 *to, const Vector (&rows)[DEPTH]) {
    alignas(64) static const uint16_t ORDER[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const auto both = (__m512i)_mm512_cvtne2ps_pbh(rows[1], rows[0]);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(ORDER), both));
}

struct Factor {
    __m512bh own;

    static Factor vector(const Bfloat16 *from) { return {(__m512bh)_mm512_loadu_si512(from)}; }
    static Factor repeated(const Bfloat16 *from) { return {(__m512bh)_mm512_set1_epi32(read<int32_t>(from))}; }
    Vector add_product(Vector sum, Factor other) const { return _mm512_dpbf16_ps(sum, own, other.own); }
};
#else
using Number = float;
constexpr int64_t DEPTH = 1;

inline void store_interleaved(float *to, const Vector (&rows)[DEPTH]) { store(to, rows[0]); }

struct Factor {
    Vector own;

    static Factor vector(const float *from) { return {load(from)}; }
    static Factor repeated(const float *from) { return {Vector{} + *from}; }
    Vector add_product(Vector sum, Factor other) const { return sum + own * other.own; }
};
#endif

// The product [M, N·LANES] of a matrix of M rows and a matrix of N vectors per row, DEPTH of whose rows are
// interleaved.
template <int M, int N>
struct Products {
    Vector sums[M][N];

    // `steps` is the inner dimension divided by DEPTH, at least 1. `row` and `vector` are the distances from one row or
    // vector to the next, `row_step` and `vector_step` those from one step to the next.
    inline void multiply(const Number *rows, int64_t row, int64_t row_step, const Number *vectors, int64_t vector,
                         int64_t vector_step, int64_t steps) {
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) sums[m][n] = Vector{};
        int64_t step = 0;
        do {
            Factor taken[N];
            for (int n = 0; n < N; n++) taken[n] = Factor::vector(vectors + n * vector + step * vector_step);
            for (int m = 0; m < M; m++) {
                const auto repeated = Factor::repeated(rows + m * row + step * row_step);
                for (int n = 0; n < N; n++) sums[m][n] = taken[n].add_product(sums[m][n], repeated);
            }
        } while (++step < steps);
    }
};

}  // namespace
