//! Names of classes in several Unicode normal forms. macOS decomposes the accents in names of files, other systems
//! write them composed, and both look the same.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use unicode_normalization::UnicodeNormalization;

use crate::text::{counted, quoted};

/// What every note on names in several forms says.
const FORM: &str = "Unicode normal form";

/// Whether a note of a data set says that names in several forms were taken for the same, so that nobody has to act.
#[must_use]
pub fn is_of_normal_forms(note: &str) -> bool {
    // Unlike notes on splits that cannot be used because of such names.
    note.contains(FORM) && ["one class", "they are the same"].iter().any(|end| note.ends_with(end))
}

/// A name in the composed normal form (NFC), by which names are compared.
pub(crate) fn composed(name: &str) -> Cow<'_, str> {
    if name.is_ascii() { Cow::Borrowed(name) } else { Cow::Owned(name.nfc().collect()) }
}

/// The other ways to write a name.
pub(super) fn other_forms(name: &str) -> Vec<String> {
    if name.is_ascii() {
        return Vec::new();
    }
    let forms = [name.nfc().collect::<String>(), name.nfd().collect()];
    forms.into_iter().filter(|form| form != name).collect()
}

/// The classes by their names: as written, or else in another normal form.
pub(super) struct ClassIndex<'a> {
    exact: HashMap<&'a str, u32>,
    /// By the composed name. ASCII names have no other form.
    composed: HashMap<String, u32>,
}

impl<'a> ClassIndex<'a> {
    /// `names` are in the order of the labels.
    pub(super) fn new(names: &'a [String]) -> Self {
        let names = || names.iter().map(String::as_str).zip(0..);
        let others = names().filter(|(name, _)| !name.is_ascii());
        Self {
            exact: names().collect(),
            composed: others.map(|(name, label)| (composed(name).into(), label)).collect(),
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.exact.get(name).or_else(|| self.composed.get(&*composed(name))).copied()
    }

    /// What is said of a split whose names are classes of the split `decides` in another form.
    pub(super) fn note<'b>(&self, split: &str, names: impl Iterator<Item = &'b str>, decides: &str) -> Option<String> {
        let other: BTreeSet<&str> =
            names.filter(|name| !self.exact.contains_key(*name) && self.find(name).is_some()).collect();
        let first = other.first()?;
        let classes = counted(other.len() as u64, "class", "classes");
        Some(format!(
            "the {split} split writes {classes} in another {FORM} than the {decides} split, such as {}: they are the same",
            quoted(first)
        ))
    }
}

/// Names that were found in several forms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnitedNames(BTreeSet<String>);

impl UnitedNames {
    pub(super) fn add(&mut self, name: &str) {
        self.0.insert(composed(name).into_owned());
    }

    /// What is said of them. `place` is where they are.
    pub(super) fn note(&self, place: &str) -> Option<String> {
        let first = self.0.first()?;
        Some(match self.0.len() {
            1 => format!("{place} has the class {} in several {FORM}s: it is one class", quoted(first)),
            classes => format!(
                "{place} has {classes} classes in several {FORM}s, such as {}: each is one class",
                quoted(first)
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_they_are_written_before_another_form_is_tried() {
        let names = ["cafe\u{301}", "dog", "\u{212b}"].map(str::to_owned);
        let index = ClassIndex::new(&names);
        let found = ["cafe\u{301}", "caf\u{e9}", "dog", "\u{c5}", "A\u{30a}", "cafe"].map(|name| index.find(name));
        assert_eq!(found, [Some(0), Some(0), Some(1), Some(2), Some(2), None]);
        assert_eq!(index.note("test", ["cafe\u{301}", "dog", "owl"].into_iter(), "train"), None);
        assert_eq!(other_forms("caf\u{e9}"), ["cafe\u{301}"]);
        assert!(other_forms("cafe").is_empty());
    }
}
