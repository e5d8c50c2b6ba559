//! Flags of `measure`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Clone, Args)]
pub struct MeasureArgs {
    /// The student: a safetensors file that a job or `train` has written. Without one, an untrained network is
    /// measured.
    #[arg(long, env = "DISTILLERY_STUDENT", required_unless_present_any = ["network", "architecture"])]
    pub student: Option<PathBuf>,
    /// The exported network (.pt2) that the student was trained as, or that is measured as it is.
    #[arg(long, env = "DISTILLERY_NETWORK", conflicts_with = "architecture")]
    pub network: Option<PathBuf>,
    /// Untrained: a name of `GET /v1/architectures`.
    #[arg(long, env = "DISTILLERY_ARCHITECTURE", conflicts_with = "student", requires = "num_classes")]
    pub architecture: Option<String>,
    /// Untrained: number of classes.
    #[arg(long, env = "DISTILLERY_NUM_CLASSES", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub num_classes: Option<u32>,
    /// Untrained: side of its images in pixels. Default: that for which the architecture was designed.
    #[arg(long, env = "DISTILLERY_IMAGE_SIZE", value_parser = clap::value_parser!(u32).range(8..=1024))]
    pub image_size: Option<u32>,
    /// Number of images at a time. Can be repeated.
    #[arg(long, env = "DISTILLERY_BATCH", value_delimiter = ',', default_values_t = [1, 64],
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Vec<u32>,
    /// Seconds for which each batch is run again and again, at least three times.
    #[arg(long, env = "DISTILLERY_SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// ONNX Runtime's library, 1.17 or later, which runs the student.
    #[arg(long, env = "DISTILLERY_ONNXRUNTIME", default_value = "libonnxruntime.so")]
    pub onnxruntime: PathBuf,
    /// Most memory, in MiB, that the command may allocate (RLIMIT_DATA). Default: no limit.
    #[arg(long, env = "DISTILLERY_EXPORT_MEMORY_MIB")]
    pub memory_mib: Option<u64>,
}
