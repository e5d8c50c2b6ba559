//! `predictions.safetensors`: what both networks predict, image by image, with small pictures of some images and what
//! the networks see in their regions.

use std::collections::BTreeMap;
use std::path::Path;

use super::{NetworkPredictions, Predictions};
use crate::checkpoint::{self, Checkpoint, Dtype, Error, NewTensor};

/// Most images of a file that is read.
const MOST_IMAGES: u64 = 1 << 20;
/// Most bytes of all its tensors.
const MOST_BYTES: u64 = 64 << 20;

/// The names of the tensors. Those of a network's answers begin with `student.` or `teacher.`.
mod tensors {
    /// Places of the images in the evaluation split: `[N]` int64.
    pub(super) const POSITIONS: &str = "positions";
    /// `[N]` int32.
    pub(super) const LABELS: &str = "labels";
    /// `[N]` int32.
    pub(super) const PREDICTED: &str = "predicted";
    /// `[N]` float32.
    pub(super) const CONFIDENCE: &str = "confidence";
    /// `[N]` float32.
    pub(super) const OF_LABEL: &str = "label_probability";
    /// Which images there are pictures of, as indices of the above: `[P]` int32.
    pub(super) const PICTURED: &str = "pictures.image";
    /// [P, 3, S, S] bytes.
    pub(super) const PIXELS: &str = "pictures.pixels";
    /// The class that the student predicts for each region: [P, R] int32.
    pub(super) const STUDENT_VOTES: &str = "regions.student";
    /// The same of the teacher.
    pub(super) const TEACHER_VOTES: &str = "regions.teacher";
    /// 1 for regions that are complementary, otherwise 0: [P, R] bytes.
    pub(super) const COMPLEMENTARY: &str = "regions.complementary";
}

/// The keys of the metadata.
mod keys {
    pub(super) const SPLIT: &str = "split";
    pub(super) const CLASSES: &str = "num_classes";
    /// Names of the classes, as a JSON list; absent if they have none.
    pub(super) const NAMES: &str = "classes";
    /// Scales of the regions, as a JSON list.
    pub(super) const SCALES: &str = "scales";
}

/// A file's content.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionFile {
    /// The evaluation split.
    pub split: String,
    /// Names of the classes, if they have any.
    pub names: Option<Vec<String>>,
    pub predictions: Predictions,
    pub pictures: Option<Pictures>,
}

/// Small pictures of some images.
#[derive(Debug, Clone, PartialEq)]
pub struct Pictures {
    /// Indices of the predictions, without repetition: `[P]`
    pub images: Vec<u32>,
    /// Width and height.
    pub side: u32,
    /// [P, 3, S, S]
    pub pixels: Vec<u8>,
    /// What the networks see in the regions, for methods that have them.
    pub regions: Option<RegionVotes>,
}

/// What the networks see in the regions of the pictured images: scale by scale and row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionVotes {
    pub scales: Vec<u32>,
    /// The class that the student predicts for each region: [P, R]
    pub student: Vec<u32>,
    /// The same of the teacher.
    pub teacher: Vec<u32>,
    /// Whether the region is complementary: [P, R]
    pub complementary: Vec<bool>,
}

impl RegionVotes {
    /// The number of regions of an image.
    #[must_use]
    pub fn of_image(&self) -> usize {
        self.scales.iter().map(|&scale| scale as usize * scale as usize).sum()
    }
}

impl Pictures {
    /// The pixels [3, S, S] of a picture.
    #[must_use]
    pub fn planes(&self, picture: usize) -> &[u8] {
        let size = 3 * self.side as usize * self.side as usize;
        &self.pixels[picture * size..][..size]
    }
}

