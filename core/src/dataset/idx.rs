//! MNIST's IDX files: a header of big-endian sizes, then bytes. Images and labels are in separate files.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use super::links::{self, Links};
use super::{Classes, DatasetFormat, Error, FormatReader, Frame, Images, labels, pixels, source, splits};
use crate::byte_source::ByteSource;

/// Unsigned bytes in three dimensions.
const IMAGES_MAGIC: u32 = 0x803;
/// Unsigned bytes in one dimension.
const LABELS_MAGIC: u32 = 0x801;

#[derive(Debug)]
struct IdxFiles {
    images: PathBuf,
    labels: PathBuf,
}

#[derive(Debug)]
struct Idx {
    splits: BTreeMap<String, IdxFiles>,
    /// Names of files of images that another file of the same split takes precedence over.
    passed_over: Vec<String>,
}

/// Whether this layout may read a file of that name.
pub(super) fn may_read(name: &str) -> bool {
    name.contains("-idx") || name.contains(".idx")
}

/// Recognises `train-images-idx3-ubyte`, `t10k-labels.idx1-ubyte.gz` and similar names.
pub(super) fn detect(root: &Path, links: &Links) -> Result<Option<Box<dyn FormatReader>>, Error> {
    let entries = links::entries(root)?;
    let files = links.files(&entries, may_read)?;
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let (mut splits, mut passed_over) = (BTreeMap::new(), Vec::new());
    for &name in &names {
        let bare = name.strip_suffix(".gz").unwrap_or(name);
        let Some(prefix) = ["-images-idx3-ubyte", "-images.idx3-ubyte"].iter().find_map(|end| bare.strip_suffix(end))
        else {
            continue;
        };
        if prefix.is_empty() {
            continue;
        }
        let split = if prefix == "t10k" { "test" } else { prefix };
        let ends = ["-labels-idx1-ubyte", "-labels.idx1-ubyte", "-labels-idx1-ubyte.gz", "-labels.idx1-ubyte.gz"];
        let candidates = ends.iter().map(|end| format!("{prefix}{end}"));
        let labels = candidates.into_iter().find(|candidate| names.contains(&candidate.as_str())).ok_or_else(|| {
            Error::invalid(&root.join(name), format!("has no labels beside it: add {prefix}-labels-idx1-ubyte"))
        })?;
        let files = IdxFiles { images: root.join(name), labels: root.join(labels) };
        // A plain file sorts before its compressed copy, and is preferred.
        match splits.entry(split.to_owned()) {
            Entry::Vacant(place) => drop(place.insert(files)),
            Entry::Occupied(_) => passed_over.push(name.to_owned()),
        }
    }
    Ok((!splits.is_empty()).then(|| Box::new(Idx { splits, passed_over }) as Box<dyn FormatReader>))
}

impl FormatReader for Idx {
    fn format(&self) -> DatasetFormat {
        DatasetFormat::Idx
    }

    fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    fn images(&self, split: &str) -> Result<u64, Error> {
        Ok(read_labels(&self.splits[split].labels)?.len() as u64)
    }

    fn classes(&self) -> Result<Classes, Error> {
        let files = &self.splits[splits::deciding(&self.splits)];
        labels::count(&files.labels, &read_labels(&files.labels)?)
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        let files = &self.splits[split];
        vec![files.images.clone(), files.labels.clone()]
    }

    fn labels(&self, split: &str, classes: &Classes) -> Result<Vec<u32>, Error> {
        let files = &self.splits[split];
        let mut labels = read_labels(&files.labels)?;
        labels::to_classes(&files.labels, split, 0, &mut labels, classes)?;
        // Unpacking the images would take as long as loading them.
        if files.images.extension().is_none_or(|extension| extension != "gz") {
            files.images(labels.len())?;
        }
        Ok(labels)
    }

    fn open(&self, split: &str, labels: Vec<u32>) -> Result<Box<dyn Images>, Error> {
        let files = &self.splits[split];
        let (source, size) = files.images(labels.len())?;
        Ok(Box::new(IdxImages { path: files.images.clone(), source, size, labels }))
    }

    fn notes(&self, _: &Classes) -> Vec<String> {
        let passed_over = |name: &String| format!("{name} is passed over, because its split has other files too");
        self.passed_over.iter().map(passed_over).collect()
    }
}

impl IdxFiles {
    /// Opens the images, whose number must be that of the labels, and returns their width and height.
    fn images(&self, labels: usize) -> Result<(ByteSource, [u32; 2]), Error> {
        let path = &self.images;
        let source = source::open(path)?;
        let [images, height, width] = header(&source, path, IMAGES_MAGIC, "an IDX file of images")?;
        if images as usize != labels {
            let message = format!("has {images} images, but {} has {labels} labels", self.labels.display());
            return Err(Error::invalid(path, message));
        }
        if width == 0 || height == 0 || u64::from(width) * u64::from(height) > 1 << 26 {
            return Err(Error::invalid(
                path,
                format!("has images of {width} × {height} pixels, which is not supported"),
            ));
        }
        check_size(&source, path, 16, u128::from(images) * u128::from(height) * u128::from(width))?;
        Ok((source, [width, height]))
    }
}

fn read_labels(path: &Path) -> Result<Vec<u32>, Error> {
    let source = source::open(path)?;
    let [count] = header(&source, path, LABELS_MAGIC, "an IDX file of labels")?;
    check_size(&source, path, 8, u128::from(count))?;
    let mut bytes = vec![0; count as usize];
    source.read_at(&mut bytes, 8).map_err(Error::io(path))?;
    Ok(bytes.into_iter().map(u32::from).collect())
}

fn header<const N: usize>(source: &ByteSource, path: &Path, magic: u32, what: &str) -> Result<[u32; N], Error> {
    let word = |index: usize| {
        let mut bytes = [0; 4];
        source.read_at(&mut bytes, 4 * index as u64).map_err(Error::io(path))?;
        Ok::<_, Error>(u32::from_be_bytes(bytes))
    };
    if source.len() < 4 * (N as u64 + 1) || word(0)? != magic {
        return Err(Error::invalid(path, format!("is not {what} of unsigned bytes")));
    }
    let mut sizes = [0; N];
    for (index, size) in sizes.iter_mut().enumerate() {
        *size = word(index + 1)?;
    }
    Ok(sizes)
}

fn check_size(source: &ByteSource, path: &Path, header: u64, content: u128) -> Result<(), Error> {
    let (found, expected) = (u128::from(source.len()), u128::from(header) + content);
    if found == expected {
        return Ok(());
    }
    let what = if found < expected { "is truncated" } else { "has extra bytes at its end" };
    Err(Error::invalid(
        path,
        format!("{what}: {found} bytes, but {expected} according to its header; download it again"),
    ))
}

#[derive(Debug)]
struct IdxImages {
    path: PathBuf,
    source: ByteSource,
    size: [u32; 2],
    labels: Vec<u32>,
}

impl IdxImages {
    fn raw(&self, index: usize) -> Result<Vec<u8>, Error> {
        let area = self.size[0] as usize * self.size[1] as usize;
        let mut raw = vec![0; area];
        assert!(index < self.labels.len(), "image {index} of {}", self.labels.len());
        self.source.read_at(&mut raw, 16 + (index * area) as u64).map_err(Error::io(&self.path))?;
        Ok(raw)
    }
}

impl Images for IdxImages {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        pixels::from_planes(&self.raw(index)?, self.size, frame, side, planes);
        Ok(())
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        take(&self.raw(index)?);
        Ok(())
    }
}
