// Compiled several times, for float32 or bfloat16, with VARIANT the name of the instruction set: see winograd.cpp and build.rs.
#include "winograd_loops.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
// Numbers of a vector, and rows of products at a time: with two vectors each, as many sums as registers hold beside what is
// multiplied.
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
using Number = Brain;
// Numbers that are multiplied and added by one instruction.
constexpr int64_t DEPTH = 2;

inline Vector load(const Brain *from) {
    const auto halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline void store(Brain *to, Vector value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), (__m256i)_mm512_cvtneps_pbh(value));
}

// Numbers of DEPTH rows in turn, as the products take them.
inline void store_in_turn(Brain *to, const Vector (&rows)[DEPTH]) {
    alignas(64) static const uint16_t ORDER[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const auto both = (__m512i)_mm512_cvtne2ps_pbh(rows[1], rows[0]);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(ORDER), both));
}

struct Factor {
    __m512bh own;

    static Factor vector(const Brain *from) { return {(__m512bh)_mm512_loadu_si512(from)}; }
    static Factor repeated(const Brain *from) { return {(__m512bh)_mm512_set1_epi32(read<int32_t>(from))}; }
    Vector add_product(Vector sum, Factor other) const { return _mm512_dpbf16_ps(sum, own, other.own); }
};
#else
using Number = float;
constexpr int64_t DEPTH = 1;

inline void store_in_turn(float *to, const Vector (&rows)[DEPTH]) { store(to, rows[0]); }

struct Factor {
    Vector own;

    static Factor vector(const float *from) { return {load(from)}; }
    static Factor repeated(const float *from) { return {Vector{} + *from}; }
    Vector add_product(Vector sum, Factor other) const { return sum + own * other.own; }
};
#endif

using Inputs = Maps<Number>;

// Sums [M, N·LANES] of products: of each of M rows DEPTH numbers, with N vectors of as many each.
template <int M, int N>
struct Products {
    Vector sums[M][N];

    // Of `steps` (one at least), which lie so far apart in rows and vectors; rows and vectors lie one row and one vector apart.
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

// Where a tile is: its map, and its upper left pixel.
struct Place {
    int64_t map, y, x;
};

// The places of some tiles; gives how many there are before `end`.
inline int64_t find(const Inputs &maps, int64_t first, int64_t end, int64_t most, Place *places) {
    const int64_t count = std::min(most, end - first), columns = maps.columns(), each = maps.tiles_each();
    for (int64_t t = 0; t < count; t++) {
        const int64_t map = (first + t) / each, tile = (first + t) % each;
        places[t] = {map, tile / columns * 2, tile % columns * 2};
    }
    return count;
}

// A row of pixels of a group of channels, or of zeros beyond the edges.
inline Vector pixel(const Inputs &maps, const Place &place, int64_t channel, int64_t y, int64_t x) {
    const bool inside = y >= 0 && y < maps.height && x >= 0 && x < maps.width;
    if (!inside) return Vector{};
    return load(maps.pixels + ((place.map * maps.height + y) * maps.width + x) * maps.channels + channel);
}

// Row I of Bᵀ d.
template <int I>
inline Vector input_row(const Vector (&d)[4]) {
    return I == 0 ? d[0] - d[2] : I == 1 ? d[1] + d[2] : I == 2 ? d[2] - d[1] : d[1] - d[3];
}

// Column j of Bᵀ d B of the 4×4 pixels around a tile, of the rows that are wanted. Two columns of Bᵀ d are those of the tile to
// the left, if that was the one before.
template <int... WANTED>
struct Input {
    static constexpr int COUNT = sizeof...(WANTED);
    Vector columns[4][COUNT];
    Place last = {-1, 0, 0};

    inline void look(const Inputs &maps, const Place &place, int64_t channel) {
        const bool follows = last.map == place.map && last.y == place.y && last.x + 2 == place.x;
        for (int j = 0; j < 2; j++) {
            if (follows)
                for (int i = 0; i < COUNT; i++) columns[j][i] = columns[j + 2][i];
            else
                take(maps, place, channel, j);
        }
        for (int j = 2; j < 4; j++) take(maps, place, channel, j);
        last = place;
    }