/// Writes a file, atomically. Equal content gives equal bytes.
///
/// # Errors
/// The lists do not fit each other, or the file cannot be written.
pub fn write(path: &Path, file: &PredictionFile) -> Result<(), Error> {
    let PredictionFile { split, names, predictions, pictures } = file;
    let mut metadata = BTreeMap::from([
        (keys::SPLIT.to_owned(), split.clone()),
        (keys::CLASSES.to_owned(), predictions.classes.to_string()),
    ]);
    let json = |value: serde_json::Value| value.to_string();
    metadata.extend(names.as_ref().map(|names| (keys::NAMES.to_owned(), json(names.as_slice().into()))));
    let mut stored = TensorsToWrite::default();
    let count = predictions.len() as u64;
    let positions = predictions.positions.iter().flat_map(|position| position.to_le_bytes()).collect();
    stored.add(tensors::POSITIONS, Dtype::I64, &[count], positions);
    stored.add(tensors::LABELS, Dtype::I32, &[count], integers(&predictions.labels));
    let networks = [("student", Some(&predictions.student)), ("teacher", predictions.teacher.as_ref())];
    for (network, answers) in networks.into_iter().filter_map(|(name, answers)| Some((name, answers?))) {
        let NetworkPredictions { predicted, confidence, of_label } = answers;
        stored.add(&format!("{network}.{}", tensors::PREDICTED), Dtype::I32, &[count], integers(predicted));
        stored.add(&format!("{network}.{}", tensors::CONFIDENCE), Dtype::F32, &[count], floats(confidence));
        stored.add(&format!("{network}.{}", tensors::OF_LABEL), Dtype::F32, &[count], floats(of_label));
    }
    if let Some(Pictures { images, side, pixels, regions }) = pictures {
        let (count, side) = (images.len() as u64, u64::from(*side));
        stored.add(tensors::PICTURED, Dtype::I32, &[count], integers(images));
        stored.add(tensors::PIXELS, Dtype::U8, &[count, 3, side, side], pixels.clone());
        if let Some(regions) = regions {
            metadata.insert(keys::SCALES.to_owned(), json(regions.scales.as_slice().into()));
            let shape = [count, regions.of_image() as u64];
            stored.add(tensors::STUDENT_VOTES, Dtype::I32, &shape, integers(&regions.student));
            stored.add(tensors::TEACHER_VOTES, Dtype::I32, &shape, integers(&regions.teacher));
            let complementary = regions.complementary.iter().map(|&is| u8::from(is)).collect();
            stored.add(tensors::COMPLEMENTARY, Dtype::U8, &shape, complementary);
        }
    }
    checkpoint::write(path, &stored.tensors(), &metadata)
}

/// Tensors that are about to be written.
#[derive(Default)]
struct TensorsToWrite(Vec<(String, Dtype, Vec<u64>, Vec<u8>)>);

impl TensorsToWrite {
    fn add(&mut self, name: &str, dtype: Dtype, shape: &[u64], bytes: Vec<u8>) {
        self.0.push((name.to_owned(), dtype, shape.to_vec(), bytes));
    }

    fn tensors(&self) -> Vec<NewTensor<'_>> {
        self.0.iter().map(|(name, dtype, shape, bytes)| NewTensor { name, dtype: *dtype, shape, bytes }).collect()
    }
}

