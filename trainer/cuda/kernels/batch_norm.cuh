// Batch norm in training mode with the sum and the ReLU that follow it, over maps that are channels last: two kernels
// forward and two backward. The first of each adds up in parts, the second adds the parts up, always in the same order,
// and computes the map.
//
// One source for GPUs, where NVRTC compiles it behind numbers.cuh without any header, and for CPUs
// (cpp/batch_norm.cpp). A block has a thread for each of 32 channels of 8 pixels: on a GPU threads, on a CPU loops.
//
// NVRTC defines NORM_MAPS as Float32 or Bfloat16.
#ifdef __CUDACC_RTC__
#define DEVICE __device__ inline
#else
#include "numbers.cuh"
#define DEVICE inline
#endif

namespace batch_norm {

using numbers::Bfloat16;
using numbers::Float32;
using numbers::load;
using numbers::store;

constexpr int LANES = 32;
// Pixels that a block takes at a time.
constexpr int ROWS = 8;
// Fewest pixels of a part, and most parts.
constexpr int LEAST_PIXELS = 128;
constexpr int MOST_PARTS = 128;

// What the kernels read and write. Maps are of one kind, float or Bfloat16, and have a row of channels for each pixel
// of all images.
struct Arguments {
    const void *x;
    const void *added;           // null without a sum
    const void *y;               // backward, the ReLU's result; null without a ReLU
    const void *gradient;        // backward, that of y
    void *made;                  // y, or backward the gradient of x
    void *cleared;               // backward, the gradient behind the ReLU, if wanted, or else null
    const float *weight, *bias;  // [C], as all others but `parts`
    float *mean, *inverse;       // of the batch; `inverse` is 1 over its deviation
    float *running_mean, *running_variance;
    float *of_weight, *of_bias;  // backward, their gradients
    float *parts;                // [2, parts, C], scratch: two sums of each part
    long long pixels;
    int channels, parts_count, has_relu;
    double momentum, epsilon;
};

DEVICE int tiles(const Arguments &a) { return (a.channels + LANES - 1) / LANES; }

// What a block is for: some channels of some pixels.
struct Place {
    int first_channel, part;
    long long first, end;  // pixels

    DEVICE Place(const Arguments &a, int number) {
        const long long each = (a.pixels + a.parts_count - 1) / a.parts_count;
        first_channel = number % tiles(a) * LANES;
        part = number / tiles(a);
        first = part * each;
        end = first + each < a.pixels ? first + each : a.pixels;
    }
};

// Two numbers of each thread, in memory that a block shares.
struct Shared {
    float one[ROWS][LANES], other[ROWS][LANES];
};

struct Block {
    // Calls work(row, lane) on all threads, and waits until all have done it.
    template <class Work>
    DEVICE void each(Work work) const {
#ifdef __CUDACC_RTC__
        work((int)threadIdx.x / LANES, (int)threadIdx.x % LANES);
        __syncthreads();
#else
        for (int row = 0; row < ROWS; row++)
            for (int lane = 0; lane < LANES; lane++) work(row, lane);
#endif
    }
};

// Adds up what the threads have of each channel, and keeps it as this part's.
DEVICE void keep(const Block &block, const Arguments &a, const Place &place, const Shared &shared) {
    block.each([&](int row, int lane) {
        const int channel = place.first_channel + lane;
        if (row != 0 || channel >= a.channels) return;
        float one = 0, other = 0;
        for (int from = 0; from < ROWS; from++) {
            one += shared.one[from][lane];
            other += shared.other[from][lane];
        }
        a.parts[(long long)place.part * a.channels + channel] = one;
        a.parts[((long long)a.parts_count + place.part) * a.channels + channel] = other;
    });
}

// Leaves each thread with the sums of some parts.
DEVICE void gather(const Block &block, const Arguments &a, const Place &place, Shared &shared) {
    block.each([&](int row, int lane) {
        const int channel = place.first_channel + lane;
        float one = 0, other = 0;
        if (channel < a.channels) {
            for (int part = row; part < a.parts_count; part += ROWS) {
                one += a.parts[(long long)part * a.channels + channel];
                other += a.parts[((long long)a.parts_count + part) * a.channels + channel];
            }
        }
        shared.one[row][lane] = one;
        shared.other[row][lane] = other;
    });
}

struct Totals {
    double one, other;

