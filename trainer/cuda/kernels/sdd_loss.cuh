// The loss of Scale Decoupled Distillation (Wei et al., CVPR 2024), its parts and its gradient, in one kernel. It
// computes what src/loss/sdd.rs does with the bases KD, DKD and NKD of src/loss/region.rs.
//
// One source for GPUs, where NVRTC compiles it behind numbers.cuh without any header (src/device/nvrtc.rs), and for
// CPUs (cpp/sdd.cpp). A team of 32 computes the loss of a region: on a GPU a warp, on a CPU a loop. Sums are float32
// and always in the same order, on both: 32 interleaved partial sums, which are then added in pairs.
//
// NVRTC defines SDD_BASE as one of Base, and SDD_LOGITS as Float32 or Bfloat16. Compiling all of them would take
// seconds.
#ifdef __CUDACC_RTC__
#define DEVICE __device__ inline
#else
#include "numbers.cuh"
#define DEVICE inline
#endif

namespace sdd {

using numbers::Bfloat16;
using numbers::Float32;
using numbers::load;
using numbers::minus_infinity;
using numbers::not_a_number;
using numbers::store;

constexpr int LANES = 32;
// Teams of a block.
constexpr int TEAMS = 8;
constexpr int MOST_SCALES = 16;
// No class.
constexpr int NONE = -1;

enum Base { KD, DKD, NKD, NKD_WITHOUT_TARGET };
enum Grouping { BY_LABEL, BY_CLASS };

// What a launch reads and writes. Logits are of one kind, float or Bfloat16; those of an image are contiguous.
struct Arguments {
    const void *student;          // [B, R, K]
    const void *teacher;          // [B, R, K]
    const void *global;           // [B, K], the teacher's for whole images
    const long long *labels;      // [B]
    const float *region_weights;  // [R], the weight of each region's scale
    void *gradient;               // [B, R, K], of the loss with respect to the student's logits
    float *rows;                  // [2, B, R], scratch: the loss of each region, and 1 where it is complementary
    float *loss;                  // a scalar
    float *report;                // [3 + 2 scales]: see Quantity
    long long student_stride, teacher_stride, global_stride;  // from an image to the next
    int images, regions, classes, scales;
    int starts[MOST_SCALES + 1];  // the first region of each scale, and the number of regions
    int base, grouping;
    float temperature, alpha, beta, gamma;
    float consistent, complementary;  // the weights of the groups
};

// Where `report` has what. From SCALES on it has the mean loss of each scale, and then the fraction of each scale's
// regions that are complementary.
enum Quantity { CONSISTENT, COMPLEMENTARY, FRACTION, SCALES };

// --- teams -----------------------------------------------------------------------------------------------------------

struct Largest {
    float value;
    int index;  // the first of those with this value

    DEVICE void take(float other, int at) {
        if (other > value || (other == value && at < index)) {
            value = other;
            index = at;
        }
    }
};

#ifdef __CUDACC_RTC__

struct Team {
    int lane;

    DEVICE bool is_first() const { return lane == 0; }

    template <class Value>
    DEVICE float sum(int count, Value value) const {
        float mine = 0;
        for (int i = lane; i < count; i += LANES) mine += value(i);
        for (int half = LANES / 2; half; half /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, half);
        return mine;
    }

    template <class Value>
    DEVICE Largest largest(int count, Value value) const {
        Largest mine{minus_infinity(), 0x7fffffff};
        for (int i = lane; i < count; i += LANES) mine.take(value(i), i);
        for (int half = LANES / 2; half; half /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, mine.value, half);
            mine.take(other, __shfl_xor_sync(0xffffffffu, mine.index, half));
        }
        return mine;
    }
};

#else

struct Team {
    bool is_first() const { return true; }

    template <class Value>
    float sum(int count, Value value) const {
        float parts[LANES] = {};
        for (int first = 0; first < count; first += LANES)
            for (int lane = 0; lane < LANES && first + lane < count; lane++) parts[lane] += value(first + lane);
        for (int half = LANES / 2; half; half /= 2)
            for (int lane = 0; lane < half; lane++) parts[lane] += parts[lane + half];
        return parts[0];
    }

    template <class Value>
    Largest largest(int count, Value value) const {
        Largest found{minus_infinity(), 0x7fffffff};
        for (int i = 0; i < count; i++) found.take(value(i), i);
        return found;
    }
};

#endif

