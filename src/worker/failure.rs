//! Why an attempt has no results, and whose fault that is.

use std::path::Path;

use distillery_core::device_fault::{DeviceFault, rank_of};

use crate::artifacts;
use crate::protocol::{ErrorClass, Failure};

/// Why an attempt has no results to publish.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The attempt no longer holds the job.
    Lost,
    Failed(Failure),
    /// The job is to stop, and its trainer has not begun.
    Stopped,
}

impl From<Failure> for AttemptError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Storage that does not answer and a disk that fails are not the job's fault; a stored file that is missing or damaged
/// is.
pub(super) fn storage_failure(error: &artifacts::Error) -> Failure {
    use std::io::ErrorKind::NotFound;
    let class = match error {
        artifacts::Error::Storage(_) => ErrorClass::Machine,
        artifacts::Error::File { source, .. } if source.kind() != NotFound => ErrorClass::Machine,
        _ => ErrorClass::Storage,
    };
    let message = match error {
        artifacts::Error::File { path, source } => on_disk(path, source),
        other => other.to_string(),
    };
    Failure { class, message }
}

/// That a file of this machine cannot be read or written, for users. Its path, which is for operators, is logged.
pub(super) fn on_disk(path: &Path, error: &std::io::Error) -> String {
    tracing::warn!(path = %path.display(), %error, "cannot be read or written");
    format!("the worker cannot read or write {} on its disk: {error}", path.file_name().unwrap_or_default().display())
}

/// The GPU whose hardware a failure of an attempt on these devices is about, if it is about one.
pub(super) fn broken_gpu<'a>(failure: &Failure, devices: &'a [String]) -> Option<&'a str> {
    let is_broken =
        failure.class == ErrorClass::Machine && DeviceFault::of(&failure.message) == Some(DeviceFault::Broken);
    let device = devices.get(rank_of(&failure.message)).filter(|_| is_broken)?;
    (device != "cpu").then_some(device.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_error_is_the_fault_of_the_gpu_of_the_rank_that_met_it() {
        let devices = ["cuda:2".to_owned(), "cuda:0".to_owned()];
        let of = |class, message: &str| broken_gpu(&Failure { class, message: message.to_owned() }, &devices);
        let ecc = "the GPU is broken: CUDA error: uncorrectable ECC error encountered";
        assert_eq!(of(ErrorClass::Machine, ecc), Some("cuda:2"));
        assert_eq!(of(ErrorClass::Machine, &format!("rank 1: {ecc}")), Some("cuda:0"));
        assert_eq!(of(ErrorClass::Machine, &format!("rank 7: {ecc}")), None);
        assert_eq!(of(ErrorClass::Machine, "no space left on device"), None);
        // A user's text that quotes it.
        assert_eq!(of(ErrorClass::User, ecc), None);
        let cpu = ["cpu".to_owned()];
        assert_eq!(broken_gpu(&Failure { class: ErrorClass::Machine, message: ecc.to_owned() }, &cpu), None);
    }
}
