//! The classes of a data set, and how many images each has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::discover::LONGEST_NAME;
use super::forms::ClassIndex;
use super::{Dataset, Error};
use crate::text::quoted;

/// Number of classes above which the others are only counted.
const LISTED: usize = 20_000;

/// The classes of a data set, with numbers of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatasetClasses {
    /// The classes in the order of their labels, up to 20,000.
    pub listed: Vec<DatasetClass>,
    /// Number of further classes, which are not listed.
    pub more: u64,
}

/// A class of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DatasetClass)]
pub struct DatasetClass {
    /// The class as labels have it, from 0.
    pub label: u32,
    /// The name of the class; null if the data set has no names.
    pub name: Option<String>,
    /// Number of its images by split. Splits that have none, or whose labels cannot be used, are left out.
    pub images: BTreeMap<String, u64>,
}

/// The number of a class that is given by its name, in any Unicode normal form, or else by its number. `names` are in
/// the order of the labels, which are below `count`.
///
/// # Errors
/// There is no such class.
pub fn class_of(given: &str, names: Option<&[String]>, count: u32) -> Result<u32, String> {
    let by_name = names.and_then(|names| ClassIndex::new(names).find(given));
    by_name.or_else(|| given.parse().ok().filter(|label| *label < count)).ok_or_else(|| {
        let shown: String = given.chars().take(LONGEST_NAME).collect();
        let shown = quoted(&shown);
        format!("there is no class {shown}: it is a name of the data set's classes, or a number below {count}")
    })
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
