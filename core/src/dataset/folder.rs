//! Image folders: `<split>/<class>/*.png`, `*.jpg` or `*.jpeg`, with classes and files sorted by name.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{
    Classes, DatasetFormat, EVAL_SPLITS, Error, FormatReader, Frame, Images, TRAIN_SPLIT, deciding_split, pixels,
};

/// Largest encoded image, in bytes.
const LARGEST_FILE: u64 = 256 << 20;

/// A class and the names of its files.
type Class = (String, Vec<Box<str>>);

#[derive(Debug)]
struct Folder {
    root: PathBuf,
    splits: BTreeMap<String, Vec<Class>>,
}

/// Recognises a directory with class directories in `train`, `test`, `val` or `validation`.
pub(super) fn detect(root: &Path) -> Result<Option<Box<dyn FormatReader>>, Error> {
    if !EVAL_SPLITS.iter().chain([&TRAIN_SPLIT]).any(|split| root.join(split).is_dir()) {
        return Ok(None);
    }
    let boundary = fs::canonicalize(root).map_err(Error::io(root))?;
    let mut splits = BTreeMap::new();
    for (split, path) in children(root, &boundary, EntryKind::Directory)? {
        let mut classes = Vec::new();
        for (class, path) in children(&path, &boundary, EntryKind::Directory)? {
            let files = children(&path, &boundary, EntryKind::Image)?;
            classes.push((class, files.into_iter().map(|(file, _)| file.into_boxed_str()).collect()));
        }
        if !classes.is_empty() {
            splits.insert(split, classes);
        }
    }
    let folder = Folder { root: root.to_owned(), splits };
    Ok((!folder.splits.is_empty()).then(|| Box::new(folder) as Box<dyn FormatReader>))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    Directory,
    Image,
}

/// The entries of one kind in a directory, sorted by name. Hidden and other entries are skipped.
fn children(directory: &Path, boundary: &Path, kind: EntryKind) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let entry = entry.map_err(Error::io(directory))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") || (kind == EntryKind::Image && !is_image(&path)) {
            continue;
        }
        if !is_of_kind(&entry, &path, boundary, kind)? {
            continue;
        }
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Error::invalid(&path, "has a name that is not valid UTF-8: rename it"));
        };
        found.push((name, path));
    }
    found.sort();
    Ok(found)
}

/// Checks an entry's kind. A symbolic link must not lead out of the data set.
fn is_of_kind(entry: &DirEntry, path: &Path, boundary: &Path, kind: EntryKind) -> Result<bool, Error> {
    let mut file_type = entry.file_type().map_err(Error::io(path))?;
    if file_type.is_symlink() {
        let target = fs::canonicalize(path).map_err(|_| Error::invalid(path, "is a broken link: remove it"))?;
        if !target.starts_with(boundary) {
            let message = "is a link that leads out of the data set's directory: replace it by a copy";
            return Err(Error::invalid(path, message));
        }
        file_type = fs::metadata(&target).map_err(Error::io(path))?.file_type();
    }
    Ok(if kind == EntryKind::Directory { file_type.is_dir() } else { file_type.is_file() })
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
}

impl FormatReader for Folder {
    fn format(&self) -> DatasetFormat {
        DatasetFormat::Folder
    }

    fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    fn images(&self, split: &str) -> Result<u64, Error> {
        Ok(self.splits[split].iter().map(|(_, files)| files.len() as u64).sum())
    }

    fn classes(&self) -> Result<Classes, Error> {
        let split = deciding_split(&self.splits);
        let classes = &self.splits[split];
        if let Some((empty, _)) = classes.iter().find(|(_, files)| files.is_empty()) {
            let path = self.root.join(split).join(empty);
            return Err(Error::invalid(&path, "contains no *.png, *.jpg or *.jpeg: add images or remove the class"));
        }
        let names: Vec<_> = classes.iter().map(|(class, _)| class.clone()).collect();
        Ok(Classes { count: u32::try_from(names.len()).unwrap_or(u32::MAX), names: Some(names) })
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        let split_path = self.root.join(split);
        let paths = |(class, files): &Class| {
            let class_path = split_path.join(class);
            files.iter().map(move |file| class_path.join(&**file)).collect::<Vec<_>>()
        };
        self.splits[split].iter().flat_map(paths).collect()
    }

    fn open(&self, split: &str, classes: &Classes) -> Result<Box<dyn Images>, Error> {
        let known = classes.names.as_deref().unwrap_or_default();
        let mut labels = Vec::new();
        for (class, files) in &self.splits[split] {
            let label = known.iter().position(|known| known == class).and_then(|label| u32::try_from(label).ok());
            let Some(label) = label else {
                let path = self.root.join(split).join(class);
                let decides = deciding_split(&self.splits);
                let message = format!("is a class that the {decides} split does not have: rename or remove it");
                return Err(Error::invalid(&path, message));
            };
            labels.extend(files.iter().map(|_| label));
        }
        Ok(Box::new(FolderImages { files: self.files(split), labels }))
    }
}

#[derive(Debug)]
struct FolderImages {
    files: Vec<PathBuf>,
    labels: Vec<u32>,
}

impl Images for FolderImages {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        let path = &self.files[index];
        let mut encoded = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(LARGEST_FILE + 1).read_to_end(&mut encoded).map_err(Error::io(path))?;
        if encoded.len() as u64 > LARGEST_FILE {
            return Err(Error::invalid(path, "is larger than 256 MiB: replace it by a smaller copy"));
        }
        pixels::decode(&encoded, frame, side, planes).map_err(|message| Error::invalid(path, message))
    }
}
