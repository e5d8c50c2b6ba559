//! Flags of `export`.

use std::path::PathBuf;

use clap::Args;
use distillery_core::export::ExportFormat;

#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The student: a safetensors file that a job or `train` has written.
    #[arg(long, env = "DISTILLERY_STUDENT")]
    pub student: PathBuf,
    /// The exported network (.pt2) that the student was trained as. Not for the networks of `GET /v1/architectures`.
    #[arg(long, env = "DISTILLERY_NETWORK")]
    pub network: Option<PathBuf>,
    /// Format of the file to write.
    #[arg(long, env = "DISTILLERY_FORMAT", value_enum)]
    pub format: ExportFormat,
    /// The file to write. An existing file is replaced, unless it is an input.
    #[arg(long, short, env = "DISTILLERY_OUTPUT")]
    pub output: PathBuf,
    /// ONNX: normalise images in the graph, whose input is then RGB pixels in [0, 1].
    #[arg(long, env = "DISTILLERY_PREPROCESS")]
    pub preprocess: bool,
    /// A safetensors file with evaluation images (`images` [N, 3, H, W]) and the student's logits (`logits`
    /// [N, classes]), to compare ONNX Runtime's with: the run's samples.safetensors. It may have `labels` `[N]` and,
    /// for int8, training images (`calibration` [M, 3, H, W]).
    #[arg(long, env = "DISTILLERY_SAMPLES")]
    pub samples: Option<PathBuf>,
    /// The student is the one after the last epoch: compare with the samples' `logits_last`.
    #[arg(long, env = "DISTILLERY_LAST")]
    pub last: bool,
    /// ONNX Runtime's library, 1.17 or later, which runs the exported student on the samples.
    #[arg(long, env = "DISTILLERY_ONNXRUNTIME", default_value = "libonnxruntime.so")]
    pub onnxruntime: PathBuf,
    /// Most memory, in MiB, that the command may allocate (RLIMIT_DATA). Default: no limit.
    #[arg(long, env = "DISTILLERY_EXPORT_MEMORY_MIB")]
    pub memory_mib: Option<u64>,
    /// Bundle: the formats in it. Default: safetensors, onnx and, for exported networks, pt2.
    #[arg(long = "with", env = "DISTILLERY_WITH", value_enum, value_delimiter = ',')]
    pub with: Vec<ExportFormat>,
    /// Bundle: the run's manifest.json, for the model card.
    #[arg(long, env = "DISTILLERY_MANIFEST")]
    pub manifest: Option<PathBuf>,
    /// Bundle: the name of a teacher that was an exported network, for the model card.
    #[arg(long, env = "DISTILLERY_TEACHER_NAME")]
    pub teacher_name: Option<String>,
    /// Bundle: the name of the exported network that the student was trained as, for the model card. Default: that of
    /// the file.
    #[arg(long, env = "DISTILLERY_NETWORK_NAME")]
    pub network_name: Option<String>,
    /// Bundle: the title of the model card. Default: the name of the student's file.
    #[arg(long, env = "DISTILLERY_TITLE")]
    pub title: Option<String>,
    /// Also write the report, which is printed as JSON, to this file.
    #[arg(long, env = "DISTILLERY_REPORT")]
    pub report: Option<PathBuf>,
}
