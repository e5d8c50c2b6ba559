//! Image folders: `<split>/<class>/*.png` and so on, with classes and files sorted by name; the same without splits; or
//! files with a table that says their labels.

mod class;
mod images;
mod metadata;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use class::Class;
use images::FolderImages;
use metadata::{TableOfLabels, TableScope};
pub(super) use walk::is_image;

use super::forms::{ClassIndex, composed};
use super::links::{self, DirectoryEntry, Links, count_by_extension};
use super::{
    ChoosableColumns, Classes, DatasetFormat, DatasetOptions, Error, FormatReader, Images, NAME_RULE, UNLABELLED,
    is_name, splits,
};
use crate::text::{counted, quoted};

#[derive(Debug, Default)]
struct SplitFiles {
    classes: Vec<Class>,
    /// Whether images lie beside the directories of classes.
    has_loose: bool,
    /// Files that are no images.
    passed_over: Vec<String>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Folder {
    splits: BTreeMap<String, SplitFiles>,
    /// Directories beside the splits, whose images are in no class.
    unlabelled: BTreeMap<String, Class>,
    has_table: bool,
    notes: Vec<String>,
}

/// Whether this layout may read a file of that name.
pub(super) fn may_read(name: &str) -> bool {
    is_image(name) || metadata::NAMES.contains(&name)
}

/// Recognises directories of splits, with a directory per class or a table of labels in each; or one such directory
/// alone.
pub(super) fn detect(
    root: &Path,
    options: &DatasetOptions,
    links: &Links,
) -> Result<Option<Box<dyn FormatReader>>, Error> {
    let entries = links::entries(root)?;
    let directories = links.directories(&entries)?;
    let mut folder =
        Folder { splits: BTreeMap::new(), unlabelled: BTreeMap::new(), has_table: false, notes: Vec::new() };
    let mut without_classes: Vec<&DirectoryEntry> = Vec::new();
    if directories.iter().any(|directory| splits::is_usual(&directory.name)) {
        for &directory in &directories {
            let split = match metadata::read(&directory.path, TableScope::Split, options, links)? {
                TableOfLabels::Labels(split) => {
                    folder.has_table = true;
                    split
                }
                TableOfLabels::Unlabelled(path, lack) => {
                    let mut split = SplitFiles::of_directories(&directory.path, links)?;
                    if split.classes.is_empty() && splits::is_usual(&directory.name) {
                        return Err(Error::Column { path, message: lack });
                    }
                    split.notes.push(passed_over(&path, &lack));
                    split
                }
                TableOfLabels::Missing => SplitFiles::of_directories(&directory.path, links)?,
            };
            if split.classes.is_empty() {
                without_classes.push(directory);
                continue;
            }
            if is_name(&directory.name) {
                folder.splits.insert(directory.name.clone(), split);
            } else {
                let name = quoted(&directory.name);
                folder.notes.push(format!("the directory {name} is passed over: the name of a split {NAME_RULE}"));
            }
        }
    }
    if folder.splits.is_empty() {
        if !folder.read_as_one(root, &entries, (options, links))? {
            return Ok(None);
        }
    } else {
        without_classes
            .extend(directories.iter().copied().filter(|directory| folder.has_other_classes(&directory.name)));
        for directory in without_classes {
            folder.splits.remove(&directory.name);
            folder.note_unlabelled(&directory.name, &directory.path, links);
        }
        for name in metadata::NAMES.iter().filter(|name| root.join(name).is_file()) {
            folder.notes.push(format!(
                "{name} is passed over: the directories of splits beside it say the labels. The table of a split lies \
                 in its directory"
            ));
        }
    }
    Ok(Some(Box::new(folder)))
}

impl Folder {
    /// Whether a directory with an unusual name holds images beside directories that no other split has as classes.
    fn has_other_classes(&self, name: &str) -> bool {
        let Some(split) = self.splits.get(name).filter(|split| split.has_loose && !splits::is_usual(name)) else {
            return false;
        };
        let others = self.splits.iter().filter(|(other, _)| *other != name);
        let mut known = others.flat_map(|(_, other)| &other.classes).peekable();
        let own: HashSet<_> = split.classes.iter().map(|class| composed(&class.name)).collect();
        known.peek().is_some() && !known.any(|known| own.contains(&composed(&known.name)))
    }

