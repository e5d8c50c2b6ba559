//! Flags of `export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Format of a student's file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// <https://github.com/huggingface/safetensors>, with the keys of PyTorch's state dict.
    #[default]
    Safetensors,
    /// The exported network that the student was trained as, with its weights: `torch.export.load(…).module()`.
    Pt2,
    /// ONNX, in float32.
    Onnx,
    /// ONNX with weights and activations as int8, calibrated on training images.
    Int8,
    /// A zip with several formats, labels, preprocessing, a model card and Python that runs it.
    Bundle,
}

impl ExportFormat {
    /// The name in commands and URLs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Pt2 => "pt2",
            Self::Onnx => "onnx",
            Self::Int8 => "int8",
            Self::Bundle => "bundle",
        }
    }

    /// What the names of its files end with.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Safetensors => ".safetensors",
            Self::Pt2 => ".pt2",
            Self::Onnx => ".onnx",
            Self::Int8 => ".int8.onnx",
            Self::Bundle => ".zip",
        }
    }
}

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
    /// The file to write. An existing one is replaced.
    #[arg(long, short, env = "DISTILLERY_OUTPUT")]
    pub output: PathBuf,
    /// ONNX: normalise images in the graph, whose input is then RGB pixels in [0, 1].
    #[arg(long, env = "DISTILLERY_PREPROCESS")]
    pub preprocess: bool,
    /// A safetensors file with evaluation images as the network sees them (`images` [N, 3, H, W]) and the student's
    /// logits (`logits` [N, classes]), to compare ONNX Runtime's with. It may have `labels` [N] and, for int8, training
    /// images (`calibration` [M, 3, H, W]).
    #[arg(long, env = "DISTILLERY_SAMPLES")]
    pub samples: Option<PathBuf>,
    /// ONNX Runtime's library, 1.17 or later, which runs the exported student on the samples.
    #[arg(long, env = "DISTILLERY_ONNXRUNTIME", default_value = "libonnxruntime.so")]
    pub onnxruntime: PathBuf,
    /// Bundle: the formats in it. Default: safetensors, onnx and, for exported networks, pt2.
    #[arg(long = "with", env = "DISTILLERY_WITH", value_enum, value_delimiter = ',')]
    pub with: Vec<ExportFormat>,
    /// Bundle: the run's manifest.json, for the model card.
    #[arg(long, env = "DISTILLERY_MANIFEST")]
    pub manifest: Option<PathBuf>,
    /// Bundle: the title of the model card. Default: the name of the student's file.
    #[arg(long, env = "DISTILLERY_TITLE")]
    pub title: Option<String>,
    /// Also write the report, which is printed as JSON, to this file.
    #[arg(long, env = "DISTILLERY_REPORT")]
    pub report: Option<PathBuf>,
}
