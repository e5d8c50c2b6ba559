// A crop of each image, mirrored or not, and its normalisation, in one kernel: the numbers of src/data/augment.rs and
// src/data/normalisation.rs to the last bit.
//
// One source for GPUs, where NVRTC compiles it without any header, and for CPUs (cpp/crop.cpp).
#ifdef __CUDACC_RTC__
#define DEVICE __device__ inline
#else
#define DEVICE inline
#endif

namespace crop {

constexpr int THREADS = 256;
constexpr int CHANNELS = 3;

struct Arguments {
    const unsigned char *images;  // [B, 3, S, S]
    const long long *crops;       // [B, 3]: first row, first column and direction; null takes whole images
    const float *scale, *offset;  // [3]
    float *normalised;            // [B, S, S, 3]
    int images_count, side;
    int padding;  // black pixels on each side of an image before the crop
};

// x * scale + offset, with both results rounded, as by two of libtorch's operators.
DEVICE float scaled(float x, float scale, float offset) {
#ifdef __CUDACC_RTC__
    return __fadd_rn(__fmul_rn(x, scale), offset);
#else
    const volatile float product = x * scale;
    return product + offset;
#endif
}

// Writes the channels of a pixel of the crops, which are numbered image by image and row by row.
DEVICE void pixel(const Arguments &a, int number) {
    const int area = a.side * a.side, image = number / area, place = number % area;
    long long row = place / a.side, column = place % a.side;
    if (a.crops) {
        const long long *crop = a.crops + (long long)image * 3;
        row += crop[0] - a.padding;
        column = crop[1] + crop[2] * column - a.padding;
    }
    const bool is_inside = 0 <= row && row < a.side && 0 <= column && column < a.side;
    const unsigned char *from = a.images + (long long)image * CHANNELS * area + row * a.side + column;
    float *to = a.normalised + (long long)number * CHANNELS;
    for (int channel = 0; channel < CHANNELS; channel++) {
        const float byte = is_inside ? (float)from[(long long)channel * area] : 0.0f;
        to[channel] = scaled(byte, a.scale[channel], a.offset[channel]);
    }
}

}  // namespace crop

#ifdef __CUDACC_RTC__

// With a thread for each pixel.
extern "C" __global__ void __launch_bounds__(crop::THREADS) crop_normalise(const __grid_constant__ crop::Arguments a) {
    const int number = blockIdx.x * crop::THREADS + threadIdx.x;
    if (number < a.images_count * a.side * a.side) crop::pixel(a, number);
}

#endif

#undef DEVICE
