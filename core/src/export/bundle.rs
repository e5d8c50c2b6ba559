//! A zip with a student in several formats, and everything that a user needs to run it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};

use serde::Serialize;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

pub use super::contents::{BundledFile, Contents};
use super::{Error, Preprocessing, Result, Student, card};

/// `preprocess.json`.
#[derive(Debug, Serialize)]
struct PreprocessFile<'a> {
    #[serde(flatten)]
    preprocessing: Preprocessing,
    /// By the name of a student's file: whether its graph subtracts the mean and divides by the standard deviation
    /// itself. Where it does not, the caller does.
    normalises: BTreeMap<&'a str, bool>,
}

/// Writes a bundle. Equal contents give equal bytes.
///
/// # Errors
/// A file cannot be read or written.
pub fn write(student: &Student, contents: &Contents<'_>, output: impl Write + Seek) -> Result<()> {
    let mut zip = ZipWriter::new(output);
    let preprocess = PreprocessFile {
        preprocessing: student.preprocessing(),
        normalises: contents.students().map(|file| (file.name, file.normalises)).collect(),
    };
    let texts = [
        ("README.md", card::readme(student, contents)),
        ("labels.json", json(&card::labels(student))),
        ("preprocess.json", json(&preprocess)),
        ("run.py", card::python(student, contents)),
    ];
    for (name, text) in texts {
        start(&mut zip, name, text.len() as u64)?;
        zip.write_all(text.as_bytes())?;
    }
    for BundledFile { name, path, .. } in &contents.files {
        let mut file = File::open(path)?;
        start(&mut zip, name, file.metadata()?.len())?;
        io::copy(&mut file, &mut zip)?;
    }
    zip.finish().map_err(unwritable)?.flush()?;
    Ok(())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("these are texts and numbers") + "\n"
}

/// Weights hardly compress, so that everything is stored as it is.
fn start<W: Write + Seek>(zip: &mut ZipWriter<W>, name: &str, length: u64) -> Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o644)
        .large_file(length >= u64::from(u32::MAX));
    zip.start_file(name, options).map_err(unwritable)
}

fn unwritable(error: zip::result::ZipError) -> Error {
    match error {
        zip::result::ZipError::Io(error) => Error::Io(error),
        other => Error::Refused(format!("the archive cannot be written: {other}")),
    }
}