    inline void take(const Inputs &maps, const Place &place, int64_t channel, int j) {
        Vector d[4];
        for (int i = 0; i < 4; i++) d[i] = pixel(maps, place, channel, place.y - 1 + i, place.x - 1 + j);
        int at = 0;
        ((columns[j][at++] = input_row<WANTED>(d)), ...);
    }

    inline Vector at(int i, int j) const {
        const auto row = [&](int column) { return columns[column][i]; };
        return j == 0 ? row(0) - row(2) : j == 1 ? row(1) + row(2) : j == 2 ? row(2) - row(1) : row(1) - row(3);
    }
};

// Row I of A g Aᵀ of the gradient of a tile's 2×2 pixels.
template <int I>
inline void gradient_row(const Inputs &maps, const Place &place, int64_t channel, Vector (&to)[4]) {
    Vector row[2];
    for (int j = 0; j < 2; j++) {
        const auto g = [&](int i) { return pixel(maps, place, channel, place.y + i, place.x + j); };
        row[j] = I == 0 ? g(0) : I == 1 ? g(0) + g(1) : I == 2 ? g(0) - g(1) : -g(1);
    }
    to[0] = row[0];
    to[1] = row[0] + row[1];
    to[2] = row[0] - row[1];
    to[3] = -row[1];
}

// Changes a tile's sums [16][STRIP][N·LANES] back and writes its pixels.
template <int STRIP, int N>
inline void write(const float *sums, const Inputs &maps, const Place &place, int64_t channel, const Results<Number> &results) {
    constexpr int64_t STRIDE = STRIP * N * LANES;
    for (int n = 0; n < N; n++, sums += LANES, channel += LANES) {
        Vector rows[2][4];
        for (int j = 0; j < 4; j++) {
            const auto m = [&](int i) { return load(sums + (4 * i + j) * STRIDE); };
            rows[0][j] = m(0) + m(1) + m(2);
            rows[1][j] = m(1) - m(2) - m(3);
        }
        const auto bias = results.bias ? load(results.bias + channel) : Vector{};
        for (int i = 0; i < 2; i++) {
            const auto &row = rows[i];
            const Vector pixels[2] = {row[0] + row[1] + row[2] + bias, row[1] - row[2] - row[3] + bias};
            for (int j = 0; j < 2; j++) {
                const int64_t y = place.y + i, x = place.x + j;
                if (y >= maps.height || x >= maps.width) continue;
                const int64_t at = ((place.map * maps.height + y) * maps.width + x) * results.channels + channel;
                Vector value = pixels[j];
                if (results.added) value += load(results.added + at);
                // Written so that what is not a number stays so.
                if (results.relu) value = value < 0.0f ? Vector{} : value;
                store(results.pixels + at, value);
            }
        }
    }
}

// Memory of a thread that is used again. Not a vector: its functions would be shared with files that are compiled for any
// processor.
struct Scratch {
    Number *own = nullptr;
    int64_t bytes = 0;

    ~Scratch() { std::free(own); }
};

Number *scratch(int64_t numbers) {
    constexpr int64_t LINE = 64;
    static thread_local Scratch kept;
    const int64_t wanted = (numbers * sizeof(Number) + LINE - 1) / LINE * LINE;
    if (kept.bytes < wanted) {
        std::free(kept.own);
        kept.bytes = 0;
        kept.own = static_cast<Number *>(std::aligned_alloc(LINE, wanted));
        if (!kept.own) throw std::bad_alloc();
        kept.bytes = wanted;
    }
    return kept.own;
}

template <int STRIP, int N>
void convolve(const Inputs &maps, const Number *changed, const Results<Number> &results, int64_t begin, int64_t end) {
    const int64_t channels = maps.channels, group = channels * LANES;
    Number *inputs = scratch(16 * STRIP * channels);
    alignas(64) float sums[16 * STRIP * N * LANES];
    Place places[STRIP];
    for (int64_t first = begin; first < end; first += STRIP) {
        const int64_t count = find(maps, first, end, STRIP, places);
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Input<0, 1, 2, 3> input;
            for (int64_t t = 0; t < count; t++) {
                input.look(maps, places[t], channel);
                for (int at = 0; at < 16; at++)
                    store(inputs + (at * STRIP + t) * channels + channel, input.at(at / 4, at % 4));
            }
        }
        for (int64_t output = 0; output < results.channels; output += N * LANES) {
            for (int at = 0; at < 16; at++)
                for (int64_t row = 0; row < STRIP; row += ROWS) {
                    Products<ROWS, N> products;
                    products.multiply(inputs + (at * STRIP + row) * channels, channels, DEPTH,
                                      changed + (at * results.channels + output) * channels, group, DEPTH * LANES,
                                      channels / DEPTH);
                    float *to = sums + (at * STRIP + row) * N * LANES;
                    for (int m = 0; m < ROWS; m++)
                        for (int n = 0; n < N; n++) store(to + (m * N + n) * LANES, products.sums[m][n]);
                }
            for (int64_t t = 0; t < count; t++)
                write<STRIP, N>(sums + t * N * LANES, maps, places[t], output, results);
        }
    }
}

