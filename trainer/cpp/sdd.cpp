// The loss of src/loss/sdd.rs by the kernel of cuda/kernels/sdd_loss.cuh, which computes the gradient in the same pass.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

#include "../cuda/kernels/sdd_loss.cuh"
#include "gpu_kernel.h"
#include "parallel.h"
#include "shim.h"

// What does not change from step to step. As in src/device/sdd_kernel.rs.
struct SddSettings {
    const int *starts;  // [scales + 1]
    int scales, base, grouping;
    float temperature, alpha, beta, gamma, consistent, complementary;
};

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void on_gpu(sdd::Arguments &arguments, const GpuKernel &gpu, int8_t device) {
    const int rows = arguments.images * arguments.regions;
    const unsigned blocks = std::max(1, (rows + sdd::TEAMS - 1) / sdd::TEAMS);
    gpu.issue(arguments, blocks, sdd::LANES * sdd::TEAMS, device);
}

template <class T>
void on_cpu(const sdd::Arguments &arguments) {
    const sdd::Team team{};
    at::parallel_for(0, arguments.images * arguments.regions, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) sdd::row<T>(team, arguments, static_cast<int>(row));
    });
    for (int number = 0; number < sdd::totals(arguments); number++) sdd::total(team, arguments, number);
}

// Logits [B, …, K] in which those of an image are contiguous.
Tensor contiguous_in_images(const Tensor &logits) {
    int64_t stride = 1;
    for (int64_t dimension = logits.dim() - 1; dimension > 0; dimension--) {
        if (logits.size(dimension) != 1 && logits.stride(dimension) != stride) return logits.contiguous();
        stride *= logits.size(dimension);
    }
    return logits;
}

struct SddLoss : torch::autograd::Function<SddLoss> {
    // The loss, a scalar, and the report of the kernel.
    static variable_list forward(AutogradContext *context, Tensor student, Tensor teacher, Tensor global, Tensor labels,
                                 Tensor region_weights, const SddSettings *settings, const GpuKernel *gpu) {
        const auto kind = student.scalar_type();
        TORCH_CHECK(kind == at::kFloat || (kind == at::kBFloat16 && !gpu), "the loss's kernel takes no logits of ",
                    kind);
        TORCH_CHECK(teacher.scalar_type() == kind && global.scalar_type() == kind, "logits of different kinds");
        const int64_t images = student.size(0), regions = student.size(1), classes = student.size(2);
        const bool fits = teacher.sizes() == student.sizes() &&
                          global.sizes() == at::IntArrayRef({images, classes}) &&
                          labels.sizes() == at::IntArrayRef({images}) &&
                          region_weights.sizes() == at::IntArrayRef({regions}) &&
                          settings->scales <= sdd::MOST_SCALES && settings->starts[settings->scales] == regions;
        TORCH_CHECK(fits, "logits of ", student.sizes(), " and ", teacher.sizes(), " do not fit the loss");
        constexpr int64_t most = std::numeric_limits<int>::max() / 2;
        TORCH_CHECK(images * regions <= most && classes <= most, "the loss's kernel takes no batch of ", images,
                    " images");
        student = contiguous_in_images(student);
        teacher = contiguous_in_images(teacher);
        global = contiguous_in_images(global);
        labels = labels.to(at::kLong).contiguous();
        const auto numbers = student.options().dtype(at::kFloat);
        const auto gradient = at::empty({images, regions, classes}, student.options());
        const auto rows = at::empty({2, images, regions}, numbers);
        const auto loss = at::empty({}, numbers), report = at::empty({sdd::SCALES + 2 * settings->scales}, numbers);

        sdd::Arguments arguments{};
        arguments.student = student.data_ptr();
        arguments.teacher = teacher.data_ptr();
        arguments.global = global.data_ptr();
        arguments.labels = static_cast<const long long *>(labels.data_ptr());
        arguments.region_weights = region_weights.data_ptr<float>();
        arguments.gradient = gradient.data_ptr();
        arguments.rows = rows.data_ptr<float>();
        arguments.loss = loss.data_ptr<float>();
        arguments.report = report.data_ptr<float>();
        arguments.student_stride = student.stride(0);
        arguments.teacher_stride = teacher.stride(0);
        arguments.global_stride = global.stride(0);
        arguments.images = static_cast<int>(images);
        arguments.regions = static_cast<int>(regions);
        arguments.classes = static_cast<int>(classes);
        arguments.scales = settings->scales;
        std::copy_n(settings->starts, settings->scales + 1, arguments.starts);
        arguments.base = settings->base;
        arguments.grouping = settings->grouping;
        arguments.temperature = settings->temperature;
        arguments.alpha = settings->alpha;
        arguments.beta = settings->beta;
        arguments.gamma = settings->gamma;
        arguments.consistent = settings->consistent;
        arguments.complementary = settings->complementary;
        if (gpu)
            on_gpu(arguments, *gpu, student.get_device());
        else if (kind == at::kFloat)
            on_cpu<float>(arguments);
        else
            on_cpu<sdd::Bfloat16>(arguments);
        context->save_for_backward({gradient});
        context->mark_non_differentiable({report});
        return {loss, report};
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        variable_list found(7);
        found[0] = context->get_saved_variables()[0] * gradients[0];
        return found;
    }
};

}  // namespace

// The loss of logits [B, R, K], with gradient, and what the kernel reports of it. `gpu` takes logits in float32, and is
// null on the CPU.
extern "C" char *distillery_sdd(Tensor **loss, Tensor **report, const Tensor *student, const Tensor *teacher,
                                const Tensor *global, const Tensor *labels, const Tensor *region_weights,
                                const SddSettings *settings, const GpuKernel *gpu) {
    return guarded([&] {
        auto made = SddLoss::apply(*student, *teacher, *global, *labels, *region_weights, settings, gpu);
        *loss = new Tensor(made[0]);
        *report = new Tensor(made[1]);
    });
}
