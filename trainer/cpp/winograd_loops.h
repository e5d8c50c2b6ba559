// Winograd's minimal filtering F(2×2, 3×3) between maps whose channels are last, in float32 or bfloat16 (Lavin and Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2016, section 4.1).
//
// A map [H, W, C] consists of ⌈H/2⌉·⌈W/2⌉ tiles of 2×2 pixels, and the tiles of a batch are counted through. A tile and the
// pixels around it, zeros beyond the edges, are 4×4. In the other basis there are 16 products of matrices instead of a
// convolution, one for each place (i, j) of the 4×4. A few tiles at a time are changed, multiplied and changed back, so that
// nothing in the other basis leaves the processor's caches.
#pragma once

#include "numbers.h"

// Channels are multiples of it.
constexpr int64_t CHANNELS = 16;

template <class T>
struct Maps {
    const T *pixels;
    int64_t count, height, width, channels;

    int64_t columns() const { return (width + 1) / 2; }
    int64_t tiles_each() const { return (height + 1) / 2 * columns(); }
    int64_t tiles() const { return count * tiles_each(); }
};

// A convolution's result: Aᵀ m A plus the bias and `added` where they are not null, and without what is negative where `relu`.
template <class T>
struct Results {
    T *pixels;
    int64_t channels;
    const float *bias;
    const T *added;
    bool relu;
};

template <class T>
struct WinogradLoops {
    // Outputs or channels of a vector.
    int64_t lanes;
    // Tiles that are worked on together, of maps of that many channels.
    int64_t (*strip)(int64_t channels);
    // The tiles from `begin` on, before `end`, of the convolution by a changed weight.
    void (*convolve)(const Maps<T> &maps, const T *changed, const Results<T> &results, int64_t begin, int64_t end);
    // G g Gᵀ of kernels [outputs, 3, 3, C], as the products read it: 16·outputs·C numbers. Of the vectors of outputs from
    // `begin` on, before `end`.
    void (*change)(const float *kernels, int64_t outputs, int64_t channels, T *changed, int64_t begin, int64_t end);
    // The same for the convolution that gives the gradient of the maps: of kernels that are turned around, inputs for
    // outputs. Of the vectors of channels from `begin` on, before `end`.
    void (*change_turned)(const float *kernels, int64_t outputs, int64_t channels, T *changed, int64_t begin, int64_t end);
    // Adds to sums [4, outputs, C] what the tiles from `begin` on, before `end`, say of the gradient of the changed weight's
    // places of row i.
    void (*sum)(const Maps<T> &maps, const Maps<T> &gradient, int i, float *sums, int64_t begin, int64_t end);
    // Gᵀ u G of sums [parts, 4, 4, outputs, C] over the parts: the gradient of kernels [outputs, 3, 3, C]. Of the outputs from
    // `begin` on, before `end`.
    void (*kernel_gradient)(const float *sums, int64_t parts, int64_t outputs, int64_t channels, float *gradient,
                            int64_t begin, int64_t end);
};

// Null where this processor does not have the instructions, or has others that are faster at the direct convolution.
template <class T>
const WinogradLoops<T> *winograd_loops();
