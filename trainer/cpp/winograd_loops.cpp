// Compiled for processors with AVX-512 BF16: see build.rs.
#include "winograd_loops.h"

#if defined(__AVX512BF16__)
#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

using Vector = __m512;

inline Vector load(const Brain *from) {
    const auto halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline Vector load(const float *from) { return _mm512_loadu_ps(from); }

inline void store(Brain *to, Vector value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), (__m256i)_mm512_cvtneps_pbh(value));
}

inline void store(float *to, Vector value) { _mm512_storeu_ps(to, value); }

// Numbers of two rows in turn, as the products take them.
inline void store_pairs(Brain *to, Vector even, Vector odd) {
    alignas(64) static const uint16_t ORDER[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const auto both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(ORDER), both));
}

// Sums [M, N·LANES] of products of pairs: of each of M rows a pair, with N vectors of LANES pairs.
template <int M, int N>
struct Products {
    Vector sums[M][N];

    // Of `pairs` (one at least), which lie so far apart in rows and vectors; rows and vectors lie one row and one vector apart.
    inline void multiply(const Brain *rows, int64_t row, int64_t row_pair, const Brain *vectors, int64_t vector,
                         int64_t vector_pair, int64_t pairs) {
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) sums[m][n] = _mm512_setzero_ps();
        int64_t pair = 0;
        do {
            __m512bh taken[N];
            for (int n = 0; n < N; n++)
                taken[n] = (__m512bh)_mm512_loadu_si512(vectors + n * vector + pair * vector_pair);
            for (int m = 0; m < M; m++) {
                int32_t both;
                std::memcpy(&both, rows + m * row + pair * row_pair, sizeof both);
                const auto repeated = (__m512bh)_mm512_set1_epi32(both);
                for (int n = 0; n < N; n++) sums[m][n] = _mm512_dpbf16_ps(sums[m][n], taken[n], repeated);
            }
        } while (++pair < pairs);
    }
};

// Where a tile is: its map, and its upper left pixel.
struct Place {
    int64_t map, y, x;
};

// The places of some tiles; gives how many there are before `end`.
inline int64_t find(const Maps &maps, int64_t first, int64_t end, int64_t most, Place *places) {
    const int64_t count = std::min(most, end - first), columns = maps.columns(), each = maps.tiles_each();
    for (int64_t t = 0; t < count; t++) {
        const int64_t map = (first + t) / each, tile = (first + t) % each;
        places[t] = {map, tile / columns * 2, tile % columns * 2};
    }
    return count;
}

// A row of pixels of a group of channels, or of zeros beyond the edges.
inline Vector pixel(const Maps &maps, const Place &place, int64_t channel, int64_t y, int64_t x) {
    const bool inside = y >= 0 && y < maps.height && x >= 0 && x < maps.width;
    if (!inside) return _mm512_setzero_ps();
    return load(maps.pixels + ((place.map * maps.height + y) * maps.width + x) * maps.channels + channel);
}

// Row I of Bᵀ d.
template <int I>
inline Vector input_row(const Vector (&d)[4]) {
    return I == 0 ? d[0] - d[2] : I == 1 ? d[1] + d[2] : I == 2 ? d[2] - d[1] : d[1] - d[3];
}

// Column j of Bᵀ d B of the 4×4 pixels around a tile, of the rows that are wanted. Two columns of Bᵀ d are those of the tile to
// the left, if that was the one before.
template <int... ROWS>
struct Input {
    static constexpr int COUNT = sizeof...(ROWS);
    Vector columns[4][COUNT];
    Place last = {-1, 0, 0};

    inline void look(const Maps &maps, const Place &place, int64_t channel) {
        const bool follows = last.map == place.map && last.y == place.y && last.x + 2 == place.x;
        for (int j = 0; j < 2; j++) {
            if (follows)
                for (int i = 0; i < COUNT; i++) columns[j][i] = columns[j + 2][i];
            else
                read(maps, place, channel, j);
        }
        for (int j = 2; j < 4; j++) read(maps, place, channel, j);
        last = place;
    }

    inline void read(const Maps &maps, const Place &place, int64_t channel, int j) {
        Vector d[4];
        for (int i = 0; i < 4; i++) d[i] = pixel(maps, place, channel, place.y - 1 + i, place.x - 1 + j);
        int at = 0;
        ((columns[j][at++] = input_row<ROWS>(d)), ...);
    }

    inline Vector at(int i, int j) const {
        const auto row = [&](int column) { return columns[column][i]; };
        return j == 0 ? row(0) - row(2) : j == 1 ? row(1) + row(2) : j == 2 ? row(2) - row(1) : row(1) - row(3);
    }
};

