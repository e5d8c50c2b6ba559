//! The arithmetic that feature maps are computed in.

use tch::{Device, Kind};

use crate::device;
use crate::error::{Error, Result};
use distillery_core::architecture::Family;
use distillery_core::spec::{self, TrainingPlan};

/// What feature maps are computed in. Weights, statistics, classifier, losses and optimiser always use float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapPrecision {
    Float32,
    /// float32, but a GPU's convolutions multiply with 10 bits of mantissa.
    Tf32,
    Bfloat16,
}

impl MapPrecision {
    /// The arithmetic of a specification on a device. `auto` means bfloat16 where the device multiplies it natively and
    /// the accuracy has been shown to stay the same (docs/performance.md); otherwise TF32 on GPUs that have it, as in
    /// PyTorch.
    ///
    /// # Errors
    /// The specification demands bfloat16 and the GPU does not have it.
    pub fn choose(spec: &TrainingPlan, device: Device) -> Result<Self> {
        let is_native = device::multiplies_bfloat16(device);
        match spec.training.precision {
            spec::Precision::Auto if is_native && keeps_accuracy(spec) => Ok(Self::Bfloat16),
            spec::Precision::Auto if is_native && device != Device::Cpu => Ok(Self::Tf32),
            spec::Precision::Auto | spec::Precision::Float32 => Ok(Self::Float32),
            spec::Precision::Bfloat16 if !is_native && device != Device::Cpu => Err(Error::user(
                "training.precision is bfloat16, which needs a GPU of compute capability 8.0 or higher: use float32 or \
                 auto",
            )),
            spec::Precision::Bfloat16 => Ok(Self::Bfloat16),
        }
    }

    /// The kind of feature maps.
    #[must_use]
    pub fn kind(self) -> Kind {
        if self == Self::Bfloat16 { Kind::BFloat16 } else { Kind::Float }
    }

    /// The name in events and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

/// Whether both networks belong to families whose students were as accurate in bfloat16 (docs/performance.md). It is
/// not known of exported networks.
fn keeps_accuracy(spec: &TrainingPlan) -> bool {
    let teacher = spec.teacher.as_ref().map(|teacher| teacher.architecture);
    teacher.into_iter().chain([spec.student.architecture]).all(|network| match network.map(|network| network.family) {
        Some(Family::CifarResnet(_) | Family::WideResnet(_) | Family::Vgg(_) | Family::Shufflenet(_)) => true,
        Some(Family::Mobilenet(_) | Family::Resnet(_)) | None => false,
    })
}
