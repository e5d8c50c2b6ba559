//! Finds out what an uploaded file is: a checkpoint, or an exported network.

use std::path::Path;

use chrono::Utc;
use sqlx::types::Json as Jsonb;

use super::error::ApiError;
use super::networks::how_to_export;
use super::uploads::{Upload, full};
use super::workspace::Workspace;
use crate::architecture::{self, Architecture};
use crate::checkpoint::{self, Soundness};
use crate::db::checkpoints::{self, Fit, Guess, UploadedCheckpoint};
use crate::exported::{self, ExportedNetwork, TRACES_REMOVED};
use crate::spec::Fault;
use crate::text::counted;

/// What the uploader says about a file.
#[derive(Debug, Clone)]
pub struct Expected {
    pub name: Option<String>,
    pub network: Option<&'static Architecture>,
    pub classes: Option<u32>,
    /// For a file with several state dicts: the key of the one to keep.
    pub state_dict: Option<String>,
}

impl Upload {
    /// Describes the file, if it is as expected. One with several state dicts is replaced by the one to keep, and of an
    /// exported network stack traces are removed.
    ///
    /// # Errors
    /// The file is none that a job could use or a user could mean, or cannot be read.
    pub fn inspect(&mut self, expected: Expected, spool: &Path) -> Result<UploadedCheckpoint, ApiError> {
        if exported::is_exported(&self.path()) {
            return self.inspect_network(expected);
        }
        let notes = match &expected.state_dict {
            Some(key) => self.choose(key, spool)?,
            None => Vec::new(),
        };
        self.inspect_state_dict(expected, notes)
    }

    fn inspect_network(&mut self, expected: Expected) -> Result<UploadedCheckpoint, ApiError> {
        let own = "the file is an exported network, which";
        if let Some(network) = expected.network {
            let name = network.name;
            return Err(ApiError::invalid(format!(
                "{own} is its own architecture, not {name}: leave out architecture"
            )));
        }
        if expected.state_dict.is_some() {
            return Err(ApiError::invalid(format!("{own} has one state dict only: leave out state_dict")));
        }
        let traces = exported::strip_traces(self.file()).map_err(unusable)?;
        if traces {
            self.hash_again()?;
        }
        let network = ExportedNetwork::open(&self.path()).map_err(unusable)?;
        let doubt = match network.soundness().map_err(unusable)? {
            Soundness::Sound => None,
            Soundness::Doubtful(doubt) => Some(doubt),
            Soundness::Unsound(unsound) => return Err(ApiError::invalid(format!("the network {unsound}"))),
        };
        let description = network.description();
        let classes = description.classes;
        if let Some(expected) = expected.classes.filter(|&expected| u64::from(expected) != classes) {
            let classes = counted(classes, "class", "classes");
            return Err(ApiError::invalid(format!("the network has {classes}, not {expected}")));
        }
        let remarks = description.warnings_of(true).chain(&description.notes);
        let notes = remarks.cloned().chain(doubt).chain(traces.then(|| TRACES_REMOVED.to_owned())).collect();
        Ok(UploadedCheckpoint {
            id: checkpoints::id_of(&self.sha256),
            sha256: self.sha256.clone(),
            name: expected.name,
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
            format: description.format.to_owned(),
            tensors: i64::try_from(network.tensors().len()).unwrap_or(i64::MAX),
            parameters: i64::try_from(description.parameters).unwrap_or(i64::MAX),
            architecture: None,
            num_classes: i32::try_from(classes).ok(),
            fits: Jsonb(Vec::new()),
            guess: None,
            network: Some(serde_json::to_value(description).map_err(anyhow::Error::from)?),
            notes,
            created_at: Utc::now(),
        })
    }

    /// Replaces the file by one of its state dicts. Returns what was done to read that, which the new file does not
    /// show.
    fn choose(&mut self, key: &str, spool: &Path) -> Result<Vec<String>, ApiError> {
        let checkpoint = checkpoint::Checkpoint::open_state_dict(&self.path(), Some(key)).map_err(unreadable)?;
        let workspace = Workspace::new(spool).map_err(full)?;
        let path = workspace.files().join("chosen");
        checkpoint.convert(&path).map_err(unreadable)?;
        self.replace(std::fs::File::open(&path)?)?;
        Ok(checkpoint.notes().to_vec())
    }

