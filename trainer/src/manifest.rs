//! `manifest.json`: how the students came to be.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use chrono::Utc;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::error::{Error, Result};
use super::setup::Setup;
use distillery::protocol::{Outcome, StudentFacts};
use distillery::spec::JobSpec;

/// SHA-256 of a file, in hexadecimal, and its size.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hex::encode(hash.finalize()), size)),
            read => {
                hash.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}

/// What is said about a student's file.
///
/// # Errors
/// The file cannot be read.
pub fn facts(path: &Path, parameters: u64) -> Result<StudentFacts> {
    let (sha256, size_bytes) = sha256(path).map_err(Error::storage(path))?;
    Ok(StudentFacts { parameters, size_bytes, sha256 })
}

/// Writes the manifest, whole or not at all.
///
/// # Errors
/// It cannot be written, or the data could not be read for its hash.
pub fn write(path: &Path, spec: &JobSpec, setup: Setup, outcome: &Outcome, last: &StudentFacts) -> Result<()> {
    let data = setup.fingerprint.join().map_err(|panic| Error::from_panic(&*panic))??;
    let evaluation = |evaluation: Option<distillery::protocol::Evaluation>| json!(evaluation);
    let counters = &setup.counters;
    let manifest = json!({
        "specification": spec,
        "seed": spec.training.seed,
        "versions": {"distillery": env!("CARGO_PKG_VERSION"), "libtorch": env!("LIBTORCH_VERSION")},
        "device": setup.started.device,
        "precision": setup.started.precision,
        "threads": setup.started.threads,
        "started_at": counters.started_at,
        "finished_at": Utc::now(),
        "teacher": setup.teacher_sha256.map(|sha256| json!({
            "sha256": sha256,
            "evaluation": evaluation(counters.teacher),
        })),
        "data": {
            // Over the names and bytes of the files as they are stored, not over decoded pixels.
            "sha256_of_files": data,
            "train_images": setup.started.train_images,
            "eval_images": setup.started.eval_images,
            "dropped_images": setup.dropped,
            "classes": setup.started.classes,
            "mean": setup.normalisation.mean,
            "std": setup.normalisation.std,
        },
        "steps": counters.step,
        "best": {
            "epoch": outcome.best_epoch,
            "evaluation": evaluation(counters.best.map(|(best, _)| best)),
            "student": outcome.student,
        },
        "last": {"epoch": counters.epoch, "evaluation": evaluation(counters.last), "student": last},
    });
    let text = serde_json::to_string_pretty(&manifest).expect("a manifest is JSON") + "\n";
    let directory = path.parent().unwrap_or(Path::new("."));
    // Readable to whoever the umask lets, like the other files.
    let permissions = std::fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(permissions).tempfile_in(directory);
    let mut file = file.map_err(Error::storage(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(Error::storage(path))?;
    file.persist(path).map_err(|error| Error::storage(path)(error.error))?;
    Ok(())
}
