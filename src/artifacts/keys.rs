//! The keys of stored files:
//!
//! ```text
//! checkpoints/<SHA-256>-<ULID>                            an uploaded checkpoint
//! datasets/<SHA-256>-<ULID>                               an uploaded data set, as a tar
//! checkpoints/<SHA-256>                                   an older one, from before each upload had its own file
//! jobs/<job>/attempts/<attempt>-<claim>/<file>            a file written by an attempt
//! jobs/<job>/attempts/<attempt>-<claim>/state/checkpoint-<step>…  a state that a later attempt can resume from
//! probe/<ULID>                                            a temporary file that tests the storage
//! storage-id                                              tells this storage from others
//! ```
//!
//! Each attempt has its own directory, named by its number and its random claim, so that an attempt that has lost its
//! job overwrites nothing. Each upload has its own file, so that the deletion of an earlier one, which storage may
//! carry out late, takes none of its bytes. The key of an older checkpoint is not stored: the SQL function
//! `checkpoint_key` makes it.

const CHECKPOINTS: &str = "checkpoints";
const DATASETS: &str = "datasets";
const JOBS: &str = "jobs";
const ATTEMPTS: &str = "attempts";
const PROBE: &str = "probe";
/// The file that tells a storage from others.
pub const STORAGE_ID: &str = "storage-id";
/// Subdirectory of an attempt for states to resume from.
const STATES: &str = "state";

/// The bytes of an upload.
#[must_use]
pub fn checkpoint(sha256: &str, upload: &str) -> String {
    format!("{CHECKPOINTS}/{sha256}-{upload}")
}

/// The tar of an uploaded data set.
#[must_use]
pub fn dataset(sha256: &str, upload: &str) -> String {
    format!("{DATASETS}/{sha256}-{upload}")
}

/// A new name for an upload or a test of the storage.
#[must_use]
pub fn unique() -> String {
    ulid::Ulid::generate().to_string().to_ascii_lowercase()
}

/// The directory of all files of a job.
#[must_use]
pub fn job(job: &str) -> String {
    format!("{JOBS}/{job}")
}

/// The directory of the attempt of this name.
#[must_use]
pub fn attempt(job: &str, attempt: &str) -> String {
    format!("{JOBS}/{job}/{ATTEMPTS}/{attempt}")
}

#[must_use]
pub fn attempt_file(job: &str, attempt: &str, file: &str) -> String {
    format!("{JOBS}/{job}/{ATTEMPTS}/{attempt}/{file}")
}

/// The directory of an attempt's states to resume from.
#[must_use]
pub fn states(job: &str, attempt: &str) -> String {
    attempt_file(job, attempt, STATES)
}

/// An attempt's state after a step. Each state has its own key: if a worker is killed before the database refers to a
/// new state, the previous one is intact and matches the SHA-256 in the database.
#[must_use]
pub fn state(job: &str, attempt: &str, step: u64) -> String {
    attempt_file(job, attempt, &format!("{STATES}/checkpoint-{step}.safetensors"))
}

/// The step of a state's key; `None` for other keys.
#[must_use]
pub fn step_of(key: &str) -> Option<u64> {
    let (_, name) = key.rsplit_once(&format!("/{STATES}/"))?;
    name.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok()
}

/// A new key for a test of the storage.
#[must_use]
pub fn probe() -> String {
    format!("{PROBE}/{}", unique())
}

/// What a stored file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    Checkpoint,
    Dataset,
    Job {
        job: &'a str,
        /// The attempt's directory, as from [`attempt`].
        attempt: &'a str,
    },
    /// A test of the storage that was interrupted.
    Probe,
}

impl<'a> Owner<'a> {
    /// Parses a key. `None` for files of other programs, which may share the bucket.
    #[must_use]
    pub fn of(key: &'a str) -> Option<Self> {
        let (kind, rest) = key.split_once('/')?;
        match kind {
            CHECKPOINTS => Some(Self::Checkpoint),
            DATASETS => Some(Self::Dataset),
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
        assert_eq!(Owner::of(&checkpoint("ab12", "01")), Some(Owner::Checkpoint));
        assert_eq!(Owner::of(&dataset("ab12", "01")), Some(Owner::Dataset));
        assert_eq!(Owner::of(&probe()), Some(Owner::Probe));
        let of_attempt = Some(Owner::Job { job: "job_1", attempt: "jobs/job_1/attempts/3-a" });
        assert_eq!(attempt("job_1", "3-a"), "jobs/job_1/attempts/3-a");
        assert_eq!(Owner::of(&attempt_file("job_1", "3-a", "manifest.json")), of_attempt);
        assert_eq!(Owner::of(&state("job_1", "3-a", 20)), of_attempt);
        assert!(state("job_1", "3-a", 20).starts_with(&format!("{}/", states("job_1", "3-a"))));
        assert_eq!(step_of(&state("job_1", "3-a", 20)), Some(20));
        assert_eq!(step_of(&attempt_file("job_1", "3-a", "manifest.json")), None);
        assert!(attempt("job_1", "3-a").starts_with(&format!("{}/", job("job_1"))));
        for key in ["", "jobs", "others/a/b", "checkpoints", STORAGE_ID] {
            assert_eq!(Owner::of(key), None, "{key}");
        }
    }
}