// Tiles whose gradients are summed in registers.
constexpr int64_t LONG = 64;

template <int M, int N>
void add_products(const Number *gradients, int64_t outputs, const Number *inputs, int64_t channels, int64_t steps,
                  float *sums) {
    for (int64_t output = 0; output < outputs; output += M)
        for (int64_t channel = 0; channel < channels; channel += N * LANES) {
            Products<M, N> products;
            products.multiply(gradients + DEPTH * output, DEPTH, DEPTH * outputs, inputs + DEPTH * channel, DEPTH * LANES,
                              DEPTH * channels, steps);
            for (int m = 0; m < M; m++)
                for (int n = 0; n < N; n++) {
                    float *to = sums + (output + m) * channels + channel + n * LANES;
                    store(to, load(to) + products.sums[m][n]);
                }
        }
}

// Changes row I of some tiles, of which `look` finds the four places of a group of channels, and lays DEPTH tiles in turn:
// [4, LONG/DEPTH, channels, DEPTH].
template <class Look>
void lay_in_turn(Number *to, int64_t channels, int64_t channel, int64_t count, Look look) {
    for (int64_t first = 0; first < count; first += DEPTH) {
        Vector tiles[DEPTH][4], rows[DEPTH];
        for (int64_t t = 0; t < DEPTH; t++) {
            if (t == 0 || first + t < count)
                look(first + t, tiles[t]);
            else
                for (auto &place : tiles[t]) place = Vector{};
        }
        for (int j = 0; j < 4; j++) {
            for (int64_t t = 0; t < DEPTH; t++) rows[t] = tiles[t][j];
            store_in_turn(to + (j * LONG + first) * channels + channel * DEPTH, rows);
        }
    }
}

template <int I>
void sum(const Inputs &maps, const Inputs &gradient, float *sums, int64_t begin, int64_t end) {
    const int64_t channels = maps.channels, outputs = gradient.channels;
    Number *inputs = scratch(4 * LONG * (channels + outputs)), *gradients = inputs + 4 * LONG * channels;
    Place places[LONG];
    for (int64_t first = begin; first < end; first += LONG) {
        const int64_t count = find(maps, first, end, LONG, places);
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Input<I> input;
            lay_in_turn(inputs, channels, channel, count, [&](int64_t t, Vector(&to)[4]) {
                input.look(maps, places[t], channel);
                for (int j = 0; j < 4; j++) to[j] = input.at(0, j);
            });
        }
        for (int64_t output = 0; output < outputs; output += LANES)
            lay_in_turn(gradients, outputs, output, count,
                        [&](int64_t t, Vector(&to)[4]) { gradient_row<I>(gradient, places[t], output, to); });
        for (int j = 0; j < 4; j++) {
            const auto add = channels % (2 * LANES) ? add_products<2 * GRADIENT_ROWS, 1> : add_products<GRADIENT_ROWS, 2>;
            add(gradients + j * LONG * outputs, outputs, inputs + j * LONG * channels, channels,
                (count + DEPTH - 1) / DEPTH, sums + j * outputs * channels);
        }
    }
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