    /// Notes a directory of images that is beside the splits and has no directories of classes. That it cannot be read
    /// is not a fault, because few jobs use it.
    fn note_unlabelled(&mut self, name: &str, directory: &Path, links: &Links) {
        let Ok(walk::Walked { images: files, .. }) = walk::walk(directory, links) else {
            self.notes
                .push(format!("the directory {name} is passed over: its images cannot be listed", name = quoted(name)));
            return;
        };
        if files.is_empty() || !is_name(name) {
            return;
        }
        let are = if files.len() == 1 { "is" } else { "are" };
        self.notes.push(format!(
            "the {} in {name} {are} in no class: a job can distil from them with dataset.unlabelled_split",
            counted(files.len() as u64, "image", "images")
        ));
        let class = Class { name: String::new(), directory: directory.to_owned(), files };
        self.unlabelled.insert(name.to_owned(), class);
    }

    /// The classes of a split. The images of a split without labels stand for one class.
    fn classes_of(&self, split: &str) -> &[Class] {
        let labelled = self.splits.get(split).map(|split| split.classes.as_slice());
        labelled.or(self.unlabelled.get(split).map(std::slice::from_ref)).unwrap_or_default()
    }

    /// Reads a directory that has no directories of splits: one with a table of all of them, or with a directory per
    /// class. False if it is neither.
    fn read_as_one(
        &mut self,
        root: &Path,
        entries: &[DirectoryEntry],
        (options, links): (&DatasetOptions, &Links),
    ) -> Result<bool, Error> {
        let mut is_whole = true;
        let table = metadata::read(root, TableScope::Everything, options, links)?;
        if let TableOfLabels::Labels(table) = table {
            self.has_table = true;
            let (splits, elsewhere) = table.by_first_directory();
            if elsewhere > 0 && splits.len() > 1 {
                let are = if elsewhere == 1 { "is" } else { "are" };
                let images = counted(elsewhere, "image", "images");
                self.notes.push(format!("{images} in no directory of a split {are} in the train split"));
            }
            (self.splits, is_whole) = (splits, elsewhere > 0);
        } else {
            let holding = holding_images(&links.directories(entries)?)?;
            let has_images = !holding.is_empty() || entries.iter().any(|entry| is_image(&entry.name));
            let are_classes = holding.len() >= 2 && !holding.iter().all(|name| splits::is_usual(name));
            match table {
                TableOfLabels::Unlabelled(path, lack) if are_classes => self.notes.push(passed_over(&path, &lack)),
                TableOfLabels::Unlabelled(path, message) if has_images => return Err(Error::Column { path, message }),
                _ if are_classes => {}
                _ if holding.len() < 2 => return Ok(false),
                _ => {
                    let names = holding.join(" and ");
                    let message = format!(
                        "{names} hold images directly, so that nothing tells their classes: put them in a directory \
                         per class, or name them in a metadata.csv with the columns file_name and label"
                    );
                    return Err(Error::invalid(root, message));
                }
            }
            self.splits.insert(splits::TRAIN[0].to_owned(), SplitFiles::of_directories(root, links)?);
        }
        if is_whole && self.splits.len() == 1 {
            self.notes.push("the directory has no splits: all of its images are in the train split".to_owned());
        }
        Ok(true)
    }
}

/// What a data set's notes say of a table without labels.
fn passed_over(path: &Path, lack: &str) -> String {
    format!("{} is passed over: it {lack}", path.file_name().unwrap_or_default().display())
}

/// Names of directories that hold images themselves: of all if they are called as splits are, or else of enough to see
/// that they are classes. One directory of images is no set of classes.
fn holding_images(directories: &[&DirectoryEntry]) -> Result<Vec<String>, Error> {
    let mut found: Vec<String> = Vec::new();
    for directory in directories {
        let entries = links::entries(&directory.path)?;
        if entries.iter().any(|entry| is_image(&entry.name) && entry.path.is_file()) {
            found.push(directory.name.clone());
        }
        if found.len() >= 2 && !found.iter().all(|name| splits::is_usual(name)) {
            break;
        }
    }
    Ok(found)
}

impl SplitFiles {
    /// A directory per class.
    fn of_directories(directory: &Path, links: &Links) -> Result<Self, Error> {
        let mut split = Self::default();
        let entries = links::entries(directory)?;
        let loose = entries.iter().filter(|entry| is_image(&entry.name)).count();
        split.has_loose = loose > 0;
        if split.has_loose {
            let name = directory.file_name().unwrap_or_default().display();
            split.notes.push(match loose {
                1 => format!("1 image directly in {name} is passed over: it is in no class"),
                _ => format!("{loose} images directly in {name} are passed over: they are in no class"),
            });
        }
        for class in links.directories(&entries)? {
            let walk::Walked { images, others, notes } = walk::walk(&class.path, links)?;
            split.passed_over.extend(others);
            split.notes.extend(notes);
            split.classes.push(Class { name: class.name.clone(), directory: class.path.clone(), files: images });
        }
        let (classes, united) = class::unite(split.classes, directory);
        split.classes = classes;
        split.notes.extend(united.note(&directory.file_name().unwrap_or_default().to_string_lossy()));
        Ok(split)
    }

