//! The samples of a split: which members of its shards are images, and what their labels are.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::folder::is_image;
use super::super::forms::{UnitedNames, composed};
use super::super::labels::NameBudget;
use super::super::{Error, source};
use super::members::{self, Member};
use crate::byte_source::ByteSource;
use crate::text::{self, counted};

/// Extensions of members with labels. The first that a sample has decides.
const LABELS: [&str; 5] = ["cls", "cls.txt", "label", "class", JSON];
/// A member that may have a label among other things.
const JSON: &str = "json";
/// Where a JSON object has its label.
const FIELDS: [&str; 3] = ["label", "cls", "class"];
/// Largest member with a label, in bytes.
const LARGEST_LABEL: u64 = 4 << 10;
const LARGEST_JSON: u64 = 1 << 20;

/// Where an image is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Index of its shard.
    pub shard: u32,
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

/// The images of a split that have labels.
#[derive(Debug, Default)]
pub(super) struct ShardSamples {
    pub shards: Vec<PathBuf>,
    pub images: Vec<Place>,
    /// For each image, the index of its label's text.
    pub labels: Vec<u32>,
    pub texts: Vec<String>,
    /// Images without a label, and labels without an image: how many, and the first one's key.
    unlabelled: (u64, String),
    unseen: (u64, String),
    /// Labels that are written in several Unicode normal forms.
    united: UnitedNames,
}

/// The members that share a key, which are next to each other.
struct Sample {
    key: String,
    image: Option<Place>,
    /// The label, and its place in [`LABELS`].
    label: Option<(usize, String)>,
}

/// Makes samples of members.
#[derive(Default)]
struct SampleReader {
    samples: ShardSamples,
    /// By the composed name.
    known: HashMap<String, u32>,
    budget: NameBudget,
    current: Option<Sample>,
}

/// Whether the first two samples of a tar have an image with a label: other tars are just archives.
pub(in super::super) fn is_shard(path: &Path) -> Result<bool, Error> {
    let mut reader = SampleReader::default();
    let mut keys = 0;
    let file = File::open(path).map_err(Error::io(path))?;
    let looked = members::each(path, &file, |member| {
        keys += u32::from(reader.take((path, &file), 0, &member)?);
        Ok(keys <= 2)
    });
    match looked {
        Ok(()) => {}
        // Faults of what may not be a shard are not reported.
        Err(error) if error.is_users() => return Ok(!reader.samples.images.is_empty()),
        Err(error) => return Err(error),
    }
    reader.end(path)?;
    Ok(!reader.samples.images.is_empty())
}

impl ShardSamples {
    /// Reads the headers and labels of a split's shards.
    pub(super) fn read(split: &str, shards: Vec<PathBuf>) -> Result<Self, Error> {
        let mut reader = SampleReader::default();
        for (shard, path) in (0..).zip(&shards) {
            source::refuse_lfs_pointer(path, &source::open(path)?)?;
            let file = File::open(path).map_err(Error::io(path))?;
            members::each(path, &file, |member| reader.take((path, &file), shard, &member).map(|_| true))?;
            reader.end(path)?;
        }
        let mut samples = reader.samples;
        if samples.images.is_empty()
            && let Some(first) = shards.first()
        {
            let message = format!(
                "has no image with a label, as 000.jpg with 000.cls (or the field label in 000.json): the {split} split \
                 is empty"
            );
            return Err(Error::invalid(first, message));
        }
        samples.shards = shards;
        Ok(samples)
    }

    /// The labels as numbers, if all of them are.
    pub(super) fn numbers(&self) -> Option<Vec<u32>> {
        let numbers: Vec<u32> = self.texts.iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
        Some(self.labels.iter().map(|&text| numbers[text as usize]).collect())
    }

    /// What is passed over.
    pub(super) fn notes(&self, split: &str) -> Vec<String> {
        let note = |(count, first): &(u64, String), one: &str, more: &str, lack: &str| {
            let what = counted(*count, one, more);
            (*count > 0).then(|| format!("passed over in the {split} split: {what} without {lack}, such as {first}"))
        };
        let unlabelled = note(&self.unlabelled, "image", "images", "a label");
        let unseen = note(&self.unseen, "label", "labels", "an image");
        let united = self.united.note(&format!("the {split} split"));
        [unlabelled, unseen, united].into_iter().flatten().collect()
    }
}

