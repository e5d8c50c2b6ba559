//! From the labels in the files to classes. The split to train on decides the classes; other splits and shards may
//! number them differently.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use ::parquet::data_type::ByteArray;

use super::super::forms::{ClassIndex, composed};
use super::columns::LabelKind;
use super::groups::{self, RawLabels};
use super::{Classes, Error, ShardFile, labels};
use crate::text::quoted;

/// Least number of images for which a different label on each of them is suspicious.
const SUSPICIOUS: usize = 10;

pub(super) fn of(split: &str, shards: &[ShardFile]) -> Result<Classes, Error> {
    let first = &shards[0];
    if let Some(other) = shards.iter().find(|shard| shard.is_text() != first.is_text()) {
        let message = format!(
            "has labels of another type than {}: write all shards of the {split} split alike",
            first.path.display()
        );
        return Err(Error::invalid(&other.path, message));
    }
    if let Some((shard, names)) = shards.iter().find_map(|shard| Some((shard, shard.class_names()?))) {
        check_names(&shard.path, &names)?;
        return Ok(Classes { count: number(names.len()), names: Some(names), first_label: 0 });
    }
    let (classes, images) = if first.is_text() {
        let (mut texts, mut budget) = (BTreeSet::new(), labels::NameBudget::default());
        let mut images = 0;
        each_group(shards, |shard, labels| {
            if let RawLabels::Texts(labels) = labels {
                images += labels.len();
                for label in &labels {
                    let label = text(shard, label)?;
                    if !texts.contains(label) {
                        budget.add(&shard.path, label, "set label_column to the column of the labels")?;
                        texts.insert(label.to_owned());
                    }
                }
            }
            Ok(())
        })?;
        if texts.is_empty() {
            return Err(Error::invalid(&first.path, "contains no images"));
        }
        if let Some(label) = in_two_forms(texts.iter().map(String::as_str)) {
            let message = format!("has the label {label} {TWO_FORMS}: write it in one of them", label = quoted(&label));
            return Err(Error::invalid(&first.path, message));
        }
        let names: Vec<String> = texts.into_iter().collect();
        (Classes { count: number(names.len()), names: Some(names), first_label: 0 }, images)
    } else {
        let mut all = Vec::new();
        each_group(shards, |_, labels| {
            if let RawLabels::Numbers(labels) = labels {
                all.extend(labels);
            }
            Ok(())
        })?;
        (labels::count(&first.path, &all)?, all.len())
    };
    if first.columns.is_guess && classes.count as usize == images && images >= SUSPICIOUS {
        let message = format!(
            "has a different {} for every image, which is not a class: set label_column to the column of the labels",
            quoted(&first.columns.label_name)
        );
        return Err(Error::Column { path: first.path.clone(), message });
    }
    Ok(classes)
}

/// Refuses the same class twice.
fn check_names(path: &Path, names: &[String]) -> Result<(), Error> {
    let mut known = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !known.insert(name.as_str())) {
        return Err(Error::invalid(
            path,
            format!("names the class {twice} twice: correct its metadata", twice = quoted(twice)),
        ));
    }
    if let Some(twice) = in_two_forms(names.iter().map(String::as_str)) {
        let message =
            format!("names the class {twice} twice, {TWO_FORMS}: correct its metadata", twice = quoted(&twice));
        return Err(Error::invalid(path, message));
    }
    Ok(())
}

/// How macOS and other systems write the same accents.
const TWO_FORMS: &str = "in two Unicode normal forms, which look the same";

/// The first name that is there in two Unicode normal forms, composed.
fn in_two_forms<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut known = HashSet::new();
    names.map(|name| composed(name).into_owned()).find(|name| !known.insert(name.clone()))
}

/// Checks that the labels of a shard can be read.
pub(super) fn check(shard: &ShardFile) -> Result<(), Error> {
    each_group(std::slice::from_ref(shard), |shard, found| match found {
        RawLabels::Texts(found) => found.iter().try_for_each(|label| text(shard, label).map(drop)),
        RawLabels::Numbers(_) => Ok(()),
    })
}

