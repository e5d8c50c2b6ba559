//! `metadata.csv` and `metadata.jsonl`, as Hugging Face's image folders have them: the files of a split and their
//! labels.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use super::super::forms::{UnitedNames, composed, other_forms};
use super::super::links::Links;
use super::super::table::{Cell, Row, Table};
use super::super::{DatasetOptions, Error, splits};
use super::{Class, SplitFiles, walk};
use crate::text::{counted, quoted};

pub(super) const NAMES: [&str; 2] = ["metadata.csv", "metadata.jsonl"];
/// Usual names of the column with the labels.
const LABELS: [&str; 5] = ["label", "labels", "class", "target", "category"];
/// What programs write for a missing value, and what a class may be called all the same.
const MAY_BE_MISSING: [&str; 8] = ["#N/A", "<NA>", "N/A", "n/a", "NA", "NULL", "null", "None"];

/// What a directory's table says.
pub(super) enum TableOfLabels {
    /// There is none.
    Missing,
    /// It says no labels, as one of captions beside directories of classes does: its path, and what it lacks.
    Unlabelled(PathBuf, String),
    Labels(SplitFiles),
}

/// Which images a table names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableScope {
    /// Those of a split, in whose directory it lies.
    Split,
    /// All images. Their paths may begin with the directory of a split.
    Everything,
}

struct TableColumns {
    files: usize,
    labels: usize,
    /// One that says splits, which are not read from it.
    splits: Option<usize>,
}

/// Files by their labels.
type Labelled = BTreeMap<LabelText, Vec<Box<str>>>;

/// Reads the table of a directory.
pub(super) fn read(
    directory: &Path,
    scope: TableScope,
    options: &DatasetOptions,
    links: &Links,
) -> Result<TableOfLabels, Error> {
    let mut paths = NAMES.iter().map(|name| directory.join(name)).filter(|path| path.is_file());
    let Some(path) = paths.next() else { return Ok(TableOfLabels::Missing) };
    let second = paths.next().map(|path| shown(&path, scope));
    if path.is_symlink() {
        links.target(&path)?;
    }
    let table = Table::read(&path)?;
    let columns = match columns(&table, &path, options)? {
        Ok(columns) => columns,
        Err(mut lack) => {
            if let Some(second) = second {
                lack.push_str(&format!("; {second} beside it is passed over too"));
            }
            return Ok(TableOfLabels::Unlabelled(path, lack));
        }
    };
    let name = shown(&path, scope);
    let labels: Vec<&str> = table.rows.iter().map(|row| row.cells[columns.labels].text()).collect();
    let are_numbers = labels.iter().all(|label| whole_number(label).is_some());
    let (classes, renamed) = classes(&table, &path, &columns, are_numbers, links)?;
    let (classes, united) = unite_forms(classes);
    let mut notes: Vec<String> =
        second.map(|second| format!("{second} is passed over: {name} beside it is read")).into_iter().collect();
    notes.extend(united.note(&name));
    notes.extend(renamed.note(&name));
    notes.extend(contradictions(&classes, scope, are_numbers, &name));
    if are_numbers {
        notes.extend(spellings(&labels, &name));
    }
    notes.extend(doubtful(&classes, &name));
    notes.extend(columns.splits.and_then(|column| unread_splits(&table, &columns, column, (directory, scope), &name)));
    let listed: HashSet<&str> = classes.values().flatten().map(|file| &**file).collect();
    let unlisted = walk::walk(directory, links)?.images.iter().filter(|image| !listed.contains(&***image)).count();
    if unlisted > 0 {
        let are = if unlisted == 1 { "is" } else { "are" };
        let images = counted(unlisted as u64, "image", "images");
        notes.push(format!("{images} that {name} does not name {are} passed over"));
    }
    let class = |(label, files): (LabelText, _)| Class { name: label.text, directory: directory.to_owned(), files };
    let classes = classes.into_iter().map(class).collect();
    Ok(TableOfLabels::Labels(SplitFiles { classes, notes, ..SplitFiles::default() }))
}

/// A table's name, with the directory of its split.
fn shown(path: &Path, scope: TableScope) -> String {
    let name = |path: Option<&Path>| path.and_then(Path::file_name).unwrap_or_default().display().to_string();
    match scope {
        TableScope::Split => format!("{}/{}", name(path.parent()), name(Some(path))),
        TableScope::Everything => name(Some(path)),
    }
}

