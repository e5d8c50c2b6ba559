//! Why training ended early, in the classes that decide whether to try again.

use std::any::Any;
use std::io;
use std::path::Path;

use distillery::dataset;
use distillery::protocol::{ErrorClass, Failure};

/// Why training ended early.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure.
    pub class: ErrorClass,
    /// What happened and what to do about it.
    pub message: String,
}

/// What most functions here return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The specification, a checkpoint or the data cannot work as they are.
    pub fn user(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::User, message: message.into() }
    }

    /// A number that is not finite.
    pub fn numeric(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Numeric, message: message.into() }
    }

    /// A fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Internal, message: message.into() }
    }

    /// A file that could not be written or read.
    pub fn storage(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |error| {
            let advice = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space and run it again",
                io::ErrorKind::FileTooLarge => "; raise the limit on file sizes (ulimit -f) and run it again",
                _ => "",
            };
            Self { class: ErrorClass::Storage, message: format!("{}: {error}{advice}", path.display()) }
        }
    }

    /// What a panic said: libtorch's failures arrive as panics wherever the fallible call is not used.
    #[must_use]
    pub fn from_panic(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        Self::from_torch(message)
    }

    /// A message of libtorch's.
    #[must_use]
    pub fn from_torch(message: &str) -> Self {
        let out_of_memory = ["not enough memory", "can't allocate memory", "out of memory"];
        if out_of_memory.iter().any(|part| message.contains(part)) {
            // What a panic adds around libtorch's own words.
            let message = message.split_once("Torch(\"").map_or(message, |(_, message)| message);
            let first = message.split("\\n").next().unwrap_or(message).lines().next().unwrap_or(message);
            let advice = "lower training.batch_size, use precision \"bfloat16\", or train on a device with more memory";
            return Self { class: ErrorClass::Oom, message: format!("out of memory: {first}; {advice}") };
        }
        Self::internal(message)
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::from_torch(&error.to_string())
    }
}

impl From<dataset::Error> for Error {
    fn from(error: dataset::Error) -> Self {
        let message = match &error {
            dataset::Error::Missing { path } => {
                format!("data set {} is not there any more: put it back, or name another one", path.display())
            }
            _ => error.to_string(),
        };
        let class = if error.is_users() { ErrorClass::User } else { ErrorClass::Storage };
        Self { class, message }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { class: error.class, message: error.message }
    }
}