// Row I of A g Aᵀ of the gradient of a tile's 2×2 pixels.
template <int I>
inline void gradient_row(const Maps &maps, const Place &place, int64_t channel, Vector (&to)[4]) {
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
inline void write(const float *sums, const Maps &maps, const Place &place, int64_t channel, const Results &results) {
    constexpr int64_t STRIDE = STRIP * N * LANES;
    for (int n = 0; n < N; n++, sums += LANES, channel += LANES) {
        Vector rows[2][4];
        for (int j = 0; j < 4; j++) {
            const auto m = [&](int i) { return load(sums + (4 * i + j) * STRIDE); };
            rows[0][j] = m(0) + m(1) + m(2);
            rows[1][j] = m(1) - m(2) - m(3);
        }
        const auto bias = results.bias ? load(results.bias + channel) : _mm512_setzero_ps();
        for (int i = 0; i < 2; i++) {
            const auto &row = rows[i];
            const Vector pixels[2] = {row[0] + row[1] + row[2] + bias, row[1] - row[2] - row[3] + bias};
            for (int j = 0; j < 2; j++) {
                const int64_t y = place.y + i, x = place.x + j;
                if (y >= maps.height || x >= maps.width) continue;
                const int64_t at = ((place.map * maps.height + y) * maps.width + x) * results.channels + channel;
                Vector value = pixels[j];
                if (results.added) value += load(results.added + at);
                // In this order what is not a number stays so.
                if (results.relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
                store(results.pixels + at, value);
            }
        }
    }
}

// Memory of a thread that is used again.
Brain *scratch(int64_t numbers) {
    static thread_local std::vector<Brain> own;
    constexpr int64_t LINE = 32;
    if (static_cast<int64_t>(own.size()) < numbers + LINE) own.resize(numbers + LINE);
    return reinterpret_cast<Brain *>((reinterpret_cast<uintptr_t>(own.data()) + 63) & ~uintptr_t{63});
}

// Rows of products at a time: with two vectors each, as many sums as registers hold beside what is multiplied.
constexpr int ROWS = 8;

template <int STRIP, int N>
void convolve(const Maps &maps, const Brain *changed, const Results &results, int64_t begin, int64_t end) {
    const int64_t channels = maps.channels, group = channels * LANES;
    Brain *inputs = scratch(16 * STRIP * channels);
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
                    products.multiply(inputs + (at * STRIP + row) * channels, channels, 2,
                                      changed + (at * results.channels + output) * channels, group, 2 * LANES, channels / 2);
                    float *to = sums + (at * STRIP + row) * N * LANES;
                    for (int m = 0; m < ROWS; m++)
                        for (int n = 0; n < N; n++) _mm512_store_ps(to + (m * N + n) * LANES, products.sums[m][n]);
                }
            for (int64_t t = 0; t < count; t++)
                write<STRIP, N>(sums + t * N * LANES, maps, places[t], output, results);
        }
    }
}

// Tiles whose gradients are summed in registers.
constexpr int64_t LONG = 64;

template <int M, int N>
void add_products(const Brain *gradients, int64_t outputs, const Brain *inputs, int64_t channels, int64_t pairs, float *sums) {
    for (int64_t output = 0; output < outputs; output += M)
        for (int64_t channel = 0; channel < channels; channel += N * LANES) {
            Products<M, N> products;
            products.multiply(gradients + 2 * output, 2, 2 * outputs, inputs + 2 * channel, 2 * LANES, 2 * channels, pairs);
            for (int m = 0; m < M; m++)
                for (int n = 0; n < N; n++) {
                    float *to = sums + (output + m) * channels + channel + n * LANES;
                    store(to, load(to) + products.sums[m][n]);
                }
        }
}

template <int I>
void sum(const Maps &maps, const Maps &gradient, float *sums, int64_t begin, int64_t end) {
    const int64_t channels = maps.channels, outputs = gradient.channels;
    Brain *inputs = scratch(4 * LONG * (channels + outputs)), *gradients = inputs + 4 * LONG * channels;
    Place places[LONG];
    for (int64_t first = begin; first < end; first += LONG) {
        const int64_t count = find(maps, first, end, LONG, places), pairs = (count + 1) / 2;
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Input<I> input;
            for (int64_t pair = 0; pair < pairs; pair++) {
                Vector even[4];
                input.look(maps, places[2 * pair], channel);
                for (int j = 0; j < 4; j++) even[j] = input.at(0, j);
                const bool has_odd = 2 * pair + 1 < count;
                if (has_odd) input.look(maps, places[2 * pair + 1], channel);
                for (int j = 0; j < 4; j++)
                    store_pairs(inputs + ((j * LONG / 2 + pair) * channels + channel) * 2, even[j],
                                has_odd ? input.at(0, j) : _mm512_setzero_ps());
            }
        }
        for (int64_t output = 0; output < outputs; output += LANES)
            for (int64_t pair = 0; pair < pairs; pair++) {
                Vector even[4], odd[4] = {};
                gradient_row<I>(gradient, places[2 * pair], output, even);
                if (2 * pair + 1 < count) gradient_row<I>(gradient, places[2 * pair + 1], output, odd);
                for (int j = 0; j < 4; j++)
                    store_pairs(gradients + ((j * LONG / 2 + pair) * outputs + output) * 2, even[j], odd[j]);
            }
        for (int j = 0; j < 4; j++) {
            const auto add = channels % (2 * LANES) ? add_products<2 * ROWS, 1> : add_products<ROWS, 2>;
            add(gradients + j * LONG * outputs, outputs, inputs + j * LONG * channels, channels, pairs,
                sums + j * outputs * channels);
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
        const auto half = _mm512_set1_ps(0.5f);
        to[0] = g[0];
        to[1] = half * (g[0] + g[1] + g[2]);
        to[2] = half * (g[0] - g[1] + g[2]);
        to[3] = g[2];
    });
}

}  // namespace