impl SampleReader {
    /// Takes a member. Returns whether it begins another sample.
    fn take(&mut self, (path, file): (&Path, &File), shard: u32, member: &Member) -> Result<bool, Error> {
        let Some((key, extension)) = key_and_extension(&member.name) else { return Ok(false) };
        let begins = self.current.as_ref().is_none_or(|sample| sample.key != key);
        if begins {
            self.end(path)?;
        }
        let sample = self.current.get_or_insert_with(|| Sample { key: key.to_owned(), image: None, label: None });
        if is_image(&format!("x.{extension}")) && !extension.contains('.') {
            if sample.image.is_some() {
                return Err(Error::invalid(path, format!("has two images of the sample {key}: keep one")));
            }
            sample.image = Some(Place { shard, offset: member.offset, size: member.size });
        } else if let Some(rank) = LABELS.iter().position(|known| *known == extension)
            && sample.label.as_ref().is_none_or(|(earlier, _)| rank < *earlier)
            && let Some(label) = label(path, file, member, &extension)?
        {
            sample.label = Some((rank, label));
        }
        Ok(begins)
    }

    /// Keeps the current sample, if it is complete.
    fn end(&mut self, path: &Path) -> Result<(), Error> {
        let Some(Sample { key, image, label }) = self.current.take() else { return Ok(()) };
        let count = |(count, first): &mut (u64, String)| {
            if *count == 0 {
                first.clone_from(&key);
            }
            *count += 1;
        };
        match (image, label) {
            (Some(place), Some((_, label))) => {
                self.samples.images.push(place);
                let number = self.number(path, label)?;
                self.samples.labels.push(number);
            }
            (Some(_), None) => count(&mut self.samples.unlabelled),
            (None, Some(_)) => count(&mut self.samples.unseen),
            (None, None) => {}
        }
        Ok(())
    }

    /// The place of a label among all texts.
    fn number(&mut self, path: &Path, label: String) -> Result<u32, Error> {
        let form = composed(&label);
        if let Some(&number) = self.known.get(form.as_ref()) {
            if self.samples.texts[number as usize] != label {
                self.samples.united.add(&label);
            }
            return Ok(number);
        }
        self.budget.add(path, &label, "write the name of a class into each label, and captions elsewhere")?;
        let number = u32::try_from(self.samples.texts.len()).unwrap_or(u32::MAX);
        self.known.insert(form.into_owned(), number);
        self.samples.texts.push(label);
        Ok(number)
    }
}

/// The key of a sample and the rest of a member's name, as WebDataset tells them apart: at the first dot of the name
/// behind the last slash. `None` for hidden files and for those without a dot.
fn key_and_extension(name: &str) -> Option<(&str, String)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.').filter(|&dot| dot > 0)?;
    Some((&name[..dot], name[dot + 1..].to_ascii_lowercase()))
}

/// The label in a member; `None` for a JSON document without one.
fn label(path: &Path, file: &File, member: &Member, extension: &str) -> Result<Option<String>, Error> {
    let is_json = extension == JSON;
    let largest = if is_json { LARGEST_JSON } else { LARGEST_LABEL };
    let Member { name, offset, size } = member;
    if *size > largest {
        // Captions, boxes and the like, which need not have a label.
        let message = format!("has a label of {size} bytes, {name}; at most {largest} are read");
        return if is_json { Ok(None) } else { Err(Error::invalid(path, message)) };
    }
    let mut content = vec![0; usize::try_from(*size).unwrap_or_default()];
    file.read_exact_at(&mut content, *offset).map_err(Error::io(path))?;
    let content = text::without_mark(&content);
    if is_json {
        let Ok(Value::Object(object)) = text::json(content) else { return Ok(None) };
        let found = FIELDS.iter().find_map(|field| match object.get(*field)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if number.is_u64() => Some(number.to_string()),
            _ => None,
        });
        return Ok(found.filter(|label| label.len() as u64 <= LARGEST_LABEL));
    }
    let label = std::str::from_utf8(content).map(str::trim).unwrap_or_default();
    if label.is_empty() {
        let message = format!("has no label in {name}: write a number or the name of a class");
        return Err(Error::invalid(path, message));
    }
    Ok(Some(label.to_owned()))
}

/// An image's encoded bytes.
pub(super) fn encoded(path: &Path, place: Place) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    let source = ByteSource::from_file(file).map_err(Error::io(path))?;
    source.read(place.offset, place.size).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::invalid(path, "is shorter than when it was opened: restore it"),
        _ => Error::io(path)(error),
    })
}
