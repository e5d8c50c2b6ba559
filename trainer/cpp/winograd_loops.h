// Winograd's minimal filtering F(2×2, 3×3) of channels-last maps, in float32 or bfloat16 (Lavin and Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2016, section 4.1).
//
// A map [H, W, C] consists of ⌈H/2⌉·⌈W/2⌉ tiles of 2×2 pixels; tiles are numbered over the whole batch. A tile with the
// pixels around it, which are zero beyond the edges, is 4×4. In the transform domain the convolution becomes 16 matrix
// products, one for each position (i, j) of the 4×4. A strip of tiles at a time is transformed, multiplied and
// transformed back, so that the transform domain stays in the processor's caches.
#pragma once

#include "numbers.h"

// Numbers of channels are multiples of this.
constexpr int64_t CHANNELS = 16;

template <class T>
struct Maps {
    const T *pixels;
    int64_t count, height, width, channels;

    int64_t columns() const { return (width + 1) / 2; }
    int64_t tiles_each() const { return (height + 1) / 2 * columns(); }
    int64_t tiles() const { return count * tiles_each(); }
};

// Where a convolution writes Aᵀ m A, plus bias and `added` unless they are null, with a ReLU if `relu`.
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
    // Channels of a vector.
    int64_t lanes;
    // Tiles of a strip, for maps of that many channels.
    int64_t (*strip)(int64_t channels);
    // Convolves tiles begin..end with a transformed weight.
    void (*convolve)(const Maps<T> &maps, const T *transformed, const Results<T> &results, int64_t begin, int64_t end);
    // G g Gᵀ of kernels [outputs, 3, 3, C], in the order that the products read: 16·outputs·C numbers. For vectors
    // begin..end of outputs.
    void (*transform)(const float *kernels, int64_t outputs, int64_t channels, T *transformed, int64_t begin, int64_t end);
    // The same for the convolution that gives the gradient of the maps: kernels are rotated by 180°, and inputs and
    // outputs swapped. For vectors begin..end of channels.
    void (*transform_rotated)(const float *kernels, int64_t outputs, int64_t channels, T *transformed, int64_t begin, int64_t end);
    // Adds to sums [4, outputs, C] the contribution of tiles begin..end to the gradient of row i of the transformed
    // weight.
    void (*sum)(const Maps<T> &maps, const Maps<T> &gradient, int i, float *sums, int64_t begin, int64_t end);
    // Gᵀ u G of the sum u over the parts of sums [parts, 4, 4, outputs, C]: the gradient of kernels [outputs, 3, 3, C].
    // For outputs begin..end.
    void (*kernel_gradient)(const float *sums, int64_t parts, int64_t outputs, int64_t channels, float *gradient,
                            int64_t begin, int64_t end);
};

// Null if this processor lacks the instructions, or has others with which the direct convolution is faster.
template <class T>
const WinogradLoops<T> *winograd_loops();