bool has_winograd() {
    // AMX multiplies matrices several times as fast as AVX-512 BF16, and oneDNN's direct convolutions use it.
    unsigned eax, ebx, ecx, edx;
    const bool has_amx = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 22 & 1);
    return __builtin_cpu_supports("avx512bf16") && !has_amx;
}

int64_t winograd_strip(int64_t channels) { return channels < 256 ? ROWS : 2 * ROWS; }

void winograd_convolve(const Maps &maps, const Brain *changed, const Results &results, int64_t begin, int64_t end) {
    const bool is_long = winograd_strip(maps.channels) > ROWS;
    const auto chosen = results.channels % (2 * LANES) ? (is_long ? convolve<2 * ROWS, 1> : convolve<ROWS, 1>)
                                                       : (is_long ? convolve<2 * ROWS, 2> : convolve<ROWS, 2>);
    chosen(maps, changed, results, begin, end);
}

void winograd_change(const float *kernels, int64_t outputs, int64_t channels, Brain *to, int64_t begin, int64_t end) {
    constexpr int64_t PAIRS = LANES / 2;
    for (int64_t output = begin * LANES; output < end * LANES; output += LANES)
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            uint32_t rows[16][LANES][PAIRS];
            for (int64_t i = 0; i < LANES; i++) {
                Vector changed[4][4];
                change(kernels + (output + i) * 9 * channels + channel, channels, false, changed);
                for (int at = 0; at < 16; at++) store(reinterpret_cast<Brain *>(rows[at][i]), changed[at / 4][at % 4]);
            }
            for (int at = 0; at < 16; at++) {
                uint32_t pairs[PAIRS][LANES];
                for (int64_t pair = 0; pair < PAIRS; pair++)
                    for (int64_t i = 0; i < LANES; i++) pairs[pair][i] = rows[at][i][pair];
                std::memcpy(to + (at * outputs + output) * channels + channel * LANES, pairs, sizeof pairs);
            }
        }
}

void winograd_change_turned(const float *kernels, int64_t outputs, int64_t channels, Brain *to, int64_t begin, int64_t end) {
    for (int64_t channel = begin * LANES; channel < end * LANES; channel += LANES)
        for (int64_t output = 0; output < outputs; output += 2) {
            Vector even[4][4], odd[4][4];
            change(kernels + output * 9 * channels + channel, channels, true, even);
            change(kernels + (output + 1) * 9 * channels + channel, channels, true, odd);
            for (int at = 0; at < 16; at++)
                store_pairs(to + (at * channels + channel) * outputs + output * LANES, even[at / 4][at % 4],
                            odd[at / 4][at % 4]);
        }
}

void winograd_sum(const Maps &maps, const Maps &gradient, int i, float *sums, int64_t begin, int64_t end) {
    const auto chosen = i == 0 ? sum<0> : i == 1 ? sum<1> : i == 2 ? sum<2> : sum<3>;
    chosen(maps, gradient, sums, begin, end);
}

void winograd_kernel_gradient(const float *sums, int64_t parts, int64_t outputs, int64_t channels, float *gradient,
                              int64_t begin, int64_t end) {
    const int64_t place = outputs * channels;
    for (int64_t output = begin; output < end; output++)
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Vector changed[4][4], own[3][3];
            for (int at = 0; at < 16; at++) {
                Vector total = _mm512_setzero_ps();
                for (int64_t part = 0; part < parts; part++)
                    total += load(sums + (part * 16 + at) * place + output * channels + channel);
                changed[at / 4][at % 4] = total;
            }
            both(changed, own, [](const Vector (&u)[4], Vector (&to)[3]) {
                const auto half = _mm512_set1_ps(0.5f);
                to[0] = u[0] + half * (u[1] + u[2]);
                to[1] = half * (u[1] - u[2]);
                to[2] = half * (u[1] + u[2]) + u[3];
            });
            for (int at = 0; at < 9; at++) store(gradient + (output * 9 + at) * channels + channel, own[at / 3][at % 3]);
        }
}

#else

bool has_winograd() { return false; }
int64_t winograd_strip(int64_t) { return 1; }
void winograd_convolve(const Maps &, const Brain *, const Results &, int64_t, int64_t) {}
void winograd_change(const float *, int64_t, int64_t, Brain *, int64_t, int64_t) {}
void winograd_change_turned(const float *, int64_t, int64_t, Brain *, int64_t, int64_t) {}
void winograd_sum(const Maps &, const Maps &, int, float *, int64_t, int64_t) {}
void winograd_kernel_gradient(const float *, int64_t, int64_t, int64_t, float *, int64_t, int64_t) {}

#endif
