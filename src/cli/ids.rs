//! The ids on the command line. All of them are checked before anything is sent, because they become part of a
//! request's path and what is no id is a slip.

use crate::ids::{CHECKPOINT, IdForm, JOB, SWEEP};

/// The id of a job.
pub(super) fn job_id(text: &str) -> Result<String, String> {
    checked(JOB, text, "expected an id such as job_01KB3Z6V0Q2M5K8N1R4T7W9XYZ: `distillery jobs` lists them")
}

/// The id of a sweep.
pub(super) fn sweep_id(text: &str) -> Result<String, String> {
    checked(SWEEP, text, "expected an id such as swp_01KB3Z6V0Q2M5K8N1R4T7W9XYZ: `distillery sweep list` lists them")
}

/// Something else, or an id: of a checkpoint, or of a job if its student can stand for one.
pub(super) fn file_or_id(text: &str) -> Result<String, String> {
    match [JOB, CHECKPOINT].into_iter().find(|form| text.starts_with(form.prefix)) {
        // Files may be called anything.
        Some(form) if !form.fits(text) && !std::path::Path::new(text).exists() => {
            Err(format!("there is no such file, and an id is {} followed by {}", form.prefix, form.tail))
        }
        _ => Ok(text.to_owned()),
    }
}

/// The name of an architecture, or the id of an exported network.
pub(super) fn architecture_or_id(text: &str) -> Result<String, String> {
    if text.starts_with(CHECKPOINT.prefix) && !CHECKPOINT.fits(text) {
        return Err(format!("an id is {} followed by {}", CHECKPOINT.prefix, CHECKPOINT.tail));
    }
    Ok(text.to_owned())
}

fn checked(form: IdForm, text: &str, otherwise: &str) -> Result<String, String> {
    if form.fits(text) { Ok(text.to_owned()) } else { Err(otherwise.to_owned()) }
}
