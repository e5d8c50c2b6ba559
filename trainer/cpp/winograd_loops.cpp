// Compiled once per instruction set, for float32 or bfloat16, with VARIANT as its name: see winograd.cpp and build.rs.
#include "winograd_loops.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "winograd_vectors.h"

namespace {

using Inputs = Maps<Number>;

// The position of a tile: its map and its upper left pixel.
struct TilePosition {
    int64_t map, y, x;
};

// Finds the positions of the tiles first..end, at most `most`. Returns their number.
inline int64_t find(const Inputs &maps, int64_t first, int64_t end, int64_t most, TilePosition *positions) {
    const int64_t count = std::min(most, end - first), columns = maps.columns(), each = maps.tiles_each();
    for (int64_t t = 0; t < count; t++) {
        const int64_t map = (first + t) / each, tile = (first + t) % each;
        positions[t] = {map, tile / columns * 2, tile % columns * 2};
    }
    return count;
}

// A vector of channels of a pixel; zero beyond the edges.
inline Vector pixel(const Inputs &maps, const TilePosition &position, int64_t channel, int64_t y, int64_t x) {
    const bool inside = y >= 0 && y < maps.height && x >= 0 && x < maps.width;
    if (!inside) return Vector{};
    return load(maps.pixels + ((position.map * maps.height + y) * maps.width + x) * maps.channels + channel);
}

// Row I of Bᵀ d.
template <int I>
inline Vector input_row(const Vector (&d)[4]) {
    return I == 0 ? d[0] - d[2] : I == 1 ? d[1] + d[2] : I == 2 ? d[2] - d[1] : d[1] - d[3];
}

// The given rows of Bᵀ d B, for the 4×4 pixels d around a tile. Two columns of Bᵀ d are reused if the tile to the left
// came before.
template <int... ROWS_OF_D>
struct Input {
    static constexpr int COUNT = sizeof...(ROWS_OF_D);
    Vector columns[4][COUNT];
    TilePosition last = {-1, 0, 0};

    inline void load_tile(const Inputs &maps, const TilePosition &position, int64_t channel) {
        const bool follows = last.map == position.map && last.y == position.y && last.x + 2 == position.x;
        for (int j = 0; j < 2; j++) {
            if (follows)
                for (int i = 0; i < COUNT; i++) columns[j][i] = columns[j + 2][i];
            else
                load_column(maps, position, channel, j);
        }
        for (int j = 2; j < 4; j++) load_column(maps, position, channel, j);
        last = position;
    }

    inline void load_column(const Inputs &maps, const TilePosition &position, int64_t channel, int j) {
        Vector d[4];
        for (int i = 0; i < 4; i++) d[i] = pixel(maps, position, channel, position.y - 1 + i, position.x - 1 + j);
        int at = 0;
        ((columns[j][at++] = input_row<ROWS_OF_D>(d)), ...);
    }

    inline Vector at(int i, int j) const {
        const auto row = [&](int column) { return columns[column][i]; };
        return j == 0 ? row(0) - row(2) : j == 1 ? row(1) + row(2) : j == 2 ? row(2) - row(1) : row(1) - row(3);
    }
};

// Row I of A g Aᵀ, for the gradient g of a tile's 2×2 pixels.
template <int I>
inline void gradient_row(const Inputs &maps, const TilePosition &position, int64_t channel, Vector (&to)[4]) {
    Vector row[2];
    for (int j = 0; j < 2; j++) {
        const auto g = [&](int i) { return pixel(maps, position, channel, position.y + i, position.x + j); };
        row[j] = I == 0 ? g(0) : I == 1 ? g(0) + g(1) : I == 2 ? g(0) - g(1) : -g(1);
    }
    to[0] = row[0];
    to[1] = row[0] + row[1];
    to[2] = row[0] - row[1];
    to[3] = -row[1];
}

// Transforms a tile's sums [16][STRIP][N·LANES] back and writes its pixels.
template <int STRIP, int N>
inline void write(const float *sums, const Inputs &maps, const TilePosition &position, int64_t channel,
                  const Results<Number> &results) {
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
                const int64_t y = position.y + i, x = position.x + j;
                if (y >= maps.height || x >= maps.width) continue;
                const int64_t at = ((position.map * maps.height + y) * maps.width + x) * results.channels + channel;
                Vector value = pixels[j];
                if (results.added) value += load(results.added + at);
                // NaN stays NaN.
                if (results.relu) value = value < 0.0f ? Vector{} : value;
                store(results.pixels + at, value);
            }
        }
    }
}

