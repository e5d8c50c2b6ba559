//! What a message of CUDA, cuBLAS, cuDNN or NCCL means for the GPU. The texts are those of `cudaGetErrorString` and the
//! names of the libraries' statuses, which libtorch quotes in its exceptions.

/// What is wrong with a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceFault {
    /// Memory cannot be allocated, on a device or on the host.
    OutOfMemory,
    /// The GPU, its driver or this machine's installation cannot be used now. Another machine can.
    Unusable,
    /// The hardware reports an error: its results are not reliable until somebody has reset or replaced it.
    Broken,
}

const OUT_OF_MEMORY: [&str; 7] = [
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
];

/// Xids 48, 63, 64, 94 and 95 (memory), 74 (NVLink) and 79 (off the bus) reach programs with these texts.
const BROKEN: [&str; 6] = [
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "peer GPU memory over nvlink or a hardware error",
    "hardware stack error",
    "GPU is lost",
    "fallen off the bus",
];

const UNUSABLE: [&str; 17] = [
    "CUDA driver version is insufficient",
    "NVIDIA driver on your system is too old",
    "Found no NVIDIA driver",
    "no CUDA-capable device is detected",
    "CUDA-capable device(s) is/are busy or unavailable",
    "No CUDA GPUs are available",
    "CUDA error: invalid device ordinal",
    "CUDA error: unknown error",
    "CUDA unknown error",
    "CUDA error: initialization error",
    "CUDA error: system not yet initialized",
    "unsupported display driver / cuda driver combination",
    "forward compatibility was attempted on non supported HW",
    "no kernel image is available for execution on the device",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    // Too little room in /dev/shm, a network interface that is gone.
    "ncclSystemError",
];

impl DeviceFault {
    /// The fault that a message reports. `None` for everything that may be a bug instead, such as an illegal memory
    /// access.
    #[must_use]
    pub fn of(message: &str) -> Option<Self> {
        let tells_of = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
        if tells_of(&BROKEN) {
            Some(Self::Broken)
        } else if tells_of(&OUT_OF_MEMORY) {
            Some(Self::OutOfMemory)
        } else if tells_of(&UNUSABLE) {
            Some(Self::Unusable)
        } else {
            None
        }
    }
}

/// A message from another rank than 0: of its failure, or a warning.
#[must_use]
pub fn of_rank(rank: u32, message: &str) -> String {
    format!("rank {rank}: {message}")
}

/// The rank that a message of a run's failure is about: the one that [`of_rank`] names, or else 0.
#[must_use]
pub fn rank_of(message: &str) -> usize {
    let number = message.strip_prefix("rank ").and_then(|rest| rest.split_once(": "));
    number.and_then(|(number, _)| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_cuda_and_its_libraries_say_what_is_wrong_with_the_gpu() {
        use DeviceFault::{Broken, OutOfMemory, Unusable};
        let cases = [
            ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB", OutOfMemory),
            ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", OutOfMemory),
            ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", OutOfMemory),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", OutOfMemory),
            ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", OutOfMemory),
            ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", OutOfMemory),
            ("CUDA error: uncorrectable ECC error encountered\nSearch for `cudaErrorECCUncorrectable'", Broken),
            ("CUDA error: uncorrectable NVLink error detected during the execution", Broken),
            ("CUDA error: hardware stack error", Broken),
            ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", Unusable),
            ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", Unusable),
            ("CUDA error: no kernel image is available for execution on the device", Unusable),
            ("CUDA error: system not yet initialized", Unusable),
            ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", Unusable),
            ("NCCL error in: f.cpp:1, unhandled system error\nncclSystemError: System call failed", Unusable),
        ];
        for (message, fault) in cases {
            assert_eq!(DeviceFault::of(message), Some(fault), "{message}");
        }
        for message in [
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: device-side assert triggered",
            "CUDA error: unspecified launch failure",
            "cuDNN error: CUDNN_STATUS_BAD_PARAM",
            "The size of tensor a (3) must match the size of tensor b (4)",
        ] {
            assert_eq!(DeviceFault::of(message), None, "{message}");
        }
    }

    #[test]
    fn a_message_names_the_rank_that_failed() {
        assert_eq!(rank_of(&of_rank(3, "CUDA error: uncorrectable ECC error encountered")), 3);
        assert_eq!(rank_of("CUDA error: uncorrectable ECC error encountered"), 0);
        assert_eq!(rank_of("rank and file: nothing"), 0);
    }
}