/// The columns of a table, or what it lacks.
fn columns(table: &Table, path: &Path, options: &DatasetOptions) -> Result<Result<TableColumns, String>, Error> {
    let column = |name: &str| table.column(name).map_err(|message| Error::invalid(path, message));
    if table.is_empty() {
        return Ok(Err("is empty; write the columns file_name and label, and a row for each image".to_owned()));
    }
    let found = if table.columns.is_empty() { "none".to_owned() } else { table.columns.join(", ") };
    let is_csv = path.extension().is_some_and(|extension| extension == "csv");
    let separated = if is_csv { ", which commas separate," } else { "" };
    let unlabelled = |lack: &str| Ok(Err(format!("{lack}; its columns{separated} are: {found}")));
    let Some(files) = column("file_name")? else {
        return unlabelled("has no column file_name, which names the images");
    };
    let labels = match &options.label_column {
        Some(wanted) => Some(column(wanted)?.ok_or_else(|| {
            let message = format!("has no column {wanted}; its columns are: {found}", wanted = quoted(wanted));
            Error::Column { path: path.to_owned(), message }
        })?),
        None => LABELS.iter().find_map(|name| column(name).transpose()).transpose()?,
    };
    let Some(labels) = labels else {
        return unlabelled("has no column label, and dataset.label_column names no other");
    };
    if table.rows.is_empty() {
        return Ok(Err("has no rows below its columns; write one for each image".to_owned()));
    }
    let splits = table.columns.iter().position(|column| column.eq_ignore_ascii_case("split"));
    Ok(Ok(TableColumns { files, labels, splits: splits.filter(|column| *column != labels) }))
}

/// Files that a table names in another Unicode normal form than the disk.
#[derive(Default)]
struct RenamedFiles {
    files: u64,
    first: Option<String>,
}

impl RenamedFiles {
    fn note(&self, table: &str) -> Option<String> {
        let (files, first) = (counted(self.files, "file", "files"), self.first.as_ref()?);
        Some(format!(
            "{table} names {files} in another Unicode normal form than the disk, such as {first}: they are the same",
            first = quoted(first)
        ))
    }
}

/// The files of each class, as the disk has them.
fn classes(
    table: &Table,
    path: &Path,
    columns: &TableColumns,
    are_numbers: bool,
    links: &Links,
) -> Result<(Labelled, RenamedFiles), Error> {
    let mut renamed = RenamedFiles::default();
    let directory = path.parent().unwrap_or(path);
    let mut classes = Labelled::new();
    let mut listed = HashSet::new();
    let mut parents = HashSet::new();
    for row in &table.rows {
        let file = row.cells[columns.files].text();
        let invalid =
            |why: &str| Error::invalid(path, format!("names {file} in line {}, {why}", row.line, file = quoted(file)));
        let label = label(&row.cells[columns.labels]).map_err(|why| invalid(&why))?;
        if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) || file.is_empty() {
            return Err(invalid("which is not a path below its directory"));
        }
        let Some(found) = existing(directory, file, links, &mut parents)? else {
            return Err(invalid("but there is no such file"));
        };
        if found != file {
            renamed.files += 1;
            renamed.first.get_or_insert_with(|| file.to_owned());
        }
        if !listed.insert(found.clone()) {
            return Err(invalid("which an earlier row names too"));
        }
        classes.entry(LabelText::new(label, are_numbers)).or_default().push(found.into());
    }
    Ok((classes, renamed))
}

/// Unites labels that differ in their Unicode normal form alone.
fn unite_forms(classes: Labelled) -> (Labelled, UnitedNames) {
    let (mut kept, mut united) = (Labelled::new(), UnitedNames::default());
    let mut labels: HashMap<String, LabelText> = HashMap::new();
    for (label, files) in classes {
        let first = labels.entry(composed(&label.text).into_owned()).or_insert_with(|| label.clone());
        if *first != label {
            united.add(&label.text);
        }
        kept.entry(first.clone()).or_default().extend(files);
    }
    (kept, united)
}

/// The label in a cell, or why there is none.
fn label(cell: &Cell) -> Result<&str, String> {
    let text = match cell {
        Cell::Text(text) => text.trim(),
        Cell::Other(kind) => return Err(format!("whose label is {kind}: labels are integers or text")),
    };
    match text {
        "" => Err("without a label: add it, or remove the row".to_owned()),
        "NaN" | "nan" => Err(format!(
            "whose label is {text}, which stands for a missing one, as pandas writes it: add the label, or remove the \
             row"
        )),
        _ => Ok(text),
    }
}

