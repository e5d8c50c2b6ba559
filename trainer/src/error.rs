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
        if message.contains(OF_TORCH) || DeviceFault::of(message).is_some() {
            Self::from_torch(message)
        } else {
            // A panic of this program, which has no frames.
            Self::internal(message.strip_prefix(UNWRAPPED).unwrap_or(message))
        }
    }

    /// Converts the message of a libtorch exception. What only developers need goes to the log.
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
            None => {
                let shown = first_line(message);
                if shown != message {
                    tracing::error!("{message}");
                }
                Self::internal(shown)
            }
        }
    }
}

/// What a panic of tch has before libtorch's message.
const OF_TORCH: &str = "Torch(\"";
/// What Rust puts before an error that was not expected.
const UNWRAPPED: &str = "called `Result::unwrap()` on an `Err` value: ";

/// The first line of libtorch's message, and NCCL's reason, which comes lines later. Neither what a panic of tch or an
/// error of tch wraps it in, nor the frames of C++.
fn first_line(message: &str) -> String {
    let message = match message.split_once(OF_TORCH) {
        Some((_, quoted)) => quoted.strip_suffix("\")").unwrap_or(quoted).replace("\\n", "\n").replace("\\\"", "\""),
        None => message.strip_prefix("Internal torch error: ").unwrap_or(message).to_owned(),
    };
    let first = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
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
                let wrapping = ["f.cpp", "Result::unwrap", "Torch(", "\")"];
                assert!(!wrapping.iter().any(|part| error.message.contains(part)), "{}", error.message);
            }
        }
    }

    #[test]
    fn of_a_failure_of_libtorchs_only_what_helps_is_told() {
        let message = "The size of tensor a (3) must match the size of tensor \"b\" (4)";
        let thrown =
            format!("{message}\nException raised from infer_size_impl at f.cpp:31\nframe #0: c10::Error::Error");
        let fails = || -> std::result::Result<(), tch::TchError> { Err(tch::TchError::Torch(thrown.clone())) };
        let panicked = caught(|| {
            fails().unwrap();
            Ok(())
        });
        let returned = caught(|| Ok(fails()?));
        for error in [panicked.unwrap_err(), returned.unwrap_err(), Error::from_torch(&thrown)] {
            assert_eq!((error.class, error.message.as_str()), (ErrorClass::Internal, message));
        }
        // A panic of this program is reported whole.
        let own = caught(|| -> Result<()> { panic!("one\nand two") }).unwrap_err();
        assert_eq!(own.message, "one\nand two");
    }
}