    /// Takes apart a table of several splits, whose names the paths begin with. Other paths are in the train split, and
    /// counted.
    fn by_first_directory(self) -> (BTreeMap<String, Self>, u64) {
        let Self { classes, passed_over, notes, .. } = self;
        let mut splits: BTreeMap<String, Self> = BTreeMap::new();
        let mut elsewhere = 0;
        for Class { name, directory, files } in classes {
            for file in files {
                let split = metadata::split(&file);
                elsewhere += u64::from(split.is_none());
                let split = splits.entry(split.unwrap_or(splits::TRAIN[0]).to_owned()).or_default();
                match split.classes.last_mut().filter(|class| class.name == name) {
                    Some(class) => class.files.push(file),
                    None => {
                        let (name, directory) = (name.clone(), directory.clone());
                        split.classes.push(Class { name, directory, files: vec![file] });
                    }
                }
            }
        }
        if let Some(first) = splits.values_mut().next() {
            (first.passed_over, first.notes) = (passed_over, notes);
        }
        (splits, elsewhere)
    }
}

impl FormatReader for Folder {
    fn format(&self) -> DatasetFormat {
        DatasetFormat::Folder
    }

    fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    fn images(&self, split: &str) -> Result<u64, Error> {
        Ok(self.classes_of(split).iter().map(|class| class.files.len() as u64).sum())
    }

    fn classes(&self) -> Result<Classes, Error> {
        let classes = &self.splits[splits::deciding(&self.splits)].classes;
        if let Some(empty) = classes.iter().find(|class| class.files.is_empty()) {
            let message = format!("contains no image ({}): add images or remove the class", walk::ENDINGS);
            return Err(Error::invalid(&empty.directory, message));
        }
        let names: Vec<_> = classes.iter().map(|class| class.name.clone()).collect();
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        Ok(Classes { count, names: Some(names), first_label: 0 })
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        let paths = |class: &Class| class.files.iter().map(|file| class.directory.join(&**file)).collect::<Vec<_>>();
        self.classes_of(split).iter().flat_map(paths).collect()
    }

    fn unlabelled_splits(&self) -> Vec<String> {
        self.unlabelled.keys().cloned().collect()
    }

    fn open_unlabelled(&self, split: &str) -> Option<Box<dyn Images>> {
        let class = self.unlabelled.get(split)?;
        Some(Box::new(FolderImages { files: self.files(split), labels: vec![UNLABELLED; class.files.len()] }))
    }

    fn labels(&self, split: &str, classes: &Classes) -> Result<Vec<u32>, Error> {
        let known = ClassIndex::new(classes.names.as_deref().unwrap_or_default());
        let mut labels = Vec::new();
        for Class { name, directory, files } in
            self.splits[split].classes.iter().filter(|class| !class.files.is_empty())
        {
            let Some(label) = known.find(name) else {
                let decides = splits::deciding(&self.splits);
                let message = format!(
                    "has the class {name}, which the {decides} split does not have: rename or remove it",
                    name = quoted(name)
                );
                return Err(Error::invalid(directory, message));
            };
            labels.extend(files.iter().map(|_| label));
        }
        Ok(labels)
    }

    fn open(&self, split: &str, labels: Vec<u32>) -> Result<Box<dyn Images>, Error> {
        Ok(Box::new(FolderImages { files: self.files(split), labels }))
    }

    fn choosable_columns(&self) -> ChoosableColumns {
        ChoosableColumns { image: false, label: self.has_table }
    }

    fn notes(&self, classes: &Classes) -> Vec<String> {
        let mut notes = self.notes.clone();
        if self.has_table {
            notes.extend(metadata::numbering(classes.names.as_deref().unwrap_or_default()));
        }
        let known = ClassIndex::new(classes.names.as_deref().unwrap_or_default());
        let decides = splits::deciding(&self.splits);
        for (name, split) in &self.splits {
            notes.extend(known.note(name, split.classes.iter().map(|class| class.name.as_str()), decides));
            if !split.passed_over.is_empty() {
                let files = count_by_extension(split.passed_over.iter().map(String::as_str));
                notes.push(format!("{files} of the {name} split are passed over: only {} are read", walk::ENDINGS));
            }
            notes.extend(split.notes.iter().cloned());
        }
        notes
    }
}
