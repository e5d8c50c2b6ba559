//! The formats of students.

use clap::ValueEnum;
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

    /// Whether it is one ONNX file, whose graph can normalise images.
    #[must_use]
    pub fn is_onnx(self) -> bool {
        match self {
            Self::Onnx | Self::Int8 => true,
            Self::Safetensors | Self::Pt2 | Self::Bundle => false,
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
