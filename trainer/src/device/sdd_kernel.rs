//! The kernel of the distillation loss, `cuda/kernels/sdd_loss.cuh`: the loss and its gradient in one launch, where
//! libtorch needs dozens.
#![allow(unsafe_code, reason = "calls functions of C")]

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::ffi::unwrap;
use super::gpu_kernel::GpuKernel;

/// The kernel's source, which needs the macros of [`Base::macros`].
pub const SOURCE: &CStr = match CStr::from_bytes_with_nul(
    concat!(include_str!("../../cuda/kernels/numbers.cuh"), include_str!("../../cuda/kernels/sdd_loss.cuh"), "\0")
        .as_bytes(),
) {
    Ok(source) => source,
    Err(_) => panic!("the source has no NUL"),
};

/// Most scales that the kernel takes.
pub const MOST_SCALES: usize = 16;
/// The numbers in a report before those of the scales.
const BEFORE_SCALES: i64 = 3;

unsafe extern "C" {
    fn distillery_sdd(
        loss: *mut *mut C_tensor,
        report: *mut *mut C_tensor,
        student: *const C_tensor,
        teacher: *const C_tensor,
        global: *const C_tensor,
        labels: *const C_tensor,
        region_weights: *const C_tensor,
        settings: *const SddSettings,
        gpu: *const GpuKernel,
    ) -> *mut c_char;
}

/// The losses of a region that the kernel computes, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Kd,
    Dkd,
    Nkd,
    /// NKD whose distributed part leaves out the label's class.
    NkdWithoutTarget,
}

impl Base {
    /// What NVRTC defines to compile the kernel for this loss, for logits in float32 or bfloat16.
    #[must_use]
    pub fn macros(self, is_float: bool) -> [&'static str; 2] {
        let base = match self {
            Self::Kd => "SDD_BASE=KD",
            Self::Dkd => "SDD_BASE=DKD",
            Self::Nkd => "SDD_BASE=NKD",
            Self::NkdWithoutTarget => "SDD_BASE=NKD_WITHOUT_TARGET",
        };
        [base, if is_float { "SDD_LOGITS=Float32" } else { "SDD_LOGITS=Bfloat16" }]
    }
}

/// What does not change from step to step.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub base: Base,
    /// Whether regions are grouped by class rather than by label.
    pub by_class: bool,
    /// Ascending, [`MOST_SCALES`] at most.
    pub scales: Vec<u32>,
    pub temperature: f64,
    /// Weights of the parts of DKD, and the second of NKD's: 0 where the loss has none.
    pub alpha: f64,
    pub beta: f64,
    pub gamma: f64,
    /// Weights of the groups.
    pub consistent: f64,
    pub complementary: f64,
}

/// `SddSettings` of `cpp/sdd.cpp`.
#[repr(C)]
struct SddSettings {
    starts: *const c_int,
    scales: c_int,
    base: c_int,
    grouping: c_int,
    temperature: f32,
    alpha: f32,
    beta: f32,
    gamma: f32,
    consistent: f32,
    complementary: f32,
}

/// The kernel on a device.
#[derive(Debug)]
pub struct SddKernel {
    parameters: Parameters,
    /// The first region of each scale, and the number of regions.
    starts: Vec<c_int>,
    /// `None` on the CPU.
    gpu: Option<GpuKernel>,
}

/// What the kernel computes of a batch.
#[derive(Debug)]
pub struct Computed {
    /// A scalar with gradient.
    pub loss: Tensor,
    /// Its part from consistent regions, its part from complementary ones, and the fraction of these.
    pub consistent: Tensor,
    pub complementary: Tensor,
    pub complementary_fraction: Tensor,
    /// The mean unweighted loss of each scale, and the fraction of its regions that are complementary: `[scales]`
    pub per_scale: Tensor,
    pub complementary_per_scale: Tensor,
}

impl SddKernel {
    /// On a GPU it is compiled first, which takes half a second. The GPU is the current one of this thread.
    ///
    /// # Errors
    /// It cannot be compiled or loaded.
    pub fn new(parameters: Parameters, device: Device) -> Result<Self, String> {
        if parameters.scales.len() > MOST_SCALES {
            return Err(format!("its kernel takes {MOST_SCALES} scales at most"));
        }
        let starts = (0..=parameters.scales.len())
            .map(|count| parameters.scales[..count].iter().map(|scale| scale * scale).sum::<u32>() as c_int)
            .collect();
        let gpu = GpuKernel::on(device, SOURCE, c"sdd_loss", &parameters.base.macros(true))?;
        Ok(Self { parameters, starts, gpu })
    }

    /// The loss of a student's logits [B, N, K] with the teacher's, its logits [B, K] for whole images, labels `[B]`
    /// and the weight of each region's scale, `[N]` in float32. Logits are float32, or bfloat16 on the CPU. Where the
    /// loss depends on a label that is no class, it is not a number.
    #[must_use]
    pub fn apply(
        &self,
        student: &Tensor,
        teacher: &Tensor,
        global: &Tensor,
        labels: &Tensor,
        region_weights: &Tensor,
    ) -> Computed {
        let Parameters { base, by_class, ref scales, temperature, alpha, beta, gamma, consistent, complementary } =
            self.parameters;
        let settings = SddSettings {
            starts: self.starts.as_ptr(),
            scales: scales.len() as c_int,
            base: base as c_int,
            grouping: by_class.into(),
            temperature: temperature as f32,
            alpha: alpha as f32,
            beta: beta as f32,
            gamma: gamma as f32,
            consistent: consistent as f32,
            complementary: complementary as f32,
        };
        let (mut loss, mut report) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: every pointer is of a tensor or value that lives until the call returns, or null for the CPU; the
        // function counts its references to tensors. If it succeeds it makes two tensors, which nobody else owns.
        let (loss, report) = unsafe {
            unwrap(distillery_sdd(
                &raw mut loss,
                &raw mut report,
                student.as_ptr(),
                teacher.as_ptr(),
                global.as_ptr(),
                labels.as_ptr(),
                region_weights.as_ptr(),
                &raw const settings,
                self.gpu.as_ref().map_or(ptr::null(), ptr::from_ref),
            ));
            (Tensor::from_ptr(loss), Tensor::from_ptr(report))
        };
        let count = scales.len() as i64;
        Computed {
            loss,
            consistent: report.get(0),
            complementary: report.get(1),
            complementary_fraction: report.get(2),
            per_scale: report.narrow(0, BEFORE_SCALES, count),
            complementary_per_scale: report.narrow(0, BEFORE_SCALES + count, count),
        }
    }
}
