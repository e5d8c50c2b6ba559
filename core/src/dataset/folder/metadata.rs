//! `metadata.csv` and `metadata.jsonl`, as Hugging Face's image folders have them: the files of a split and their
//! labels.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path, PathBuf};

use super::super::links::Links;
use super::super::table::Table;
use super::super::{DatasetOptions, Error};
use super::{Class, SplitFiles, walk};

pub(super) const NAMES: [&str; 2] = ["metadata.csv", "metadata.jsonl"];
/// Usual names of the column with the labels.
const LABELS: [&str; 5] = ["label", "labels", "class", "target", "category"];

/// What a directory's table says.
pub(super) enum TableOfLabels {
    /// There is none.
    Missing,
    /// It says no labels, as one of captions beside directories of classes does: its path, and what it lacks.
    Unlabelled(PathBuf, String),
    Labels(SplitFiles),
}

/// Reads the table of a directory.
pub(super) fn read(directory: &Path, options: &DatasetOptions, links: &Links) -> Result<TableOfLabels, Error> {
    let Some(path) = NAMES.iter().map(|name| directory.join(name)).find(|path| path.is_file()) else {
        return Ok(TableOfLabels::Missing);
    };
    if path.is_symlink() {
        links.target(&path)?;
    }
    let table = Table::read(&path)?;
    let column = |name: &str| table.columns.iter().position(|column| column.eq_ignore_ascii_case(name));
    let unlabelled = |lack: &str| {
        let found = table.columns.join(", ");
        let is_csv = path.extension().is_some_and(|extension| extension == "csv");
        let separated = if is_csv { ", which commas separate," } else { "" };
        let message = format!("{lack}; its columns{separated} are: {found}");
        Ok(TableOfLabels::Unlabelled(path.clone(), message))
    };
    let Some(files) = column("file_name") else {
        return unlabelled("has no column file_name, which names the images");
    };
    let labels = match &options.label_column {
        Some(wanted) => Some(column(wanted).ok_or_else(|| {
            let message = format!("has no column {wanted:?}; its columns are: {}", table.columns.join(", "));
            Error::Column { path: path.clone(), message }
        })?),
        None => LABELS.iter().find_map(|name| column(name)),
    };
    let Some(labels) = labels else {
        return unlabelled("has no column label, and dataset.label_column names no other");
    };
    let mut classes: BTreeMap<LabelText, Vec<Box<str>>> = BTreeMap::new();
    let mut listed = HashSet::new();
    let mut parents = HashSet::new();
    let are_numbers = table.rows.iter().all(|row| whole_number(&row[labels]).is_some());
    for (number, row) in table.rows.iter().enumerate() {
        let file = &row[files];
        let invalid = |why: &str| Err(Error::invalid(&path, format!("names {file:?} in row {}, {why}", number + 1)));
        if row[labels].trim().is_empty() {
            return invalid("without a label");
        }
        if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) || file.is_empty() {
            return invalid("which is not a path below its directory");
        }
        if !is_file(directory, file, links, &mut parents)? {
            return invalid("but there is no such file");
        }
        if !listed.insert(file.as_str()) {
            return invalid("which an earlier row names too");
        }
        classes.entry(LabelText::new(&row[labels], are_numbers)).or_default().push(file.as_str().into());
    }
    let class = |(label, files): (LabelText, _)| Class { name: label.text, directory: directory.to_owned(), files };
    let mut split = SplitFiles { classes: classes.into_iter().map(class).collect(), ..SplitFiles::default() };
    let walked = walk::walk(directory, links)?;
    let unlisted = walked.images.iter().filter(|image| !listed.contains(&***image)).count();
    if unlisted > 0 {
        let name = path.file_name().unwrap_or_default().display();
        split.notes.push(format!("{unlisted} images that {name} does not name are passed over"));
    }
    Ok(TableOfLabels::Labels(split))
}

/// Whether there is such a file. Neither it nor a directory on the way is a link that is not followed.
fn is_file(directory: &Path, file: &str, links: &Links, parents: &mut HashSet<PathBuf>) -> Result<bool, Error> {
    let path = directory.join(file);
    if !path.is_file() {
        return Ok(false);
    }
    let parent = path.parent().unwrap_or(directory);
    if !parents.contains(parent) {
        links.target(parent)?;
        parents.insert(parent.to_owned());
    }
    if path.is_symlink() {
        links.target(&path)?;
    }
    Ok(true)
}

/// A label as text, in the order of its number if all labels are whole numbers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LabelText {
    number: Option<i64>,
    text: String,
}

impl LabelText {
    fn new(text: &str, is_number: bool) -> Self {
        match whole_number(text).filter(|_| is_number) {
            Some(number) => Self { number: Some(number), text: number.to_string() },
            None => Self { number: None, text: text.trim().to_owned() },
        }
    }
}

/// What is guessed about labels that are whole numbers, but not 0, 1, 2 and so on.
pub(super) fn numbering(names: &[String]) -> Option<String> {
    let numbers: Vec<i64> = names.iter().map(|name| name.parse::<i64>().ok()).collect::<Option<_>>()?;
    let (first, last) = (*numbers.first()?, *numbers.last()?);
    let follow = numbers.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
    if first == 0 && follow {
        return None;
    }
    let gaps = if follow { String::new() } else { format!(" with gaps, {} classes in this order", numbers.len()) };
    Some(format!("the labels are {first} to {last}{gaps}: label {first} is the networks' class 0"))
}

/// A whole number, which spreadsheets also write as `1.0`.
fn whole_number(text: &str) -> Option<i64> {
    let text = text.trim();
    let whole = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|byte| byte == b'0'));
    whole.map_or(text, |(whole, _)| whole).parse().ok()
}
