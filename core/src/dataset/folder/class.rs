//! The images of a class in a split.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use super::super::forms::{UnitedNames, composed};

#[derive(Debug)]
pub(super) struct Class {
    pub name: String,
    pub directory: PathBuf,
    /// Relative to the directory.
    pub files: Vec<Box<str>>,
}

impl Class {
    /// Takes over the images of another class. Both directories are below `above`.
    fn unite(&mut self, mut other: Self, above: &Path) {
        self.relative_to(above);
        other.relative_to(above);
        self.files.append(&mut other.files);
    }

    fn relative_to(&mut self, above: &Path) {
        let Ok(below) = self.directory.strip_prefix(above) else { return };
        if below.as_os_str().is_empty() {
            return;
        }
        let below = below.display().to_string();
        for file in &mut self.files {
            *file = format!("{below}/{file}").into_boxed_str();
        }
        self.directory = above.to_owned();
    }
}

/// Unites classes whose names differ in their Unicode normal form alone. Their directories are below `above`.
pub(super) fn unite(classes: Vec<Class>, above: &Path) -> (Vec<Class>, UnitedNames) {
    let (mut kept, mut united): (Vec<Class>, _) = (Vec::new(), UnitedNames::default());
    let mut places: HashMap<String, usize> = HashMap::new();
    for class in classes {
        match places.entry(composed(&class.name).into_owned()) {
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push(class);
            }
            Entry::Occupied(place) => {
                united.add(&class.name);
                kept[*place.get()].unite(class, above);
            }
        }
    }
    (kept, united)
}