/// What is passed over if the images lie in directories of classes, but have other labels.
fn contradictions(classes: &Labelled, scope: TableScope, are_numbers: bool, table: &str) -> Option<String> {
    let mut directories = BTreeSet::new();
    let (mut inside, mut different) = (0_u64, 0_u64);
    let mut example = None;
    for (label, files) in classes {
        for file in files {
            let Some((directory, _)) = file.split_once('/') else { continue };
            if scope == TableScope::Everything && splits::is_usual(directory) {
                continue;
            }
            directories.insert(directory);
            inside += 1;
            if composed(&LabelText::new(directory, are_numbers).text) != composed(&label.text) {
                different += 1;
                example.get_or_insert((file, &label.text));
            }
        }
    }
    let is_class = |directory: &&str| classes.contains_key(&LabelText::new(directory, are_numbers));
    // A single directory of another name holds all images, and is no class.
    let (file, label) = example.filter(|_| directories.len() > 1 || directories.iter().any(is_class))?;
    Some(format!(
        "{different} of {inside} images lie in a directory that is not called as their label, such as {file} with \
         the label {label}: {table} decides, and not the directories",
        file = quoted(file),
        label = quoted(label)
    ))
}

/// What is guessed about numbers that are written in several ways.
fn spellings(labels: &[&str], table: &str) -> Option<String> {
    let mut spellings: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for label in labels {
        spellings.entry(whole_number(label)?).or_default().insert(label.trim());
    }
    spellings.retain(|_, texts| texts.len() > 1);
    let (number, texts) = spellings.first_key_value()?;
    let example: Vec<String> = texts.iter().take(2).map(|text| quoted(text)).collect();
    let (different, classes): (usize, usize) = (spellings.values().map(BTreeSet::len).sum(), spellings.len());
    Some(format!(
        "{different} different labels of {table} are taken for {}, such as {} for {number}: each number is one class",
        counted(classes as u64, "number", "numbers"),
        example.join(" and ")
    ))
}

/// What is guessed about words that may stand for missing labels.
fn doubtful(classes: &Labelled, table: &str) -> Vec<String> {
    let words = classes.iter().filter(|(label, _)| MAY_BE_MISSING.contains(&label.text.as_str()));
    let note = |(label, files): (&LabelText, &Vec<_>)| {
        let (images, word) = (counted(files.len() as u64, "image has", "images have"), &label.text);
        format!(
            "{images} the label {word} in {table}, which is taken for a class: if it is missing, remove such rows",
            word = quoted(word)
        )
    };
    words.map(note).collect()
}

/// What is passed over in a column of splits that the directories contradict.
fn unread_splits(
    table: &Table,
    columns: &TableColumns,
    column: usize,
    (directory, scope): (&Path, TableScope),
    name: &str,
) -> Option<String> {
    let of_table = directory.file_name().and_then(|name| name.to_str()).filter(|_| scope == TableScope::Split);
    let is_different = |row: &&Row| {
        let of_path = split(row.cells[columns.files].text()).unwrap_or(splits::TRAIN[0]);
        !row.cells[column].text().trim().eq_ignore_ascii_case(of_table.unwrap_or(of_path))
    };
    let different = table.rows.iter().filter(is_different).count();
    (different > 0).then(|| {
        let column = &table.columns[column];
        format!(
            "the column {column} of {name} is passed over, which says another split of {different} images: splits \
             are directories, such as train/ and test/, and images in none of them are in the train split",
            column = quoted(column)
        )
    })
}

/// The directory that a path begins with, if splits are usually called so.
pub(super) fn split(path: &str) -> Option<&str> {
    path.split_once('/').map(|(first, _)| first).filter(|first| splits::is_usual(first))
}

/// The file of that name, or of another Unicode normal form of it. Neither it nor a directory on the way is a link that
/// is not followed.
fn existing(
    directory: &Path,
    file: &str,
    links: &Links,
    parents: &mut HashSet<PathBuf>,
) -> Result<Option<String>, Error> {
    let is_there = |name: &String| directory.join(name).is_file();
    let Some(file) = std::iter::once(file.to_owned()).chain(other_forms(file)).find(is_there) else { return Ok(None) };
    let path = directory.join(&file);
    let parent = path.parent().unwrap_or(directory);
    if !parents.contains(parent) {
        links.target(parent)?;
        parents.insert(parent.to_owned());
    }
    if path.is_symlink() {
        links.target(&path)?;
    }
    Ok(Some(file))
}

/// A label as text, in the order of its number if all labels are whole numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