    /// Describes the file, if it is a checkpoint and as expected. `notes` are from before it was replaced.
    fn inspect_state_dict(&self, expected: Expected, mut notes: Vec<String>) -> Result<UploadedCheckpoint, ApiError> {
        let file = checkpoint::Checkpoint::open(&self.path()).map_err(unreadable)?;
        let known = notes.clone();
        notes.extend(file.notes().iter().filter(|note| !known.contains(note)).cloned());
        let shapes = file.shapes();
        let Expected { name, network, classes: expected, .. } = expected;
        if let Some(mismatch) = network.and_then(|network| architecture::mismatch(network, &shapes, expected)) {
            let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
            return Err(ApiError::invalid(format!("the checkpoint {mismatch}{notes}")));
        }
        let fit = |fit: &architecture::ArchitectureFit| Fit {
            architecture: fit.architecture.name.to_owned(),
            num_classes: fit.classes,
        };
        let fits: Vec<_> = architecture::fits(&shapes).iter().map(fit).collect();
        if let (Some(expected), Some(fit)) = (expected, fits.first())
            && fits.iter().all(|fit| fit.num_classes != expected)
        {
            let Fit { architecture, num_classes } = fit;
            return Err(ApiError::invalid(format!(
                "the checkpoint is a {architecture} with {}, not {expected}",
                counted(*num_classes, "class", "classes")
            )));
        }
        match file.soundness_as_it_fits().map_err(anyhow::Error::from)? {
            Soundness::Sound => {}
            Soundness::Doubtful(doubt) => notes.push(doubt),
            Soundness::Unsound(unsound) => return Err(ApiError::invalid(format!("the checkpoint {unsound}"))),
        }
        let guess = architecture::guess(&shapes);
        if fits.is_empty() {
            notes.push(fits_nothing(&file, guess.as_ref()));
        }
        let only = match (network, fits.as_slice()) {
            (Some(network), fits) => fits.iter().find(|fit| fit.architecture == network.name),
            (None, fits) => {
                let certain = file.certain_architecture().ok();
                certain.and_then(|certain| fits.iter().find(|fit| fit.architecture == certain.name))
            }
        };
        Ok(UploadedCheckpoint {
            id: checkpoints::id_of(&self.sha256),
            sha256: self.sha256.clone(),
            name,
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
            format: file.format().name().to_owned(),
            tensors: i64::try_from(file.tensors().len()).unwrap_or(i64::MAX),
            parameters: i64::try_from(file.parameters()).unwrap_or(i64::MAX),
            architecture: only.map(|fit| fit.architecture.clone()),
            num_classes: expected.or(only.map(|fit| fit.num_classes)).and_then(|classes| i32::try_from(classes).ok()),
            fits: Jsonb(fits),
            guess: guess.map(|guess| Jsonb(described(guess))),
            network: None,
            notes,
            created_at: Utc::now(),
        })
    }
}

fn unreadable(error: checkpoint::Error) -> ApiError {
    match error {
        error if error.is_users() => ApiError::invalid(error.to_string()),
        checkpoint::Error::Io(error) => full(error),
        error => ApiError::Internal(error.into()),
    }
}

/// Everything that is wrong with an exported network.
fn unusable(error: exported::Error) -> ApiError {
    let faults = match error {
        exported::Error::File(error) => return unreadable(error),
        exported::Error::Faults(faults) => faults,
        error => return ApiError::invalid(error.to_string()),
    };
    // There is no JSON that a pointer could lead into.
    let fault = |detail: String| Fault { pointer: String::new(), detail };
    let mut listed: Vec<_> =
        faults.list().iter().map(|exported::NetworkFault { at, message }| fault(format!("{at}: {message}"))).collect();
    if let more @ 1.. = faults.more() {
        listed.push(fault(format!("there are {more} more faults like these")));
    }
    let detail = match listed.as_slice() {
        [only] => format!("the exported network cannot be used: {}", only.detail),
        several => format!("the exported network cannot be used: it has {} faults, listed in errors", several.len()),
    };
    ApiError::Invalid { detail: detail.into(), faults: listed }
}

/// Why no job can use a checkpoint that fits no network, and what to do, as a note.
fn fits_nothing(file: &checkpoint::Checkpoint, guess: Option<&architecture::ArchitectureGuess>) -> String {
    let known = "it fits no known architecture, so no job can use it, and its values are not checked";
    if let Some(network) = file.exported_network()
        && network.len() == 64
        && network.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        return format!(
            "{known}; it has the weights of the exported network {}. To learn from it, name the job that trained it as \
             teacher.job; or load it into the network in PyTorch with load_state_dict, export that again, and upload the \
             .pt2 file; distillery train takes the two files as they are, as teacher.checkpoint and teacher.network",
            checkpoints::id_of(&network.to_ascii_lowercase())
        );
    }
    let why = match guess {
        Some(architecture::ArchitectureGuess { architecture, difference: Some(difference), .. }) => {
            format!("the nearest is {}: {difference}", architecture.name)
        }
        _ => "none has even half of its keys and shapes".to_owned(),
    };
    format!("{known}; {why}. {}", how_to_export())
}

fn described(guess: architecture::ArchitectureGuess) -> Guess {
    let architecture::ArchitectureGuess { architecture, classes, certainty, agreement, difference } = guess;
    Guess { architecture: architecture.name.to_owned(), num_classes: classes, certainty, agreement, difference }
}
