//! WebDataset's shards: tars such as `train-000000.tar`, in which an image and its label share a name (`000.jpg` with
//! `000.cls`, or with the field `label` of `000.json`). The images are read in place, by their offsets.

mod members;
mod samples;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) use self::samples::is_shard;
use self::samples::{Place, ShardSamples};
use super::forms::ClassIndex;
use super::links::{self, Links};
use super::{
    Classes, DatasetFormat, Error, FormatReader, Frame, Images, is_name, labels, memory, parquet, pixels, splits,
};
use crate::text::quoted;

/// Largest encoded image, in bytes.
const LARGEST_IMAGE: u64 = 256 << 20;

#[derive(Debug)]
struct WebDataset {
    splits: BTreeMap<String, ShardSamples>,
    /// Splits that cannot be used, with reasons.
    faults: BTreeMap<String, Error>,
}

/// Whether this layout may read a file of that name.
pub(super) fn may_read(name: &str) -> bool {
    name.ends_with(".tar")
}

/// Recognises `train-000000.tar`, `pets-train-0001.tar`, `000000.tar`, and `train/000000.tar`. Tars whose first samples
/// are not images with labels are taken for archives, which are no data sets.
pub(super) fn detect(root: &Path, links: &Links) -> Result<Option<Box<dyn FormatReader>>, Error> {
    let mut found = WebDataset { splits: BTreeMap::new(), faults: BTreeMap::new() };
    for (split, paths) in by_split(root, links)? {
        let Some(first) = paths.first() else { continue };
        if !is_shard(first)? {
            continue;
        }
        let read = parquet::check_numbers(root, &split, &paths).and_then(|()| ShardSamples::read(&split, paths));
        match read {
            Ok(samples) => drop(found.splits.insert(split, samples)),
            Err(error) if error.is_users() && !splits::is_train(&split) => drop(found.faults.insert(split, error)),
            Err(error) => return Err(error),
        }
    }
    if !found.splits.is_empty() {
        return Ok(Some(Box::new(found)));
    }
    found.faults.pop_first().map_or(Ok(None), |(_, fault)| Err(fault))
}

/// Checks that a shard can be read.
pub(super) fn check_shard(path: &Path, split: &str) -> Result<(), Error> {
    ShardSamples::read(split, vec![path.to_owned()]).map(drop)
}

