//! Whether a command may write where its user says: never over its inputs, or what is no file of weights.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use distillery_core::checkpoint::CheckpointFormat;
use distillery_core::file_kind::{irregular, is_same_file};

/// What a command reads.
#[derive(Debug, Clone, Copy)]
pub struct CommandInputs<'a> {
    /// Each with what it is: "the checkpoint".
    pub files: &'a [(&'a str, &'a Path)],
    /// The directory of the data set.
    pub dataset: Option<&'a Path>,
}

/// Checks that a safetensors file may be written to `output`. Reads no more than a few bytes.
///
/// # Errors
/// It is one of the inputs or in the data set's directory, has no directory, or is there and no safetensors file.
pub fn check(output: &Path, inputs: CommandInputs<'_>) -> Result<()> {
    inputs.spare(output)?;
    inputs.spare_dataset(output)?;
    let refused = |what: &str| Err(Error::user(format!("{} {what}", output.display())));
    let facts = match fs::metadata(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(output) {
            Ok(broken_link) => broken_link,
            Err(_) => return directory_exists(output),
        },
        found => found.map_err(Error::storage(output))?,
    };
    if let Some(kind) = irregular(facts.file_type()) {
        return refused(&format!("is {kind}, not a regular file: name another file"));
    }
    if !is_safetensors(output).map_err(Error::storage(output))? {
        return refused("is there already and is no safetensors file: remove it, or name another");
    }
    Ok(())
}

/// Checks that a run may write files with these names into `output`, which need not exist.
///
/// # Errors
/// One of them is an input, or the directory is in the data set's.
pub fn check_directory(output: &Path, names: &[&str], inputs: CommandInputs<'_>) -> Result<()> {
    inputs.spare_dataset(output)?;
    names.iter().try_for_each(|name| inputs.spare(&output.join(name)))
}

impl CommandInputs<'_> {
    fn spare(&self, output: &Path) -> Result<()> {
        match self.files.iter().find(|(_, input)| is_same_file(input, output)) {
            Some((name, _)) => Err(Error::user(format!("{} is {name} itself: name another file", output.display()))),
            None => Ok(()),
        }
    }

    fn spare_dataset(&self, output: &Path) -> Result<()> {
        match self.dataset.filter(|dataset| is_inside(output, dataset)) {
            Some(dataset) => Err(Error::user(format!(
                "{} is in the data set's directory {}, which is only read: name another place",
                output.display(),
                dataset.display()
            ))),
            None => Ok(()),
        }
    }
}

/// Whether a path is in a directory, or leads into it. Either may be a link.
fn is_inside(path: &Path, directory: &Path) -> bool {
    let Ok(directory) = fs::canonicalize(directory) else { return false };
    let is_below = |path: &Path| real(path).is_some_and(|path| path.starts_with(&directory));
    is_below(path) || is_below(directory_of(path))
}

/// Where a path leads to, as far as it exists.
fn real(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|path| fs::canonicalize(path).ok())
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn directory_exists(output: &Path) -> Result<()> {
    let directory = directory_of(output);
    if fs::metadata(directory).is_ok_and(|facts| facts.is_dir()) {
        return Ok(());
    }
    Err(Error::user(format!(
        "{} cannot be written: there is no directory {}; create it, or name another file",
        output.display(),
        directory.display()
    )))
}

fn is_safetensors(path: &Path) -> io::Result<bool> {
    let mut first = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut first)?;
    Ok(matches!(CheckpointFormat::detect(&first), Ok(CheckpointFormat::Safetensors)))
}
