// Crops and normalises images by the kernel of cuda/kernels/crop_normalise.cuh.
#include <ATen/ATen.h>

#include <limits>

#include "../cuda/kernels/crop_normalise.cuh"
#include "gpu_kernel.h"
#include "parallel.h"
#include "shim.h"

// Crops of bytes [B, 3, S, S] as float32 of the same size, channels last. `crops` is null for whole images, and `gpu`
// is null on the CPU.
extern "C" char *distillery_crop_normalise(at::Tensor **result, const at::Tensor *images, const at::Tensor *crops,
                                           const at::Tensor *scale, const at::Tensor *offset, int padding,
                                           const GpuKernel *gpu) {
    return guarded([&] {
        TORCH_CHECK(images->scalar_type() == at::kByte && images->dim() == 4 && images->size(1) == crop::CHANNELS &&
                        images->size(2) == images->size(3),
                    "images of ", images->sizes(), " cannot be cropped: they are not square or not bytes");
        const int64_t count = images->size(0), side = images->size(3), pixels = count * side * side;
        // The last block may have numbers beyond the last pixel.
        TORCH_CHECK(pixels <= std::numeric_limits<int>::max() - crop::THREADS, "a batch of ", count,
                    " images is too large to be cropped by one kernel");
        TORCH_CHECK(scale->numel() == crop::CHANNELS && offset->numel() == crop::CHANNELS, "a channel without a scale");
        const auto bytes = images->contiguous(), scales = scale->contiguous(), offsets = offset->contiguous();
        const auto places = crops ? crops->to(at::kLong).contiguous() : at::Tensor();
        TORCH_CHECK(!crops || places.sizes() == at::IntArrayRef({count, 3}), "crops of ", places.sizes());
        const auto options = images->options().dtype(at::kFloat).memory_format(at::MemoryFormat::ChannelsLast);
        const auto normalised = at::empty(images->sizes(), options);
        crop::Arguments arguments{};
        arguments.images = bytes.data_ptr<uint8_t>();
        arguments.crops = crops ? static_cast<const long long *>(places.data_ptr()) : nullptr;
        arguments.scale = scales.data_ptr<float>();
        arguments.offset = offsets.data_ptr<float>();
        arguments.normalised = normalised.data_ptr<float>();
        arguments.images_count = static_cast<int>(count);
        arguments.side = static_cast<int>(side);
        arguments.padding = padding;
        if (gpu && pixels > 0) {
            const auto blocks = static_cast<unsigned>((pixels + crop::THREADS - 1) / crop::THREADS);
            gpu->issue(arguments, blocks, crop::THREADS, images->get_device());
        } else if (!gpu) {
            at::parallel_for(0, pixels, 1024, [&](int64_t begin, int64_t end) {
                for (int64_t number = begin; number < end; number++) crop::pixel(arguments, static_cast<int>(number));
            });
        }
        *result = new at::Tensor(normalised);
    });
}