// G g Gᵀ of a group of channels of a kernel [3, 3, C].
inline void change(const float *kernel, int64_t channels, bool turned, Vector (&changed)[4][4]) {
    Vector own[3][3];
    for (int at = 0; at < 9; at++) own[at / 3][at % 3] = load(kernel + (turned ? 8 - at : at) * channels);
    both(own, changed, [](const Vector (&g)[3], Vector (&to)[4]) {
        const float half = 0.5f;
        to[0] = g[0];
        to[1] = half * (g[0] + g[1] + g[2]);
        to[2] = half * (g[0] - g[1] + g[2]);
        to[3] = g[2];
    });
}

int64_t strip(int64_t channels) { return channels < 256 ? ROWS : 2 * ROWS; }

void convolve_any(const Inputs &maps, const Number *changed, const Results<Number> &results, int64_t begin, int64_t end) {
    const bool is_long = strip(maps.channels) > ROWS;
    const auto chosen = results.channels % (2 * LANES) ? (is_long ? convolve<2 * ROWS, 1> : convolve<ROWS, 1>)
                                                       : (is_long ? convolve<2 * ROWS, 2> : convolve<ROWS, 2>);
    chosen(maps, changed, results, begin, end);
}

void change_all(const float *kernels, int64_t outputs, int64_t channels, Number *to, int64_t begin, int64_t end) {
    constexpr int64_t STEPS = LANES / DEPTH;
    for (int64_t output = begin * LANES; output < end * LANES; output += LANES)
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            uint32_t rows[16][LANES][STEPS];
            for (int64_t i = 0; i < LANES; i++) {
                Vector changed[4][4];
                change(kernels + (output + i) * 9 * channels + channel, channels, false, changed);
                for (int at = 0; at < 16; at++) store(reinterpret_cast<Number *>(rows[at][i]), changed[at / 4][at % 4]);
            }
            for (int at = 0; at < 16; at++) {
                uint32_t steps[STEPS][LANES];
                for (int64_t step = 0; step < STEPS; step++)
                    for (int64_t i = 0; i < LANES; i++) steps[step][i] = rows[at][i][step];
                std::memcpy(to + (at * outputs + output) * channels + channel * LANES, steps, sizeof steps);
            }
        }
}

void change_turned(const float *kernels, int64_t outputs, int64_t channels, Number *to, int64_t begin, int64_t end) {
    for (int64_t channel = begin * LANES; channel < end * LANES; channel += LANES)
        for (int64_t output = 0; output < outputs; output += DEPTH) {
            Vector changed[DEPTH][4][4], rows[DEPTH];
            for (int64_t i = 0; i < DEPTH; i++)
                change(kernels + (output + i) * 9 * channels + channel, channels, true, changed[i]);
            for (int at = 0; at < 16; at++) {
                for (int64_t i = 0; i < DEPTH; i++) rows[i] = changed[i][at / 4][at % 4];
                store_in_turn(to + (at * channels + channel) * outputs + output * LANES, rows);
            }
        }
}

void sum_any(const Inputs &maps, const Inputs &gradient, int i, float *sums, int64_t begin, int64_t end) {
    const auto chosen = i == 0 ? sum<0> : i == 1 ? sum<1> : i == 2 ? sum<2> : sum<3>;
    chosen(maps, gradient, sums, begin, end);
}

void kernel_gradient(const float *sums, int64_t parts, int64_t outputs, int64_t channels, float *gradient, int64_t begin,
                     int64_t end) {
    const int64_t place = outputs * channels;
    for (int64_t output = begin; output < end; output++)
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Vector changed[4][4], own[3][3];
            for (int at = 0; at < 16; at++) {
                Vector total = Vector{};
                for (int64_t part = 0; part < parts; part++)
                    total += load(sums + (part * 16 + at) * place + output * channels + channel);
                changed[at / 4][at % 4] = total;
            }
            both(changed, own, [](const Vector (&u)[4], Vector (&to)[3]) {
                const float half = 0.5f;
                to[0] = u[0] + half * (u[1] + u[2]);
                to[1] = half * (u[1] - u[2]);
                to[2] = half * (u[1] + u[2]) + u[3];
            });
            for (int at = 0; at < 9; at++) store(gradient + (output * 9 + at) * channels + channel, own[at / 3][at % 3]);
        }
}

}  // namespace

namespace VARIANT {
WinogradLoops<Number> winograd() {
    return {LANES, strip, convolve_any, change_all, change_turned, sum_any, kernel_gradient};
}
}  // namespace VARIANT