    DEVICE Totals(const Shared &shared, int lane) : one(0), other(0) {
        for (int row = 0; row < ROWS; row++) {
            one += shared.one[row][lane];
            other += shared.other[row][lane];
        }
    }
};

// --- forward ---------------------------------------------------------------------------------------------------------

// Sums of x and of its square, shifted by the first pixel: that is close to the mean, so that the difference of squares
// does not cancel out.
template <class T>
DEVICE void moments(const Block &block, const Arguments &a, int number, Shared &shared) {
    const Place place(a, number);
    const T *x = (const T *)a.x;
    block.each([&](int row, int lane) {
        const int channel = place.first_channel + lane;
        float sum = 0, squares = 0;
        if (channel < a.channels) {
            const float shift = load(x, channel);
            for (long long pixel = place.first + row; pixel < place.end; pixel += ROWS) {
                const float shifted = load(x, pixel * a.channels + channel) - shift;
                sum += shifted;
                squares += shifted * shifted;
            }
        }
        shared.one[row][lane] = sum;
        shared.other[row][lane] = squares;
    });
    keep(block, a, place, shared);
}

// The map, and of each channel mean, deviation and running statistics.
template <class T>
DEVICE void apply(const Block &block, const Arguments &a, int number, Shared &shared) {
    const Place place(a, number);
    const T *x = (const T *)a.x, *added = (const T *)a.added;
    T *y = (T *)a.made;
    gather(block, a, place, shared);
    block.each([&](int row, int lane) {
        const int channel = place.first_channel + lane;
        if (row != 0 || channel >= a.channels) return;
        const Totals totals(shared, lane);
        const double count = (double)a.pixels, shifted = totals.one / count;
        const double spread = totals.other / count - shifted * shifted;
        // One that is not a number stays so.
        const double variance = spread < 0 ? 0 : spread;
        const double mean = load(x, channel) + shifted, inverse = 1 / sqrt(variance + a.epsilon);
        shared.one[0][lane] = (float)mean;
        shared.other[0][lane] = (float)(a.weight[channel] * inverse);
        if (place.part != 0) return;
        a.mean[channel] = (float)mean;
        a.inverse[channel] = (float)inverse;
        // The unbiased variance, as in PyTorch.
        const double unbiased = variance * count / (count - 1);
        a.running_mean[channel] = (float)((1 - a.momentum) * a.running_mean[channel] + a.momentum * mean);
        a.running_variance[channel] = (float)((1 - a.momentum) * a.running_variance[channel] + a.momentum * unbiased);
    });
    block.each([&](int row, int lane) {
        const int channel = place.first_channel + lane;
        if (channel >= a.channels) return;
        const float mean = shared.one[0][lane], factor = shared.other[0][lane], bias = a.bias[channel];
        for (long long pixel = place.first + row; pixel < place.end; pixel += ROWS) {
            const long long at = pixel * a.channels + channel;
            float value = (load(x, at) - mean) * factor + bias;
            if (added) value += load(added, at);
            store(y, at, a.has_relu && value < 0 ? 0.0f : value);
        }
    });
}

// --- backward --------------------------------------------------------------------------------------------------------

// The gradient behind the ReLU, which PyTorch also clears where the ReLU's result is 0.
template <class T>
DEVICE float behind_relu(const T *gradient, const T *y, long long at) {
    return y && load(y, at) <= 0 ? 0.0f : load(gradient, at);
}

// Sums of the gradient and of its product with x minus the mean.
template <class T>
DEVICE void gradient_sums(const Block &block, const Arguments &a, int number, Shared &shared) {
    const Place place(a, number);
    const T *x = (const T *)a.x, *gradient = (const T *)a.gradient, *y = (const T *)a.y;
    T *cleared = (T *)a.cleared;
    block.each([&](int row, int lane) {
        const int channel = place.first_channel + lane;
        float sum = 0, products = 0;
        if (channel < a.channels) {
            const float mean = a.mean[channel];
            for (long long pixel = place.first + row; pixel < place.end; pixel += ROWS) {
                const long long at = pixel * a.channels + channel;
                const float slope = behind_relu(gradient, y, at);
                if (cleared) store(cleared, at, slope);
                sum += slope;
                products += slope * (load(x, at) - mean);
            }
        }
        shared.one[row][lane] = sum;
        shared.other[row][lane] = products;
    });
    keep(block, a, place, shared);
}

// The gradient of the map, and those of weight and bias.
template <class T>
DEVICE void gradient(const Block &block, const Arguments &a, int number, Shared &shared) {
    const Place place(a, number);
    const T *x = (const T *)a.x, *of_y = (const T *)a.gradient, *y = (const T *)a.y;
    T *of_x = (T *)a.made;
    gather(block, a, place, shared);
    block.each([&](int row, int lane) {
        const int channel = place.first_channel + lane;
        if (row != 0 || channel >= a.channels) return;
        const Totals totals(shared, lane);
        const double inverse = a.inverse[channel], factor = a.weight[channel] * inverse, count = (double)a.pixels;
        const double product = totals.other * inverse;
        shared.one[0][lane] = (float)(factor * totals.one / count);
        shared.other[0][lane] = (float)(factor * inverse * product / count);
        if (place.part != 0) return;
        a.of_weight[channel] = (float)product;
        a.of_bias[channel] = (float)totals.one;
    });
    block.each([&](int row, int lane) {
        const int channel = place.first_channel + lane;
        if (channel >= a.channels) return;
        const float mean = a.mean[channel], factor = a.weight[channel] * a.inverse[channel];
        const float constant = shared.one[0][lane], along = shared.other[0][lane];
        for (long long pixel = place.first + row; pixel < place.end; pixel += ROWS) {
            const long long at = pixel * a.channels + channel;
            store(of_x, at, behind_relu(of_y, y, at) * factor - constant - (load(x, at) - mean) * along);
        }
    });
}

}  // namespace batch_norm

#ifdef __CUDACC_RTC__

// With a block for each tile of channels of each part.
#define KERNEL(pass)                                                                   \
    extern "C" __global__ void __launch_bounds__(batch_norm::LANES *batch_norm::ROWS)  \
        norm_##pass(const __grid_constant__ batch_norm::Arguments a) {                 \
        __shared__ batch_norm::Shared shared;                                          \
        const batch_norm::Block block{};                                               \
        batch_norm::pass<batch_norm::NORM_MAPS>(block, a, (int)blockIdx.x, shared);    \
    }

KERNEL(moments)
KERNEL(apply)
KERNEL(gradient_sums)
KERNEL(gradient)

#undef KERNEL
#endif

#undef DEVICE
