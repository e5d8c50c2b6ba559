// Compiled several times, with VARIANT the name of the instruction set: see numbers.h and build.rs.
#include "winograd_loops.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

// As many channels as are worked on together. The compiler makes of it what the instruction set has.
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline Vector load(const float *from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Vector load(const Brain *from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    Vector value;
    std::memcpy(&value, &words, sizeof value);
    return value;
}

inline void store(float *to, const Vector &value) { std::memcpy(to, &value, sizeof value); }

// To the nearest, ties to even. What is not a number, or infinite, stays so.
inline void store(Brain *to, const Vector &value) {
    Words bits;
    std::memcpy(&bits, &value, sizeof bits);
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Words special = (Words)((bits & 0x7fffffff) > 0x7f800000);
    const Halves halves = __builtin_convertvector((rounded & ~special) | (0x7fc0 & special), Halves);
    std::memcpy(to, &halves, sizeof halves);
}

// Calls work(tile, first row, first column, channel) for each tile and each group of channels.
template <class Work>
inline void each(Map size, Work work) {
    int64_t tile = 0;
    for (int64_t row = 0; row < size.height; row += 2)
        for (int64_t column = 0; column < size.width; column += 2, tile++)
            for (int64_t channel = 0; channel < size.channels; channel += LANES) work(tile, row, column, channel);
}

inline bool inside(Map size, int64_t row, int64_t column) {
    return row >= 0 && row < size.height && column >= 0 && column < size.width;
}

inline int64_t place(Map size, int64_t row, int64_t column, int64_t channel) {
    return (row * size.width + column) * size.channels + channel;
}

// Applies a change of basis to the columns of a square, then to its rows: from N×N to M×M.
template <int N, int M, class Change>
inline void both(const Vector (&from)[N][N], Vector (&to)[M][M], Change change) {
    Vector half[M][N], column[M];
    for (int j = 0; j < N; j++) {
        Vector taken[N];
        for (int i = 0; i < N; i++) taken[i] = from[i][j];
        change(taken, column);
        for (int i = 0; i < M; i++) half[i][j] = column[i];
    }
    for (int i = 0; i < M; i++) change(half[i], to[i]);
}

inline void load_tile(const Brain *tiles, int64_t stride, Vector (&to)[4][4]) {
    for (int i = 0; i < 16; i++) to[i / 4][i % 4] = load(tiles + i * stride);
}

inline void store_tile(const Vector (&from)[4][4], Brain *tiles, int64_t stride) {
    for (int i = 0; i < 16; i++) store(tiles + i * stride, from[i / 4][i % 4]);
}

void input(const Brain *map, Brain *tiles, int64_t stride, Map size) {
    each(size, [=](int64_t tile, int64_t row, int64_t column, int64_t channel) {
        Vector pixels[4][4], changed[4][4];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) {
                const int64_t y = row - 1 + i, x = column - 1 + j;
                pixels[i][j] = inside(size, y, x) ? load(map + place(size, y, x, channel)) : Vector{};
            }
        both(pixels, changed, [](const Vector (&d)[4], Vector (&to)[4]) {
            to[0] = d[0] - d[2];
            to[1] = d[1] + d[2];
            to[2] = d[2] - d[1];
            to[3] = d[1] - d[3];
        });
        store_tile(changed, tiles + tile * size.channels + channel, stride);
    });
}

void input_gradient(const Brain *tiles, int64_t stride, Brain *gradient, Map size) {
    std::vector<float> sums(size.height * size.width * size.channels);
    each(size, [&](int64_t tile, int64_t row, int64_t column, int64_t channel) {
        Vector changed[4][4], pixels[4][4];
        load_tile(tiles + tile * size.channels + channel, stride, changed);
        both(changed, pixels, [](const Vector (&v)[4], Vector (&to)[4]) {
            to[0] = v[0];
            to[1] = v[1] - v[2] + v[3];
            to[2] = v[1] + v[2] - v[0];
            to[3] = -v[3];
        });
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) {
                const int64_t y = row - 1 + i, x = column - 1 + j;
                if (!inside(size, y, x)) continue;
                float *sum = sums.data() + place(size, y, x, channel);
                store(sum, load(sum) + pixels[i][j]);
            }
    });
    for (size_t i = 0; i < sums.size(); i += LANES) store(gradient + i, load(sums.data() + i));
}

void output(const Brain *tiles, int64_t stride, const float *bias, const Brain *added, Brain *map, Map size, bool relu) {
    each(size, [=](int64_t tile, int64_t row, int64_t column, int64_t channel) {
        Vector changed[4][4], pixels[2][2];
        load_tile(tiles + tile * size.channels + channel, stride, changed);
        both(changed, pixels, [](const Vector (&m)[4], Vector (&to)[2]) {
            to[0] = m[0] + m[1] + m[2];
            to[1] = m[1] - m[2] - m[3];
        });
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 2; j++) {
                if (!inside(size, row + i, column + j)) continue;
                const int64_t at = place(size, row + i, column + j, channel);
                Vector value = pixels[i][j];
                if (bias) value += load(bias + channel);
                if (added) value += load(added + at);
                // Written so that what is not a number stays so.
                if (relu) value = value < 0.0f ? Vector{} : value;
                store(map + at, value);
            }
    });
}

void output_gradient(const Brain *gradient, Brain *tiles, int64_t stride, Map size) {
    each(size, [=](int64_t tile, int64_t row, int64_t column, int64_t channel) {
        Vector pixels[2][2], changed[4][4];
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 2; j++) {
                const bool is_there = inside(size, row + i, column + j);
                pixels[i][j] = is_there ? load(gradient + place(size, row + i, column + j, channel)) : Vector{};
            }
        both(pixels, changed, [](const Vector (&g)[2], Vector (&to)[4]) {
            to[0] = g[0];
            to[1] = g[0] + g[1];
            to[2] = g[0] - g[1];
            to[3] = -g[1];
        });
        store_tile(changed, tiles + tile * size.channels + channel, stride);
    });
}

void weight(const float *kernel, Brain *rows, int64_t stride, int64_t channels) {
    for (int64_t channel = 0; channel < channels; channel += LANES) {
        Vector own[3][3], changed[4][4];
        for (int i = 0; i < 9; i++) own[i / 3][i % 3] = load(kernel + i * channels + channel);
        both(own, changed, [](const Vector (&g)[3], Vector (&to)[4]) {
            to[0] = g[0];
            to[1] = 0.5f * (g[0] + g[1] + g[2]);
            to[2] = 0.5f * (g[0] - g[1] + g[2]);
            to[3] = g[2];
        });
        store_tile(changed, rows + channel, stride);
    }
}

void weight_gradient(const Brain *rows, int64_t stride, float *kernel, int64_t channels) {
    for (int64_t channel = 0; channel < channels; channel += LANES) {
        Vector changed[4][4], own[3][3];
        load_tile(rows + channel, stride, changed);
        both(changed, own, [](const Vector (&u)[4], Vector (&to)[3]) {
            to[0] = u[0] + 0.5f * (u[1] + u[2]);
            to[1] = 0.5f * (u[1] - u[2]);
            to[2] = 0.5f * (u[1] + u[2]) + u[3];
        });
        for (int i = 0; i < 9; i++) store(kernel + i * channels + channel, own[i / 3][i % 3]);
    }
}

}  // namespace

namespace VARIANT {
WinogradLoops winograd() { return {input, output, output_gradient, input_gradient, weight, weight_gradient}; }
}  // namespace VARIANT
