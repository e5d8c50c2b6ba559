// Winograd's minimal filtering F(2×2, 3×3) in bfloat16, between maps whose channels are last (Lavin and Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2016, section 4.1).
//
// A map [H, W, C] consists of ⌈H/2⌉·⌈W/2⌉ tiles of 2×2 pixels, and the tiles of a batch are counted through. A tile and the
// pixels around it, zeros beyond the edges, are 4×4. In the other basis there are 16 products of matrices instead of a
// convolution, one for each place (i, j) of the 4×4. A few tiles at a time are changed, multiplied and changed back, so that
// nothing in the other basis leaves the processor's caches.
#pragma once

#include "numbers.h"

// Channels are multiples of it.
constexpr int64_t LANES = 16;

struct Maps {
    const Brain *pixels;
    int64_t count, height, width, channels;

    int64_t columns() const { return (width + 1) / 2; }
    int64_t tiles_each() const { return (height + 1) / 2 * columns(); }
    int64_t tiles() const { return count * tiles_each(); }
};

// A convolution's result: Aᵀ m A plus the bias and `added` where they are not null, and without what is negative where `relu`.
struct Results {
    Brain *pixels;
    int64_t channels;
    const float *bias;
    const Brain *added;
    bool relu;
};

// Whether this processor has the instructions, and none that are faster at the direct convolution.
bool has_winograd();

// Tiles that are worked on together, of maps of that many channels.
int64_t winograd_strip(int64_t channels);

// The tiles from `begin` on, before `end`, of the convolution by a changed weight.
void winograd_convolve(const Maps &maps, const Brain *changed, const Results &results, int64_t begin, int64_t end);

// G g Gᵀ of kernels [outputs, 3, 3, C], as the products read it: [16, outputs/LANES, C/2, LANES, 2]. Of the groups of
// outputs from `begin` on, before `end`.
void winograd_change(const float *kernels, int64_t outputs, int64_t channels, Brain *changed, int64_t begin, int64_t end);

// The same for the convolution that gives the gradient of the maps: of kernels that are turned around, inputs for outputs.
// Of the groups of channels from `begin` on, before `end`.
void winograd_change_turned(const float *kernels, int64_t outputs, int64_t channels, Brain *changed, int64_t begin, int64_t end);

// Adds to sums [4, outputs, C] what the tiles from `begin` on, before `end`, say of the gradient of the changed weight's
// places of row i.
void winograd_sum(const Maps &maps, const Maps &gradient, int i, float *sums, int64_t begin, int64_t end);

// Gᵀ u G of sums [parts, 4, 4, outputs, C] over the parts: the gradient of kernels [outputs, 3, 3, C]. Of the outputs from
// `begin` on, before `end`.
void winograd_kernel_gradient(const float *sums, int64_t parts, int64_t outputs, int64_t channels, float *gradient,
                              int64_t begin, int64_t end);
