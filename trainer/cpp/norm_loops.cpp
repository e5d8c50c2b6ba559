// Compiled once per instruction set, with VARIANT as its name: see norm_loops.h and build.rs.
#include "norm_loops.h"

#include <algorithm>
#include <cstring>

namespace {

inline float load(const float *from) { return *from; }

inline float load(const Bfloat16 *from) {
    const uint32_t bits = static_cast<uint32_t>(from->bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void store(float *to, float value) { *to = value; }

// Rounds to nearest, ties to even. NaN stays NaN.
inline void store(Bfloat16 *to, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to->bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// Calls work(first, length) for each period.
template <class Work>
inline void periods(int64_t count, int64_t width, Work work) {
    for (int64_t first = 0; first < count; first += width) work(first, std::min(width, count - first));
}

template <class T>
void moments(const T *__restrict x, int64_t count, int64_t width, const float *__restrict shift, float *__restrict sum,
             float *__restrict squares) {
    periods(count, width, [=](int64_t first, int64_t length) {
        for (int64_t i = 0; i < length; i++) {
            const float value = load(x + first + i) - shift[i];
            sum[i] += value;
            squares[i] += value * value;
        }
    });
}

template <class T, bool ADDS, bool RELU>
void apply(const T *__restrict x, const T *__restrict added, T *__restrict y, int64_t count, int64_t width,
           const float *__restrict scale, const float *__restrict offset) {
    periods(count, width, [=](int64_t first, int64_t length) {
        for (int64_t i = 0; i < length; i++) {
            float value = load(x + first + i) * scale[i] + offset[i];
            if (ADDS) value += load(added + first + i);
            // NaN stays NaN.
            if (RELU) value = value < 0 ? 0 : value;
            store(y + first + i, value);
        }
    });
}

template <class T>
void apply_any(const T *x, const T *added, T *y, int64_t count, int64_t width, const float *scale, const float *offset,
               bool relu) {
    const auto chosen = added ? (relu ? apply<T, true, true> : apply<T, true, false>)
                              : (relu ? apply<T, false, true> : apply<T, false, false>);
    chosen(x, added, y, count, width, scale, offset);
}

template <class T, bool RELU>
inline float cleared_gradient(const T *gradient, const T *y, int64_t i) {
    const float value = load(gradient + i);
    return RELU && load(y + i) <= 0 ? 0 : value;
}

template <class T, bool RELU, bool WRITES>
void gradient_sums(const T *__restrict gradient, const T *__restrict y, const T *__restrict x, T *__restrict cleared,
                   int64_t count, int64_t width, const float *__restrict mean, float *__restrict sum,
                   float *__restrict products) {
    periods(count, width, [=](int64_t first, int64_t length) {
        for (int64_t i = 0; i < length; i++) {
            const float value = cleared_gradient<T, RELU>(gradient, y, first + i);
            sum[i] += value;
            products[i] += value * (load(x + first + i) - mean[i]);
            if (WRITES) store(cleared + first + i, value);
        }
    });
}

template <class T>
void gradient_sums_any(const T *gradient, const T *y, const T *x, T *cleared, int64_t count, int64_t width,
                       const float *mean, float *sum, float *products) {
    const auto chosen = y ? (cleared ? gradient_sums<T, true, true> : gradient_sums<T, true, false>)
                          : (cleared ? gradient_sums<T, false, true> : gradient_sums<T, false, false>);
    chosen(gradient, y, x, cleared, count, width, mean, sum, products);
}

template <class T, bool RELU>
void gradient_of_input(const T *__restrict gradient, const T *__restrict y, const T *__restrict x, T *__restrict result,
                       int64_t count, int64_t width, const float *__restrict factor, const float *__restrict slope,
                       const float *__restrict constant) {
    periods(count, width, [=](int64_t first, int64_t length) {
        for (int64_t i = 0; i < length; i++) {
            const float value = cleared_gradient<T, RELU>(gradient, y, first + i);
            store(result + first + i, value * factor[i] + load(x + first + i) * slope[i] + constant[i]);
        }
    });
}

template <class T>
void gradient_any(const T *gradient, const T *y, const T *x, T *result, int64_t count, int64_t width, const float *factor,
                  const float *slope, const float *constant) {
    const auto chosen = y ? gradient_of_input<T, true> : gradient_of_input<T, false>;
    chosen(gradient, y, x, result, count, width, factor, slope, constant);
}

template <class T>
NormKernels<T> table() {
    return {moments<T>, apply_any<T>, gradient_sums_any<T>, gradient_any<T>};
}

}  // namespace

namespace VARIANT {
NormKernels<float> of_float() { return table<float>(); }
NormKernels<Bfloat16> of_bfloat16() { return table<Bfloat16>(); }
}  // namespace VARIANT