// --- the loss of a region --------------------------------------------------------------------------------------------

// The log-softmax of logits at a temperature, over all classes but one, which may be NONE.
template <class T>
struct LogSoftmax {
    const T *logits;
    float temperature;
    int without;
    float largest, log_sum;

    DEVICE LogSoftmax(const Team &team, const T *of, int classes, float at, int but)
        : logits(of), temperature(at), without(but) {
        largest = team.largest(classes, [&](int c) { return c == without ? minus_infinity() : scaled(c); }).value;
        log_sum = logf(team.sum(classes, [&](int c) { return c == without ? 0.0f : expf(scaled(c) - largest); }));
    }

    DEVICE float scaled(int c) const { return load(logits, c) / temperature; }
    DEVICE float operator()(int c) const { return scaled(c) - largest - log_sum; }
    // The logit of all these classes together.
    DEVICE float joint() const { return largest + log_sum; }
};

// log(1 / (1 + exp(-x)))
DEVICE float log_sigmoid(float x) { return (x < 0 ? x : 0.0f) - log1pf(expf(x < 0 ? x : -x)); }

// A region of an image.
template <class T>
struct Region {
    const T *student, *teacher;
    int classes, label;
    T *gradient;
    float factor;  // of the gradient

    DEVICE void slope(int c, float value) const { store(gradient, c, factor * value); }

    DEVICE float kd(const Team &team, float temperature) const {
        const LogSoftmax<T> log_p(team, student, classes, temperature, NONE);
        const LogSoftmax<T> log_q(team, teacher, classes, temperature, NONE);
        const float divergence = team.sum(classes, [&](int c) {
            const float q = expf(log_q(c));
            slope(c, temperature * (expf(log_p(c)) - q));
            return q * (log_q(c) - log_p(c));
        });
        return divergence * (temperature * temperature);
    }

    DEVICE float dkd(const Team &team, float temperature, float alpha, float beta) const {
        const LogSoftmax<T> log_p(team, student, classes, temperature, label);
        const LogSoftmax<T> log_q(team, teacher, classes, temperature, label);
        // The label against all other classes together.
        const float odds_p = log_p.scaled(label) - log_p.joint(), odds_q = log_q.scaled(label) - log_q.joint();
        const float is_p = log_sigmoid(odds_p), is_q = log_sigmoid(odds_q);
        const float not_p = log_sigmoid(-odds_p), not_q = log_sigmoid(-odds_q);
        const float of_others = alpha * (expf(not_p) - expf(not_q));
        const float others = team.sum(classes, [&](int c) {
            if (c == label) {
                slope(c, temperature * alpha * (expf(is_p) - expf(is_q)));
                return 0.0f;
            }
            const float p = expf(log_p(c)), q = expf(log_q(c));
            slope(c, temperature * (of_others * p + beta * (p - q)));
            return q * (log_q(c) - log_p(c));
        });
        const float target_or_not = expf(is_q) * (is_q - is_p) + expf(not_q) * (not_q - not_p);
        return (target_or_not * alpha + others * beta) * (temperature * temperature);
    }

    DEVICE float nkd(const Team &team, float temperature, float gamma, bool excludes_target) const {
        const LogSoftmax<T> whole_p(team, student, classes, 1, NONE), whole_q(team, teacher, classes, 1, NONE);
        const int without = excludes_target ? label : NONE;
        const LogSoftmax<T> log_p(team, student, classes, temperature, without);
        const LogSoftmax<T> log_q(team, teacher, classes, temperature, without);
        const float of_target = expf(whole_q(label));
        const float distributed = team.sum(classes, [&](int c) {
            const float of_label = of_target * (expf(whole_p(c)) - (c == label ? 1.0f : 0.0f));
            if (c == without) {
                slope(c, of_label);
                return 0.0f;
            }
            const float q = expf(log_q(c));
            slope(c, of_label + gamma * temperature * (expf(log_p(c)) - q));
            return q * log_p(c);
        });
        return -of_target * whole_p(label) - distributed * (gamma * temperature * temperature);
    }
};

