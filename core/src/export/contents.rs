//! What a bundle is made of.

use std::path::Path;

use serde_json::Value;

/// What goes into a bundle beside the student's own texts.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The title of the model card.
    pub name: &'a str,
    /// The student's files: its formats, and reports on them.
    pub files: Vec<BundledFile<'a>>,
    /// The job's `manifest.json`, from which the model card is written.
    pub manifest: Option<&'a Value>,
    /// The name of an exported teacher, which the manifest does not have.
    pub teacher: Option<&'a str>,
    /// The name of the exported network that the student was trained as.
    pub network: Option<&'a str>,
    /// The manifest's SHA-256, in hexadecimal.
    pub manifest_sha256: Option<&'a str>,
}

/// A file on disk, with its name in the bundle.
#[derive(Debug, Clone, Copy)]
pub struct BundledFile<'a> {
    pub name: &'a str,
    pub path: &'a Path,
    /// Of a network that normalises its input: whether its graph does so itself, and takes pixels in [0, 1].
    pub normalises: bool,
}

impl Contents<'_> {
    /// The files that hold the student, in the order of the bundle.
    pub(super) fn students(&self) -> impl Iterator<Item = &BundledFile<'_>> {
        self.files.iter().filter(|file| !file.name.ends_with(".json"))
    }
}
