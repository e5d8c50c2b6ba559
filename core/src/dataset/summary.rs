//! Facts about a data set that need no decoding.

use std::fs;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Dataset, DatasetFormat, Error};

/// Facts about a data set that need no decoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Summary)]
pub struct DatasetSummary {
    /// The directory's name, or the one that it was uploaded under.
    pub name: String,
    /// The version of an uploaded data set; null for a directory of the server.
    #[serde(default)]
    pub version: Option<String>,
    /// Format of the files.
    pub format: DatasetFormat,
    /// Sorted by name.
    pub splits: Vec<SplitSummary>,
    /// Splits whose images have no labels, which a job can name as its `unlabelled_split`. Sorted by name.
    #[serde(default)]
    pub unlabelled_splits: Vec<SplitSummary>,
    /// Number of images in all splits with labels.
    pub images: u64,
    /// Number of classes.
    pub classes: u32,
    /// Total size of the splits' files.
    pub size_bytes: u64,
    /// What was guessed or passed over when the directory was read.
    pub notes: Vec<String>,
}

/// One split of a [`DatasetSummary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SplitSummary {
    /// The split's name.
    pub name: String,
    /// Number of images.
    pub images: u64,
    /// Total size of its files.
    #[serde(default)]
    pub size_bytes: u64,
}

impl Dataset {
    /// # Errors
    /// A file is damaged or cannot be read.
    pub fn summary(&self) -> Result<DatasetSummary, Error> {
        let mut size_bytes = 0;
        let mut splits = Vec::new();
        let mut notes = self.notes();
        for name in self.splits() {
            let (mut empty, mut split_bytes) = (Vec::new(), 0);
            for file in self.layout.files(&name) {
                let bytes = fs::metadata(&file).map_err(Error::io(&file))?.len();
                split_bytes += bytes;
                if bytes == 0 && self.format() == DatasetFormat::Folder {
                    empty.push(file);
                }
            }
            if let Some(first) = empty.first() {
                let first = first.strip_prefix(&self.path).unwrap_or(first).display();
                notes.push(match empty.len() {
                    1 => format!("1 image of the {name} split is an empty file, {first}: jobs leave it out"),
                    more => format!(
                        "{more} images of the {name} split are empty files, such as {first}: jobs leave them out"
                    ),
                });
            }
            size_bytes += split_bytes;
            splits.push(SplitSummary { images: self.layout.images(&name)?, name, size_bytes: split_bytes });
        }
        let mut unlabelled_splits = Vec::new();
        for name in self.unlabelled_splits() {
            let mut bytes = 0;
            for file in self.layout.files(&name) {
                bytes += fs::metadata(&file).map_err(Error::io(&file))?.len();
            }
            unlabelled_splits.push(SplitSummary { images: self.layout.images(&name)?, name, size_bytes: bytes });
        }
        let name = self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let images = splits.iter().map(|split| split.images).sum();
        let (format, classes) = (self.format(), self.classes.count);
        Ok(DatasetSummary {
            name,
            version: None,
            format,
            splits,
            unlabelled_splits,
            images,
            classes,
            size_bytes,
            notes,
        })
    }

    /// The summary of a data set that jobs can train on, with a note on every split that they cannot use. Reads all
    /// labels.
    ///
    /// # Errors
    /// A file cannot be read, or no job could use the split to train on.
    pub fn usable_summary(&self) -> Result<DatasetSummary, Error> {
        let mut summary = self.summary()?;
        let trains_on = self.train_split(None).ok();
        for split in self.splits() {
            match self.labels(&split) {
                Ok(_) => {}
                Err(error) if error.is_users() && trains_on.as_ref() != Some(&split) => {
                    let base = self.path.parent().unwrap_or(&self.path);
                    summary.notes.push(format!("no job can use the {split} split: {}", error.relative_to(base)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(summary)
    }
}