/// The shards of each split, in order of their names: those in the directory itself, or else those in subdirectories
/// that are named like splits.
fn by_split(root: &Path, links: &Links) -> Result<BTreeMap<String, Vec<PathBuf>>, Error> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let entries = links::entries(root)?;
    for file in links.files(&entries, may_read)? {
        let split = split_of(&file.name);
        if is_name(split) {
            found.entry(split.to_owned()).or_default().push(file.path.clone());
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    for directory in links.directories(&entries)? {
        if splits::is_usual(&directory.name) {
            let entries = links::entries(&directory.path)?;
            let files: Vec<_> = links.files(&entries, may_read)?.into_iter().map(|file| file.path.clone()).collect();
            if !files.is_empty() {
                found.insert(directory.name.clone(), files);
            }
        }
    }
    Ok(found)
}

/// The split in the name of a shard: the first part between dashes that is called like one, or else what comes before
/// the number, or else the one to train on.
fn split_of(name: &str) -> &str {
    let stem = name.strip_suffix(".tar").unwrap_or(name);
    if let Some(usual) = stem.split('-').find(|part| splits::is_usual(part)) {
        return usual;
    }
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut end = 0;
    for part in stem.split('-').take_while(|part| !is_number(part)) {
        end += part.len() + 1;
    }
    match stem.get(..end.saturating_sub(1)) {
        None | Some("") => splits::TRAIN[0],
        Some(prefix) => prefix,
    }
}

impl WebDataset {
    fn samples(&self, split: &str) -> &ShardSamples {
        &self.splits[split]
    }
}

impl FormatReader for WebDataset {
    fn format(&self) -> DatasetFormat {
        DatasetFormat::WebDataset
    }

    fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    fn fault(&self, split: &str) -> Option<Error> {
        let (_, fault) = self.faults.iter().find(|(name, _)| name.eq_ignore_ascii_case(split))?;
        Some(fault.again())
    }

    fn images(&self, split: &str) -> Result<u64, Error> {
        Ok(self.samples(split).images.len() as u64)
    }

    fn classes(&self) -> Result<Classes, Error> {
        let samples = self.samples(splits::deciding(&self.splits));
        if let Some(numbers) = samples.numbers() {
            return labels::count(&samples.shards[0], &numbers);
        }
        let mut names = samples.texts.clone();
        names.sort();
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        Ok(Classes { count, names: Some(names), first_label: 0 })
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        self.samples(split).shards.clone()
    }

    fn labels(&self, split: &str, classes: &Classes) -> Result<Vec<u32>, Error> {
        let samples = self.samples(split);
        let path = &samples.shards[0];
        let Some(names) = &classes.names else {
            let mut numbers = samples.numbers().ok_or_else(|| {
                let decides = splits::deciding(&self.splits);
                let message =
                    format!("has names as labels, where the {decides} split has numbers: use the same for both");
                Error::invalid(path, message)
            })?;
            labels::to_classes(path, split, 0, &mut numbers, classes)?;
            return Ok(numbers);
        };
        let known = ClassIndex::new(names);
        let class = |text: &String| {
            known.find(text).ok_or_else(|| {
                let decides = splits::deciding(&self.splits);
                let message = format!(
                    "has the label {text}, which the {decides} split does not have: correct it",
                    text = quoted(text)
                );
                Error::invalid(path, message)
            })
        };
        let of_texts = samples.texts.iter().map(class).collect::<Result<Vec<u32>, Error>>()?;
        Ok(samples.labels.iter().map(|&text| of_texts[text as usize]).collect())
    }

    fn open(&self, split: &str, labels: Vec<u32>) -> Result<Box<dyn Images>, Error> {
        let ShardSamples { shards, images, .. } = self.samples(split);
        Ok(Box::new(TarImages { shards: shards.clone(), places: images.clone(), labels }))
    }

    fn notes(&self, classes: &Classes) -> Vec<String> {
        let known = ClassIndex::new(classes.names.as_deref().unwrap_or_default());
        let decides = splits::deciding(&self.splits);
        let other_form = |(split, samples): (&String, &ShardSamples)| {
            known.note(split, samples.texts.iter().map(String::as_str), decides)
        };
        let faults = self.faults.iter().map(|(split, fault)| match fault {
            Error::Invalid { path, message } => {
                let name = path.file_name().unwrap_or_default().display();
                format!("the {split} split is passed over: {name} {message}")
            }
            other => format!("the {split} split is passed over: {other}"),
        });
        let of_splits = self.splits.iter().flat_map(|(split, samples)| samples.notes(split));
        faults.chain(of_splits).chain(self.splits.iter().filter_map(other_form)).collect()
    }
}

#[derive(Debug)]
struct TarImages {
    shards: Vec<PathBuf>,
    places: Vec<Place>,
    labels: Vec<u32>,
}

impl TarImages {
    /// Hands over the encoded image. Until that is done, other large ones wait where memory is limited.
    fn with_encoded<T>(&self, index: usize, then: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        let place = self.places[index];
        if place.size > LARGEST_IMAGE {
            return Err(self.invalid(index, "is larger than 256 MiB: replace it by a smaller copy"));
        }
        let _turn = memory::read(place.size);
        Ok(then(&samples::encoded(&self.shards[place.shard as usize], place)?))
    }

    /// The error for an image. `message` is a predicate.
    fn invalid(&self, index: usize, message: &str) -> Error {
        let path = &self.shards[self.places[index].shard as usize];
        Error::invalid(path, format!("image {index} of the split {message}"))
    }
}

impl Images for TarImages {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        self.read_stored(index, frame, (side, planes), &mut |_| ())
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.with_encoded(index, take)
    }

    fn read_stored(
        &self,
        index: usize,
        frame: &Frame<'_>,
        (side, planes): (u32, &mut [u8]),
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        // As WebDataset's own decoder, which does not turn images.
        let orientation = pixels::Orientation::AsStored;
        let decoded = self.with_encoded(index, |encoded| {
            take(encoded);
            pixels::decode(encoded, orientation, frame, side, planes).map(drop)
        })?;
        decoded.map_err(|message| self.invalid(index, &message))
    }
}
