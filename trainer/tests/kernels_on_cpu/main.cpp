// Runs each kernel twice, as GPUs run it (see gpu.h) and as CPUs do, and compares the bytes: what the threads of a GPU
// do is then tested without one. Prints what differs, and exits with 1 if anything does.
//
// MAPS is the kind of logits and maps, Float32 or Bfloat16. Compiled without fused operations.
#include <algorithm>
#include <string>
#include <vector>

#include "gpu.h"

// For CPUs.
#include "../../cuda/kernels/batch_norm.cuh"
#include "../../cuda/kernels/crop_normalise.cuh"
#include "../../cuda/kernels/sdd_loss.cuh"

using Number = numbers::MAPS;
namespace cpu_loss = sdd;
namespace cpu_norm = batch_norm;
namespace cpu_crop = crop;

// For GPUs, as NVRTC sees them, with names of their own.
#define __CUDACC_RTC__
#define numbers numbers_of_gpu
#define sdd sdd_of_gpu
#define batch_norm batch_norm_of_gpu
#define crop crop_of_gpu
#define SDD_LOGITS MAPS
#define NORM_MAPS MAPS
#undef DISTILLERY_NUMBERS
#include "../../cuda/kernels/numbers.cuh"
//
#include "../../cuda/kernels/batch_norm.cuh"
#include "../../cuda/kernels/crop_normalise.cuh"
#include "../../cuda/kernels/sdd_loss.cuh"

