//! Writes trained students in the formats of other programs, without libtorch: ONNX, `torch.export`'s `.pt2`, and
//! bundles of both with what a user needs to run them.
//!
//! There is one description of a student, [`Student`]: the graph of [`crate::exported`], which networks of
//! [`crate::architecture`] are converted to, and the weights of a safetensors file. Weights are read one tensor at a
//! time while a file is written, so that memory does not grow with the network.

mod card;
mod evaluation;
mod evaluation_mode;
mod format;
mod json_filter;
mod parity;
mod preprocessing;
mod pt2;
mod student;
mod zoo;

pub mod bundle;
mod contents;
pub mod int8;
pub mod onnx;
pub mod samples;

use std::io;

use crate::{checkpoint, exported};

pub use format::ExportFormat;
pub use parity::{ExportReport, LogitComparison, Parity, Runtime, TOLERANCE, Top1};
pub use preprocessing::Preprocessing;
pub use pt2::write as write_pt2;
pub use samples::{SampleBatch, Samples};
pub use student::{Student, StudentSource};

/// Exit status of `distillery export` if the student cannot be exported; that of other failures is 1.
pub const EXIT_REFUSED: u8 = 4;

/// The messages do not name the files, because the caller knows what users call them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The student's weights.
    #[error("the student's weights: {0}")]
    Weights(#[from] checkpoint::Error),
    #[error("the network: {0}")]
    Network(#[from] exported::Error),
    /// The student cannot be written in this format.
    #[error("{0}")]
    Refused(String),
    /// Reading or writing failed. Another attempt may succeed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether the files are at fault, not the machine.
    #[must_use]
    pub fn is_users(&self) -> bool {
        match self {
            Self::Weights(error) => error.is_users(),
            Self::Network(error) => error.is_users(),
            Self::Refused(_) => true,
            Self::Io(_) => false,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

fn refused<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Refused(message.into()))
}