// Writes the loss of a row, which is a region of an image, its group, and its gradient.
template <class T>
DEVICE void row(const Team &team, const Arguments &a, int row) {
    const int image = row / a.regions, at = row % a.regions, rows = a.images * a.regions;
    const T *teacher = (const T *)a.teacher + image * a.teacher_stride + (long long)at * a.classes;
    const T *global = (const T *)a.global + image * a.global_stride;
    const long long label = a.labels[image];
    const int local_class = team.largest(a.classes, [&](int c) { return load(teacher, c); }).index;
    const int global_class = team.largest(a.classes, [&](int c) { return load(global, c); }).index;
    const bool agrees =
        a.grouping == BY_LABEL ? (local_class == label) == (global_class == label) : local_class == global_class;
    const float weight = (agrees ? a.consistent : a.complementary) * a.region_weights[at];

    Region<T> region;
    region.student = (const T *)a.student + image * a.student_stride + (long long)at * a.classes;
    region.teacher = teacher;
    region.classes = a.classes;
    region.gradient = (T *)a.gradient + (long long)row * a.classes;
    region.factor = weight / (float)rows;
#ifdef SDD_BASE
    constexpr int base = SDD_BASE;
#else
    const int base = a.base;
#endif
    // Where a base needs the label and there is none, the loss is not a number, which ends the run.
    const bool lacks_label = base != KD && (label < 0 || label >= a.classes);
    region.label = lacks_label ? 0 : (int)label;
    if (lacks_label) region.factor = not_a_number();
    float loss;
    switch (base) {
        case KD: loss = region.kd(team, a.temperature); break;
        case DKD: loss = region.dkd(team, a.temperature, a.alpha, a.beta); break;
        default: loss = region.nkd(team, a.temperature, a.gamma, base == NKD_WITHOUT_TARGET); break;
    }
    if (!team.is_first()) return;
    a.rows[row] = lacks_label ? not_a_number() : loss;
    a.rows[rows + row] = agrees ? 0.0f : 1.0f;
}

// --- the loss of the batch -------------------------------------------------------------------------------------------

// What there is to add up once all rows are done: the loss with its parts, and each of the other quantities.
DEVICE int totals(const Arguments &a) { return 2 + 2 * a.scales; }

DEVICE void total(const Team &team, const Arguments &a, int number) {
    const int rows = a.images * a.regions;
    // Other blocks have written them.
    const volatile float *losses = a.rows, *is_complementary = a.rows + rows;
    if (number == 0) {
        const auto weighted = [&](int row, float group) {
            return group * a.region_weights[row % a.regions] * losses[row];
        };
        const float all = team.sum(rows, [&](int row) {
            return weighted(row, is_complementary[row] != 0 ? a.complementary : a.consistent);
        });
        const float part = team.sum(
            rows, [&](int row) { return is_complementary[row] != 0 ? weighted(row, a.complementary) : 0.0f; });
        if (!team.is_first()) return;
        *a.loss = all / (float)rows;
        a.report[COMPLEMENTARY] = part / (float)rows;
        a.report[CONSISTENT] = all / (float)rows - part / (float)rows;
    } else if (number == 1) {
        const float complementary = team.sum(rows, [&](int row) { return is_complementary[row]; });
        if (team.is_first()) a.report[FRACTION] = complementary / (float)rows;
    } else {
        const int scale = (number - 2) % a.scales, start = a.starts[scale], places = a.starts[scale + 1] - start;
        const volatile float *of = number - 2 < a.scales ? losses : is_complementary;
        const int count = a.images * places;
        const float sum = team.sum(count, [&](int i) { return of[i / places * a.regions + start + i % places]; });
        if (team.is_first()) a.report[SCALES + number - 2] = sum / (float)count;
    }
}

}  // namespace sdd

#ifdef __CUDACC_RTC__

// Blocks that have done their rows. The last one of a launch adds them up, and sets this back for the next launch.
__device__ unsigned arrived = 0;

// With a block for each 8 rows. Launches must not overlap.
extern "C" __global__ void __launch_bounds__(sdd::LANES *sdd::TEAMS)
    sdd_loss(const __grid_constant__ sdd::Arguments a) {
    const int number = threadIdx.x / sdd::LANES, row = blockIdx.x * sdd::TEAMS + number;
    const sdd::Team team{(int)threadIdx.x % sdd::LANES};
    if (row < a.images * a.regions) sdd::row<sdd::SDD_LOGITS>(team, a, row);
    __shared__ bool is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(&arrived, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (int which = number; which < sdd::totals(a); which += sdd::TEAMS) sdd::total(team, a, which);
    if (threadIdx.x == 0) arrived = 0;
}

#endif

#undef DEVICE
