// The changes of basis of Winograd's minimal filtering F(2×2, 3×3), between maps whose channels are last and tiles
// (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.1).
//
// A map [H, W, C] consists of ⌈H/2⌉·⌈W/2⌉ tiles of 2×2 pixels; a tile and the pixels around it, zeros beyond the edges,
// are 4×4. In the other basis there are 16 matrices [tiles, C], one `stride` after another. C is a multiple of LANES.
#pragma once

#include "numbers.h"

constexpr int64_t LANES = 16;

struct Map {
    int64_t height, width, channels;

    int64_t tiles() const { return (height + 1) / 2 * ((width + 1) / 2); }
};

struct WinogradLoops {
    // Bᵀ d B of the 4×4 pixels of each tile.
    void (*input)(const Brain *map, Brain *tiles, int64_t stride, Map size);
    // Aᵀ m A, the 2×2 pixels of each tile, plus the bias and `added` where they are not null, and without what is
    // negative where `relu`.
    void (*output)(const Brain *tiles, int64_t stride, const float *bias, const Brain *added, Brain *map, Map size, bool relu);
    // A g Aᵀ of the gradient of the 2×2 pixels of each tile.
    void (*output_gradient)(const Brain *gradient, Brain *tiles, int64_t stride, Map size);
    // B v Bᵀ, of which each pixel sums what its tiles say.
    void (*input_gradient)(const Brain *tiles, int64_t stride, Brain *gradient, Map size);
    // G g Gᵀ of a kernel [3, 3, C]: 16 rows of C, one `stride` after another.
    void (*weight)(const float *kernel, Brain *rows, int64_t stride, int64_t channels);
    // Gᵀ u G of the gradient of those.
    void (*weight_gradient)(const Brain *rows, int64_t stride, float *kernel, int64_t channels);
};

const WinogradLoops &winograd_loops();