fn integers(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Reads a file.
///
/// # Errors
/// The file cannot be read, is too large, or its parts do not fit each other.
pub fn read(path: &Path) -> Result<PredictionFile, Error> {
    let reader = PredictionReader { file: Checkpoint::open_as_written(path)? };
    let bytes = reader.file.tensors().iter().fold(0_u64, |sum, tensor| sum.saturating_add(tensor.cost()));
    if bytes > MOST_BYTES {
        return Err(Error::Limit(format!("the predictions have {bytes} bytes, and at most {MOST_BYTES} are read")));
    }
    let metadata = reader.file.metadata();
    let classes = metadata.get(keys::CLASSES).and_then(|classes| classes.parse().ok());
    let classes: u32 = classes.ok_or_else(|| wrong("do not say how many classes there are"))?;
    let names = metadata.get(keys::NAMES).map(|names| json::<Vec<String>>(names)).transpose()?;
    let count = reader.file.get(tensors::LABELS).and_then(|labels| labels.shape().first().copied()).unwrap_or(0);
    if count == 0 || count > MOST_IMAGES {
        return Err(wrong(&format!("are of {count} images, and must be of 1 to {MOST_IMAGES}")));
    }
    let shape = [count];
    let answers = |network: &str| {
        let name = |of: &str| format!("{network}.{of}");
        Ok::<_, Error>(NetworkPredictions {
            predicted: reader.integers(&name(tensors::PREDICTED), &shape, classes)?,
            confidence: reader.floats(&name(tensors::CONFIDENCE), &shape)?,
            of_label: reader.floats(&name(tensors::OF_LABEL), &shape)?,
        })
    };
    let has_teacher = reader.file.get(&format!("teacher.{}", tensors::PREDICTED)).is_some();
    let positions = reader.bytes(tensors::POSITIONS, Dtype::I64, &shape)?;
    let predictions = Predictions {
        classes,
        positions: positions.as_chunks::<8>().0.iter().map(|&position| u64::from_le_bytes(position)).collect(),
        labels: reader.integers(tensors::LABELS, &shape, classes)?,
        student: answers("student")?,
        teacher: if has_teacher { Some(answers("teacher")?) } else { None },
    };
    let pictures = reader.pictures(classes, count as u32)?;
    Ok(PredictionFile { split: metadata.get(keys::SPLIT).cloned().unwrap_or_default(), names, predictions, pictures })
}

struct PredictionReader {
    file: Checkpoint,
}

impl PredictionReader {
    fn pictures(&self, classes: u32, images: u32) -> Result<Option<Pictures>, Error> {
        let Some(pixels) = self.file.get(tensors::PIXELS) else { return Ok(None) };
        let &[count, 3, side, width] = pixels.shape() else { return Err(wrong("have pictures of another shape")) };
        if side != width || side == 0 || side > 1024 {
            return Err(wrong("have pictures of another shape"));
        }
        let pictured = self.integers(tensors::PICTURED, &[count], images)?;
        let regions = match self.file.metadata().get(keys::SCALES) {
            None => None,
            Some(scales) => Some(self.regions(json(scales)?, count, classes)?),
        };
        let pixels = self.bytes(tensors::PIXELS, Dtype::U8, &[count, 3, side, side])?;
        Ok(Some(Pictures { images: pictured, side: side as u32, pixels, regions }))
    }

    fn regions(&self, scales: Vec<u32>, count: u64, classes: u32) -> Result<RegionVotes, Error> {
        if scales.is_empty() || scales.len() > 64 || scales.iter().any(|scale| !(1..=64).contains(scale)) {
            return Err(wrong("have regions of impossible scales"));
        }
        let mut votes = RegionVotes { scales, student: Vec::new(), teacher: Vec::new(), complementary: Vec::new() };
        let shape = [count, votes.of_image() as u64];
        votes.student = self.integers(tensors::STUDENT_VOTES, &shape, classes)?;
        votes.teacher = self.integers(tensors::TEACHER_VOTES, &shape, classes)?;
        let complementary = self.bytes(tensors::COMPLEMENTARY, Dtype::U8, &shape)?;
        votes.complementary = complementary.into_iter().map(|is| is != 0).collect();
        Ok(votes)
    }

    fn bytes(&self, name: &str, dtype: Dtype, shape: &[u64]) -> Result<Vec<u8>, Error> {
        match self.file.get(name) {
            Some(tensor) if tensor.dtype() == dtype && tensor.shape() == shape => self.file.bytes(tensor),
            Some(_) => Err(wrong(&format!("have a tensor {name} of another shape or kind"))),
            None => Err(wrong(&format!("have no tensor {name}"))),
        }
    }

    /// Numbers below `limit`.
    fn integers(&self, name: &str, shape: &[u64], limit: u32) -> Result<Vec<u32>, Error> {
        let bytes = self.bytes(name, Dtype::I32, shape)?;
        let values: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|&value| u32::from_le_bytes(value)).collect();
        match values.iter().find(|&&value| value >= limit) {
            Some(value) => Err(wrong(&format!("have {value} in {name}, where every number is below {limit}"))),
            None => Ok(values),
        }
    }

    fn floats(&self, name: &str, shape: &[u64]) -> Result<Vec<f32>, Error> {
        let bytes = self.bytes(name, Dtype::F32, shape)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect())
    }
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| wrong(&format!("have metadata that cannot be read ({error})")))
}

fn wrong(how: &str) -> Error {
    Error::Corrupt(format!("the predictions {how}"))
}
