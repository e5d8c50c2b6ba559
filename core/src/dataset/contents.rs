//! What the classes of a data set hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Dataset, Error};

/// Most classes that are listed.
const LISTED: usize = 20_000;

/// The classes of a data set, with numbers of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatasetClasses {
    /// In the order of the labels.
    pub listed: Vec<DatasetClass>,
    /// Number of further classes, which are not listed.
    pub more: u64,
}

/// A class of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DatasetClass)]
pub struct DatasetClass {
    /// Its number, from 0.
    pub label: u32,
    /// Its name; null if the data set has none.
    pub name: Option<String>,
    /// Number of its images by split. A split that has none, or whose labels cannot be used, is missing.
    pub images: BTreeMap<String, u64>,
}

impl Dataset {
    /// Counts the images of every class in every split. Reads all labels. Splits that no job can use are left out, as
    /// the notes of [`usable_summary`](Self::usable_summary) say.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn class_counts(&self) -> Result<DatasetClasses, Error> {
        let count = self.classes.count as usize;
        let name = |label: usize| self.classes.names.as_ref().and_then(|names| names.get(label).cloned());
        let listed = (0..count.min(LISTED)).map(|label| DatasetClass {
            label: u32::try_from(label).unwrap_or(u32::MAX),
            name: name(label),
            images: BTreeMap::new(),
        });
        let mut classes = DatasetClasses { listed: listed.collect(), more: count.saturating_sub(LISTED) as u64 };
        for split in self.splits() {
            let labels = match self.labels(&split) {
                Ok(labels) => labels,
                Err(error) if error.is_users() => continue,
                Err(error) => return Err(error),
            };
            for label in labels {
                if let Some(class) = classes.listed.get_mut(label as usize) {
                    *class.images.entry(split.clone()).or_default() += 1;
                }
            }
        }
        Ok(classes)
    }
}