namespace {

int faults = 0;

template <class T>
void compare(const std::vector<T> &found, const std::vector<T> &wanted, const std::string &what) {
    if (found.size() == wanted.size() && !memcmp(found.data(), wanted.data(), found.size() * sizeof(T))) return;
    fprintf(stderr, "%s: a GPU's threads compute other bytes than a CPU's loops\n", what.c_str());
    faults++;
}

unsigned state = 1;

// Between -size and size.
float noise(float size) {
    state = state * 1664525u + 1013904223u;
    return size * (static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
}

std::vector<float> floats(size_t count, float size) {
    std::vector<float> all(count);
    for (float &number : all) number = noise(size);
    return all;
}

std::vector<Number> map(size_t count, float size) {
    std::vector<Number> all(count);
    for (size_t i = 0; i < count; i++) cpu_loss::store(all.data(), static_cast<long long>(i), noise(size));
    return all;
}

// --- the loss --------------------------------------------------------------------------------------------------------

struct LossResult {
    std::vector<Number> gradient;
    std::vector<float> rows, loss, report;
};

struct LossCase {
    static constexpr int REGIONS = 21, SCALES = 3;
    int images, classes, base, grouping;
    std::vector<Number> student, teacher;
    std::vector<long long> labels;
    std::vector<float> region_weights = floats(REGIONS, 1);

    LossCase(int images, int classes, int base)
        : images(images), classes(classes), base(base), grouping(classes % 2),
          student(map(size_t(images) * REGIONS * classes, 9)), teacher(map(student.size(), 9)) {
        for (int image = 0; image < images; image++) labels.push_back(image % classes);
    }

    template <class Arguments>
    Arguments arguments(LossResult &result) const {
        result.gradient.assign(student.size(), Number{});
        result.rows.assign(2 * images * REGIONS, -1);
        result.loss.assign(1, -1);
        result.report.assign(3 + 2 * SCALES, -1);
        Arguments a{};
        a.student = student.data();
        a.teacher = teacher.data();
        // Scale 1 comes first.
        a.global = teacher.data();
        a.labels = labels.data();
        a.region_weights = region_weights.data();
        a.gradient = result.gradient.data();
        a.rows = result.rows.data();
        a.loss = result.loss.data();
        a.report = result.report.data();
        a.student_stride = a.teacher_stride = a.global_stride = static_cast<long long>(REGIONS) * classes;
        a.images = images;
        a.regions = REGIONS;
        a.classes = classes;
        a.scales = SCALES;
        const int starts[] = {0, 1, 5, REGIONS};
        std::copy(starts, starts + SCALES + 1, a.starts);
        a.base = base;
        a.grouping = grouping;
        a.temperature = 3;
        a.alpha = 0.5f;
        a.beta = 8;
        a.gamma = 1.5f;
        a.consistent = 1;
        a.complementary = 2;
        return a;
    }

    void check() const {
        LossResult wanted;
        const auto a = arguments<cpu_loss::Arguments>(wanted);
        const cpu_loss::Team team{};
        for (int row = 0; row < images * REGIONS; row++) cpu_loss::row<Number>(team, a, row);
        for (int number = 0; number < cpu_loss::totals(a); number++) cpu_loss::total(team, a, number);
        for (int order = 0; order < gpu::ORDERS; order++) {
            // The second launch counts blocks as the first has left them.
            for (int launch = 0; launch < (order == 0 ? 2 : 1); launch++) {
                LossResult found;
                const auto b = arguments<sdd_of_gpu::Arguments>(found);
                const int blocks = (images * REGIONS + cpu_loss::TEAMS - 1) / cpu_loss::TEAMS;
                gpu::launch(blocks, cpu_loss::LANES * cpu_loss::TEAMS, order, [&] { sdd_loss(b); });
                const auto what = "loss " + std::to_string(base) + " of " + std::to_string(images) + " images and " +
                                  std::to_string(classes) + " classes, launch " + std::to_string(launch) + ": ";
                compare(found.gradient, wanted.gradient, what + "gradient");
                compare(found.rows, wanted.rows, what + "rows");
                compare(found.loss, wanted.loss, what + "loss");
                compare(found.report, wanted.report, what + "report");
            }
        }
    }
};

// --- batch norm ------------------------------------------------------------------------------------------------------

struct NormResult {
    std::vector<Number> made, of_x, cleared;
    std::vector<float> mean, inverse, running_mean, running_variance, of_weight, of_bias, parts;
};

struct NormCase {
    int pixels, channels;
    bool adds, relu;
    size_t count = size_t(pixels) * channels;
    std::vector<Number> x = map(count, 4), added = map(count, 1), gradient = map(count, 1);
    std::vector<float> weight = floats(channels, 1), bias = floats(channels, 1);

    int parts() const { return std::clamp(pixels / cpu_norm::LEAST_PIXELS, 1, cpu_norm::MOST_PARTS); }

    template <class Arguments>
    Arguments arguments(NormResult &result) const {
        result.made.assign(count, Number{});
        result.of_x = result.cleared = result.made;
        result.mean.assign(channels, 0);
        result.inverse = result.of_weight = result.of_bias = result.running_mean = result.mean;
        result.running_variance.assign(channels, 1);
        result.parts.assign(size_t(2) * parts() * channels, 0);
        Arguments a{};
        a.x = x.data();
        a.added = adds ? added.data() : nullptr;
        a.made = result.made.data();
        a.weight = weight.data();
        a.bias = bias.data();
        a.mean = result.mean.data();
        a.inverse = result.inverse.data();
        a.running_mean = result.running_mean.data();
        a.running_variance = result.running_variance.data();
        a.of_weight = result.of_weight.data();
        a.of_bias = result.of_bias.data();
        a.parts = result.parts.data();
        a.pixels = pixels;
        a.channels = channels;
        a.parts_count = parts();
        a.has_relu = relu;
        a.momentum = 0.1;
        a.epsilon = 1e-5;
        return a;
    }

    // The arguments of the way back.
    template <class Arguments>
    Arguments backward(Arguments a, NormResult &result) const {
        a.y = relu ? result.made.data() : nullptr;
        a.gradient = gradient.data();
        a.made = result.of_x.data();
        a.cleared = adds && relu ? result.cleared.data() : nullptr;
        return a;
    }

    template <class Pass>
    void on_cpu(Pass pass, const cpu_norm::Arguments &a) const {
        const cpu_norm::Block block{};
        for (int number = 0; number < cpu_norm::tiles(a) * a.parts_count; number++) {
            cpu_norm::Shared shared;
            pass(block, a, number, shared);
        }
    }

    template <class Kernel>
    void on_gpu(Kernel kernel, const batch_norm_of_gpu::Arguments &a, int order) const {
        const int blocks = batch_norm_of_gpu::tiles(a) * a.parts_count;
        gpu::launch(blocks, cpu_norm::LANES * cpu_norm::ROWS, order, [&] { kernel(a); });
    }

    void check() const {
        NormResult wanted;
        const auto a = arguments<cpu_norm::Arguments>(wanted);
        on_cpu(cpu_norm::moments<Number>, a);
        on_cpu(cpu_norm::apply<Number>, a);
        const auto back = backward(a, wanted);
        on_cpu(cpu_norm::gradient_sums<Number>, back);
        on_cpu(cpu_norm::gradient<Number>, back);
        for (int order = 0; order < gpu::ORDERS; order++) {
            NormResult found;
            const auto b = arguments<batch_norm_of_gpu::Arguments>(found);
            on_gpu(norm_moments, b, order);
            on_gpu(norm_apply, b, order);
            const auto back = backward(b, found);
            on_gpu(norm_gradient_sums, back, order);
            on_gpu(norm_gradient, back, order);
            const auto what = "batch norm of " + std::to_string(pixels) + " pixels and " + std::to_string(channels) +
                              " channels: ";
            compare(found.made, wanted.made, what + "map");
            compare(found.mean, wanted.mean, what + "mean");
            compare(found.inverse, wanted.inverse, what + "deviation");
            compare(found.running_mean, wanted.running_mean, what + "running mean");
            compare(found.running_variance, wanted.running_variance, what + "running variance");
            compare(found.of_x, wanted.of_x, what + "gradient");
            compare(found.cleared, wanted.cleared, what + "gradient of the summand");
            compare(found.of_weight, wanted.of_weight, what + "gradient of the weight");
            compare(found.of_bias, wanted.of_bias, what + "gradient of the bias");
        }
    }
};

// --- crops -----------------------------------------------------------------------------------------------------------

template <class Arguments>
Arguments crop_arguments(const std::vector<unsigned char> &images, const std::vector<long long> &crops,
                         const std::vector<float> &scale, const std::vector<float> &offset, int side,
                         std::vector<float> &normalised) {
    normalised.assign(images.size(), 0);
    Arguments a{};
    a.images = images.data();
    a.crops = crops.empty() ? nullptr : crops.data();
    a.scale = scale.data();
    a.offset = offset.data();
    a.normalised = normalised.data();
    a.images_count = static_cast<int>(images.size()) / (3 * side * side);
    a.side = side;
    a.padding = 4;
    return a;
}

void check_crops(int count, int side, bool is_cropped) {
    std::vector<unsigned char> images(size_t(count) * 3 * side * side);
    for (auto &byte : images) byte = static_cast<unsigned char>(state = state * 1664525u + 1013904223u);
    std::vector<long long> places;
    for (int image = 0; is_cropped && image < count; image++) {
        const bool mirrored = image % 2;
        const long long top = image * 4 % 9, left = image * 5 % 9;
        const long long row[] = {top, mirrored ? left + side - 1 : left, mirrored ? -1 : 1};
        places.insert(places.end(), row, row + 3);
    }
    const auto scale = floats(3, 1), offset = floats(3, 1);
    std::vector<float> found, wanted;
    const auto a = crop_arguments<cpu_crop::Arguments>(images, places, scale, offset, side, wanted);
    const auto b = crop_arguments<crop_of_gpu::Arguments>(images, places, scale, offset, side, found);
    const int pixels = count * side * side;
    for (int number = 0; number < pixels; number++) cpu_crop::pixel(a, number);
    gpu::launch((pixels + cpu_crop::THREADS - 1) / cpu_crop::THREADS, cpu_crop::THREADS, 0, [&] { crop_normalise(b); });
    compare(found, wanted, "crops of " + std::to_string(count) + " images");
}

}  // namespace

int main() {
    for (int base = 0; base < 4; base++)
        for (const int classes : {2, 33}) LossCase(1 + classes % 3, classes, base).check();
    LossCase(1, 1025, 1).check();
    for (const bool adds : {false, true})
        for (const bool relu : {false, true}) {
            NormCase{300, 5, adds, relu}.check();
            NormCase{130, 64, adds, relu}.check();
            NormCase{1100, 70, adds, relu}.check();
        }
    check_crops(3, 10, true);
    check_crops(2, 16, false);
    return faults ? 1 : 0;
}