// Memory that a thread reuses. Not a std::vector: the linker could take its functions from a file that is compiled for
// another instruction set.
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
void convolve(const Inputs &maps, const Number *transformed, const Results<Number> &results, int64_t begin, int64_t end) {
    const int64_t channels = maps.channels, group = channels * LANES;
    Number *inputs = scratch(16 * STRIP * channels);
    alignas(64) float sums[16 * STRIP * N * LANES];
    TilePosition positions[STRIP];
    for (int64_t first = begin; first < end; first += STRIP) {
        const int64_t count = find(maps, first, end, STRIP, positions);
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Input<0, 1, 2, 3> input;
            for (int64_t t = 0; t < count; t++) {
                input.load_tile(maps, positions[t], channel);
                for (int at = 0; at < 16; at++)
                    store(inputs + (at * STRIP + t) * channels + channel, input.at(at / 4, at % 4));
            }
        }
        for (int64_t output = 0; output < results.channels; output += N * LANES) {
            for (int at = 0; at < 16; at++)
                for (int64_t row = 0; row < STRIP; row += ROWS) {
                    Products<ROWS, N> products;
                    products.multiply(inputs + (at * STRIP + row) * channels, channels, DEPTH,
                                      transformed + (at * results.channels + output) * channels, group, DEPTH * LANES,
                                      channels / DEPTH);
                    float *to = sums + (at * STRIP + row) * N * LANES;
                    for (int m = 0; m < ROWS; m++)
                        for (int n = 0; n < N; n++) store(to + (m * N + n) * LANES, products.sums[m][n]);
                }
            for (int64_t t = 0; t < count; t++)
                write<STRIP, N>(sums + t * N * LANES, maps, positions[t], output, results);
        }
    }
}

// Tiles whose gradients are summed in registers.
constexpr int64_t GRADIENT_TILES = 64;

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

// Stores one row of the transform domain of `count` tiles with DEPTH tiles interleaved:
// [4, GRADIENT_TILES/DEPTH, channels, DEPTH]. `transform` computes the row's four positions for a vector of channels of
// a tile.
template <class Transform>
void interleave_tiles(Number *to, int64_t channels, int64_t channel, int64_t count, Transform transform) {
    for (int64_t first = 0; first < count; first += DEPTH) {
        Vector tiles[DEPTH][4], rows[DEPTH];
        for (int64_t t = 0; t < DEPTH; t++) {
            if (t == 0 || first + t < count)
                transform(first + t, tiles[t]);
            else
                for (auto &place : tiles[t]) place = Vector{};
        }
        for (int j = 0; j < 4; j++) {
            for (int64_t t = 0; t < DEPTH; t++) rows[t] = tiles[t][j];
            store_interleaved(to + (j * GRADIENT_TILES + first) * channels + channel * DEPTH, rows);
        }
    }
}

template <int I>
void sum(const Inputs &maps, const Inputs &gradient, float *sums, int64_t begin, int64_t end) {
    const int64_t channels = maps.channels, outputs = gradient.channels;
    Number *inputs = scratch(4 * GRADIENT_TILES * (channels + outputs)), *gradients = inputs + 4 * GRADIENT_TILES * channels;
    TilePosition positions[GRADIENT_TILES];
    for (int64_t first = begin; first < end; first += GRADIENT_TILES) {
        const int64_t count = find(maps, first, end, GRADIENT_TILES, positions);
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Input<I> input;
            interleave_tiles(inputs, channels, channel, count, [&](int64_t t, Vector(&to)[4]) {
                input.load_tile(maps, positions[t], channel);
                for (int j = 0; j < 4; j++) to[j] = input.at(0, j);
            });
        }
        for (int64_t output = 0; output < outputs; output += LANES)
            interleave_tiles(gradients, outputs, output, count,
                        [&](int64_t t, Vector(&to)[4]) { gradient_row<I>(gradient, positions[t], output, to); });
        for (int j = 0; j < 4; j++) {
            const auto add = channels % (2 * LANES) ? add_products<2 * GRADIENT_ROWS, 1> : add_products<GRADIENT_ROWS, 2>;
            add(gradients + j * GRADIENT_TILES * outputs, outputs, inputs + j * GRADIENT_TILES * channels, channels,
                (count + DEPTH - 1) / DEPTH, sums + j * outputs * channels);
        }
    }
}

