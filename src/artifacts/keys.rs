//! The keys of stored files:
//!
//! ```text
//! checkpoints/<SHA-256>                                   an uploaded checkpoint
//! jobs/<job>/attempts/<attempt>/<file>                    what an attempt made
//! jobs/<job>/attempts/<attempt>/state/checkpoint-<step>…  a state that a later attempt can resume from
//! probe/<ULID>                                            a test whether storage works, for a moment
//! ```
//!
//! Each attempt has a directory of its own, so that one that lost its job overwrites nothing.

const CHECKPOINTS: &str = "checkpoints";
const JOBS: &str = "jobs";
const ATTEMPTS: &str = "attempts";
const PROBE: &str = "probe";
/// The directory, below the attempt's, of the states to resume from.
const STATES: &str = "state";

/// An uploaded checkpoint.
#[must_use]
pub fn checkpoint(sha256: &str) -> String {
    format!("{CHECKPOINTS}/{sha256}")
}

/// The directory of everything that a job's attempts made.
#[must_use]
pub fn job(job: &str) -> String {
    format!("{JOBS}/{job}")
}

/// The directory of an attempt.
#[must_use]
pub fn attempt(job: &str, attempt: i32) -> String {
    format!("{JOBS}/{job}/{ATTEMPTS}/{attempt}")
}

/// A file of an attempt.
#[must_use]
pub fn attempt_file(job: &str, attempt: i32, file: &str) -> String {
    format!("{JOBS}/{job}/{ATTEMPTS}/{attempt}/{file}")
}

/// The directory of an attempt's states to resume from.
#[must_use]
pub fn states(job: &str, attempt: i32) -> String {
    attempt_file(job, attempt, STATES)
}

/// An attempt's state after a step. Each has a key of its own: a worker that is killed before the database knows a new
/// state leaves the last one as it was, with the SHA-256 that the database has.
#[must_use]
pub fn state(job: &str, attempt: i32, step: u64) -> String {
    attempt_file(job, attempt, &format!("{STATES}/checkpoint-{step}.safetensors"))
}

/// A new file for a test of storage.
#[must_use]
pub fn probe() -> String {
    format!("{PROBE}/{}", ulid::Ulid::generate().to_string().to_ascii_lowercase())
}

/// What a key says about its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// An uploaded checkpoint of this SHA-256.
    Checkpoint(&'a str),
    /// A job, and the directory of one of its attempts.
    Job {
        /// The id of the job.
        job: &'a str,
        /// As [`attempt`] has it.
        attempt: &'a str,
    },
    /// Nobody: a test of storage that was cut short.
    Probe,
}

impl<'a> Owner<'a> {
    /// Reads a key; none if no server of this program made it, as a bucket may hold others' files as well.
    #[must_use]
    pub fn of(key: &'a str) -> Option<Self> {
        let (kind, rest) = key.split_once('/')?;
        match kind {
            CHECKPOINTS => Some(Self::Checkpoint(rest)),
            JOBS => {
                let job = rest.split('/').next()?;
                let end = key.match_indices('/').nth(3).map_or(key.len(), |(place, _)| place);
                Some(Self::Job { job, attempt: &key[..end] })
            }
            PROBE => Some(Self::Probe),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_owner() {
        assert_eq!(Owner::of(&checkpoint("ab12")), Some(Owner::Checkpoint("ab12")));
        assert_eq!(Owner::of(&probe()), Some(Owner::Probe));
        let of_attempt = Some(Owner::Job { job: "job_1", attempt: "jobs/job_1/attempts/3" });
        assert_eq!(attempt("job_1", 3), "jobs/job_1/attempts/3");
        assert_eq!(Owner::of(&attempt_file("job_1", 3, "manifest.json")), of_attempt);
        assert_eq!(Owner::of(&state("job_1", 3, 20)), of_attempt);
        assert!(state("job_1", 3, 20).starts_with(&format!("{}/", states("job_1", 3))));
        assert!(attempt("job_1", 3).starts_with(&format!("{}/", job("job_1"))));
        for key in ["", "jobs", "others/a/b", "checkpoints"] {
            assert_eq!(Owner::of(key), None, "{key}");
        }
    }
}
