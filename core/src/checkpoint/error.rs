//! Errors of checkpoints. They say what to do next.

use std::io;

use crate::text::escaped;

/// The messages do not name the file, because the caller knows what users call it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file is empty: upload or download it again")]
    Empty,
    /// There is something else than a file. What it is: "a pipe".
    #[error("it is {0}, not a regular file: name the file that has the weights")]
    Irregular(&'static str),
    /// The file has another format.
    #[error(
        "the file is not a checkpoint ({found}); supported are safetensors and files written by torch.save, in its zip \
         and its legacy format"
    )]
    NotACheckpoint {
        /// What the file seems to be.
        found: String,
    },
    /// The file ends too early.
    #[error("the file is truncated: {0}; upload or download it again")]
    Truncated(String),
    /// The pickle wants to run something.
    #[error(
        "refused: the file wants to run {name}; only tensors and plain containers are read, and nothing is ever run: \
         save only the weights, with torch.save(model.state_dict(), …)"
    )]
    Refused {
        /// Module and name, shortened and with control characters escaped.
        name: String,
    },
    /// The file would take more memory or time than is allowed for its size.
    #[error("refused: {0}")]
    Limit(String),
    /// The file contradicts itself or the format.
    #[error("the file is damaged: {0}; upload or download it again")]
    Corrupt(String),
    /// The file contains tensors of an unsupported kind.
    #[error("the file cannot be used: {0}")]
    Unsupported(String),
    /// The file is valid, but has no weights where they are expected.
    #[error(
        "the file contains no state dict: {0}; save model.state_dict() itself, or put it under \"state_dict\", \
         \"model\", \"model_state_dict\", \"net\", \"student\" or \"teacher\""
    )]
    NoStateDict(String),
    /// Reading or writing failed. Another attempt may succeed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether the file is at fault, not the machine.
    #[must_use]
    pub fn is_users(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

pub(super) fn corrupt<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Corrupt(message.into()))
}

/// A name from the file, shortened and escaped for a message.
pub(crate) fn shown(name: &str) -> String {
    let mut shown = escaped(&name.chars().take(80).collect::<String>());
    if name.chars().count() > 80 {
        shown.push('…');
    }
    shown
}
