//! Why training failed. The class of an error decides whether another attempt is made.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use distillery_core::dataset;
use distillery_core::device_fault::DeviceFault;
use distillery_core::protocol::{ErrorClass, Failure};

/// Why training failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub class: ErrorClass,
    /// What is wrong and what to do about it.
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The user has to change the specification, a checkpoint or the data.
    pub fn user(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::User, message: message.into() }
    }

    /// A loss or weight is not finite.
    pub fn numeric(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Numeric, message: message.into() }
    }

    /// A bug or an unexpected failure.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Internal, message: message.into() }
    }

    /// This machine or its device cannot run the job. Another one can.
    pub fn machine(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Machine, message: message.into() }
    }

    /// A file cannot be read or written.
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

    /// Converts a panic. tch's infallible operators panic when libtorch throws.
    #[must_use]
    pub fn from_panic(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        Self::from_torch(message)
    }

    /// Converts the message of an exception of libtorch's.
    #[must_use]
    pub fn from_torch(message: &str) -> Self {
        match DeviceFault::of(message) {
            Some(DeviceFault::OutOfMemory) => {
                let advice =
                    "lower training.batch_size, use precision \"bfloat16\", or train on a device with more memory";
                Self { class: ErrorClass::Oom, message: format!("out of memory: {}; {advice}", first_line(message)) }
            }
            Some(DeviceFault::Unusable) => {
                let advice = "run `distillery-trainer doctor` on this machine";
                Self::machine(format!("the GPU cannot be used: {}; {advice}", first_line(message)))
            }
            Some(DeviceFault::Broken) => {
                let advice =
                    "look for its Xid in the kernel's log, reset it with nvidia-smi --gpu-reset, or replace it";
                Self::machine(format!("the GPU is broken: {}; {advice}", first_line(message)))
            }
            None => Self::internal(message),
        }
    }
}

/// The first line of libtorch's message, and NCCL's reason, which comes lines later. A panic of tch wraps it.
fn first_line(message: &str) -> String {
    let message = message.split_once("Torch(\"").map_or(message, |(_, message)| message).replace("\\n", "\n");
    let first = message.lines().next().unwrap_or_default();
    let reason = message.split_once("Last error:\n").and_then(|(_, rest)| rest.lines().next());
    match reason.map(str::trim).filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("{first}: {reason}"),
        None => first.to_owned(),
    }
}

/// Turns libtorch's panics into errors.
///
/// # Errors
/// `work` failed or panicked.
pub fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Error::from_panic(&*payload)))
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
                format!("there is no data set at {}: put it there, or name another one", path.display())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_failure_of_nccls_its_reason_is_told() {
        let message = "NCCL error in: f.cpp:1, unhandled system error, NCCL version 2.28.9\nncclSystemError: System call \
                       failed.\nLast error:\nError while creating shared memory segment /dev/shm/nccl-a (size 33030528)\n\n\
                       Exception raised from collective at f.cpp:1";
        let error = Error::from_torch(message);
        assert_eq!(error.class, ErrorClass::Machine);
        let told = error.message;
        assert!(told.contains("unhandled system error") && told.contains("/dev/shm/nccl-a (size"), "{told}");
        assert!(!told.contains("Exception raised"), "{told}");
        let without = Error::from_torch("NCCL error: ncclSystemError\nLast error:\n\nException raised");
        assert!(without.message.contains("cannot be used: NCCL error: ncclSystemError; run"), "{}", without.message);
    }

    #[test]
    fn libtorchs_messages_about_the_gpu_decide_whether_another_attempt_is_made_and_where() {
        let panic =
            |message: &str| format!("called `Result::unwrap()` on an `Err` value: Torch(\"{message}\\nat f.cpp\")");
        let cases = [
            ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", ErrorClass::Oom),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", ErrorClass::Oom),
            ("CUDA error: uncorrectable ECC error encountered", ErrorClass::Machine),
            ("CUDA error: no kernel image is available for execution on the device", ErrorClass::Machine),
            ("CUDA error: an illegal memory access was encountered", ErrorClass::Internal),
        ];
        for (message, class) in cases {
            for said in [message.to_owned(), format!("{message}\nat f.cpp"), panic(message)] {
                let error = Error::from_torch(&said);
                assert_eq!(error.class, class, "{said}");
                assert!(error.message.contains(message), "{}", error.message);
                let has_developers_lines = error.message.contains("f.cpp");
                assert_eq!(has_developers_lines, class == ErrorClass::Internal && said != message, "{}", error.message);
            }
        }
    }
}
