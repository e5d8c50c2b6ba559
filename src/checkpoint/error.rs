//! What can be wrong with a checkpoint, and what to do about it.

use std::io;

/// What is wrong with a checkpoint. The messages do not name the file: whoever opened it knows how to call it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No bytes at all.
    #[error("the file is empty: upload or download it again")]
    Empty,
    /// Some other kind of file.
    #[error(
        "the file is not a checkpoint ({found}); read are safetensors and what torch.save writes, both the zip and the \
         legacy format"
    )]
    NotACheckpoint {
        /// What it looks like.
        found: String,
    },
    /// It ends too early.
    #[error("the file is truncated: {0}; upload or download it again")]
    Truncated(String),
    /// Its pickle asks for something to be run.
    #[error(
        "refused: the file asks to run {name}; only tensors and plain containers are read and nothing is ever run: save \
         the weights alone, with torch.save(model.state_dict(), …)"
    )]
    Refused {
        /// Module and name, shortened and without control characters.
        name: String,
    },
    /// It would take more memory or time than a file of its size may.
    #[error("refused: {0}")]
    Limit(String),
    /// It contradicts itself or the format.
    #[error("the file is damaged: {0}; upload or download it again")]
    Corrupt(String),
    /// It holds tensors of a kind that is not read.
    #[error("the file cannot be used: {0}")]
    Unsupported(String),
    /// It is sound, but there are no weights where weights are looked for.
    #[error(
        "the file holds no state dict: {0}; save model.state_dict() itself, or put it under \"state_dict\", \"model\", \
         \"model_state_dict\", \"net\", \"student\" or \"teacher\""
    )]
    NoStateDict(String),
    /// The system could not read or write; the same could go better another time.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether the file is at fault, rather than the machine.
    #[must_use]
    pub fn is_users(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

pub(super) type Result<T> = std::result::Result<T, Error>;

pub(super) fn corrupt<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Corrupt(message.into()))
}

/// A name from the file, fit for a message.
pub(super) fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().count() > 80 {
        shown.push('…');
    }
    shown
}