/// The class of each image of a split, whose classes are those of the split `decides` with the shards `deciding`.
pub(super) fn labels(
    (split, shards): (&str, &[ShardFile]),
    (decides, deciding): (&str, &[ShardFile]),
    classes: &Classes,
) -> Result<Vec<u32>, Error> {
    let known: HashMap<&str, u32> = classes.names.iter().flatten().map(String::as_str).zip(0..).collect();
    let mut all = Vec::new();
    for shard in shards {
        let unknown = |name: &str| {
            let is_other_form = ClassIndex::new(classes.names.as_deref().unwrap_or_default()).find(name).is_some();
            let wrong = if is_other_form {
                format!("which the {decides} split writes in another Unicode normal form: write both alike")
            } else {
                format!("which is no class of the {decides} split: rename or remove it")
            };
            Error::invalid(
                &shard.path,
                format!("has the label {name} in the {split} split, {wrong}", name = quoted(name)),
            )
        };
        let names = renumbered(shard, classes);
        if !shard.is_text() && names.is_none() && deciding[0].is_text() {
            let message = format!("has numbers as labels, and the {decides} split has text: write both alike");
            return Err(Error::invalid(&shard.path, message));
        }
        each_group(std::slice::from_ref(shard), |shard, found| {
            match (found, &names) {
                (RawLabels::Texts(found), _) => {
                    for label in &found {
                        let name = text(shard, label)?;
                        all.push(*known.get(name).ok_or_else(|| unknown(name))?);
                    }
                }
                (RawLabels::Numbers(mut found), Some(names)) => {
                    labels::to_classes(&shard.path, split, all.len(), &mut found, &counted(names.len()))?;
                    for label in found {
                        let name = names[label as usize].as_str();
                        all.push(*known.get(name).ok_or_else(|| unknown(name))?);
                    }
                }
                (RawLabels::Numbers(mut found), None) => {
                    labels::to_classes(&shard.path, split, all.len(), &mut found, classes)?;
                    all.extend(found);
                }
            }
            Ok(())
        })?;
    }
    Ok(all)
}

/// What was guessed about the classes of a split.
pub(super) fn notes(split: &str, shards: &[ShardFile], classes: &Classes) -> Option<String> {
    let shard = &shards[0];
    if shards.iter().any(|shard| renumbered(shard, classes).is_some()) {
        return Some(format!("the {split} split numbers its classes differently: they are matched by name"));
    }
    let unnamed = shards.iter().filter(|shard| !shard.is_text() && shard.class_names().is_none()).count();
    if classes.names.is_some() && unnamed > 0 {
        return Some(format!(
            "{unnamed} of {} files of the {split} split do not name the classes: they are taken by number",
            shards.len()
        ));
    }
    let column = &shard.columns;
    column.is_guess.then(|| format!("the labels of the {split} split are the column {}", quoted(&column.label_name)))
}

/// The names by which a shard's numbers are to be understood, if they are not those of the data set.
fn renumbered(shard: &ShardFile, classes: &Classes) -> Option<Vec<String>> {
    let names = shard.class_names()?;
    // Longer and shorter lists with the same beginning number the same.
    let is_same = classes.names.as_ref().is_none_or(|known| {
        let both = known.len().min(names.len());
        known[..both] == names[..both] && names.len() <= known.len()
    });
    (!is_same).then_some(names)
}

impl ShardFile {
    fn is_text(&self) -> bool {
        self.columns.label_kind == LabelKind::Text
    }
}

fn counted(count: usize) -> Classes {
    Classes { count: number(count), names: None, first_label: 0 }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn each_group(
    shards: &[ShardFile],
    mut visit: impl FnMut(&ShardFile, RawLabels) -> Result<(), Error>,
) -> Result<(), Error> {
    for shard in shards {
        for group in 0..shard.metadata.num_row_groups() {
            visit(shard, groups::labels(shard, group)?)?;
        }
    }
    Ok(())
}

fn text<'a>(shard: &ShardFile, label: &'a ByteArray) -> Result<&'a str, Error> {
    label.as_utf8().map_err(|_| Error::invalid(&shard.path, "has a label that is not valid UTF-8: write it again"))
}