// Applies a transform to the columns of a square, then to its rows: from N×N to M×M.
template <int N, int M, class Transform>
inline void transform_both(const Vector (&from)[N][N], Vector (&to)[M][M], Transform transform) {
    Vector half[M][N], column[M];
    for (int j = 0; j < N; j++) {
        Vector taken[N];
        for (int i = 0; i < N; i++) taken[i] = from[i][j];
        transform(taken, column);
        for (int i = 0; i < M; i++) half[i][j] = column[i];
    }
    for (int i = 0; i < M; i++) transform(half[i], to[i]);
}

// G g Gᵀ of a vector of channels of a kernel [3, 3, C].
inline void transform_kernel(const float *kernel, int64_t channels, bool rotated, Vector (&transformed)[4][4]) {
    Vector own[3][3];
    for (int at = 0; at < 9; at++) own[at / 3][at % 3] = load(kernel + (rotated ? 8 - at : at) * channels);
    transform_both(own, transformed, [](const Vector (&g)[3], Vector (&to)[4]) {
        const float half = 0.5f;
        to[0] = g[0];
        to[1] = half * (g[0] + g[1] + g[2]);
        to[2] = half * (g[0] - g[1] + g[2]);
        to[3] = g[2];
    });
}

int64_t strip(int64_t channels) { return channels < 256 ? ROWS : 2 * ROWS; }

void convolve_any(const Inputs &maps, const Number *transformed, const Results<Number> &results, int64_t begin, int64_t end) {
    const bool is_wide = strip(maps.channels) > ROWS;
    const auto chosen = results.channels % (2 * LANES) ? (is_wide ? convolve<2 * ROWS, 1> : convolve<ROWS, 1>)
                                                       : (is_wide ? convolve<2 * ROWS, 2> : convolve<ROWS, 2>);
    chosen(maps, transformed, results, begin, end);
}

void transform_all(const float *kernels, int64_t outputs, int64_t channels, Number *to, int64_t begin, int64_t end) {
    constexpr int64_t STEPS = LANES / DEPTH;
    for (int64_t output = begin * LANES; output < end * LANES; output += LANES)
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            uint32_t rows[16][LANES][STEPS];
            for (int64_t i = 0; i < LANES; i++) {
                Vector transformed[4][4];
                transform_kernel(kernels + (output + i) * 9 * channels + channel, channels, false, transformed);
                for (int at = 0; at < 16; at++) store(reinterpret_cast<Number *>(rows[at][i]), transformed[at / 4][at % 4]);
            }
            for (int at = 0; at < 16; at++) {
                uint32_t steps[STEPS][LANES];
                for (int64_t step = 0; step < STEPS; step++)
                    for (int64_t i = 0; i < LANES; i++) steps[step][i] = rows[at][i][step];
                std::memcpy(to + (at * outputs + output) * channels + channel * LANES, steps, sizeof steps);
            }
        }
}

void transform_rotated(const float *kernels, int64_t outputs, int64_t channels, Number *to, int64_t begin, int64_t end) {
    for (int64_t channel = begin * LANES; channel < end * LANES; channel += LANES)
        for (int64_t output = 0; output < outputs; output += DEPTH) {
            Vector transformed[DEPTH][4][4], rows[DEPTH];
            for (int64_t i = 0; i < DEPTH; i++)
                transform_kernel(kernels + (output + i) * 9 * channels + channel, channels, true, transformed[i]);
            for (int at = 0; at < 16; at++) {
                for (int64_t i = 0; i < DEPTH; i++) rows[i] = transformed[i][at / 4][at % 4];
                store_interleaved(to + (at * channels + channel) * outputs + output * LANES, rows);
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
            Vector transformed[4][4], own[3][3];
            for (int at = 0; at < 16; at++) {
                Vector total = Vector{};
                for (int64_t part = 0; part < parts; part++)
                    total += load(sums + (part * 16 + at) * place + output * channels + channel);
                transformed[at / 4][at % 4] = total;
            }
            transform_both(transformed, own, [](const Vector (&u)[4], Vector (&to)[3]) {
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
    return {LANES, strip, convolve_any, transform_all, transform_rotated, sum_any, kernel_gradient};
}
}  // namespace VARIANT
