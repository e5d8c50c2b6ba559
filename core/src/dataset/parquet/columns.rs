//! Chooses the image and label columns, and reads the names of the classes.

use ::parquet::basic::{ConvertedType, LogicalType, Type};
use ::parquet::file::metadata::FileMetaData;
use ::parquet::schema::types::ColumnDescriptor;
use serde_json::{Map, Value};

use super::super::DatasetOptions;
use crate::text::quoted;

/// Usual names of the label column, the most usual first.
const USUAL_LABELS: [&str; 6] = ["label", "fine_label", "labels", "class", "target", "category"];
/// Usual names of the image column.
const USUAL_IMAGES: [&str; 4] = ["image", "img", "images", "pixel_values"];
/// Names of numbers that say something else about an image.
const BOOKKEEPING: [&str; 12] = [
    "id",
    "idx",
    "index",
    "image_id",
    "img_id",
    "fold",
    "split",
    "width",
    "height",
    "row",
    "seed",
    "__index_level_0__",
];

/// Indices of leaf columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeafColumns {
    pub(super) image: usize,
    pub(super) label: usize,
    pub(super) label_kind: LabelKind,
    pub(super) label_name: String,
    /// Whether the label column is only the one that is left, rather than one that is requested or usual.
    pub(super) is_guess: bool,
}

/// What a label column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelKind {
    Integer,
    /// Whole numbers, as pandas stores integers among which one is missing.
    Float,
    Text,
}

/// A column with a suitable type.
struct Candidate<'a, T> {
    name: &'a str,
    leaf: usize,
    kind: T,
}

/// The requested columns, or else the unambiguous ones. The error lists the candidates.
pub(super) fn choose(metadata: &FileMetaData, options: &DatasetOptions) -> Result<LeafColumns, String> {
    let image = image(metadata, options.image_column.as_deref())?;
    let (label, is_guess) = label(metadata, options.label_column.as_deref())?;
    let Candidate { name, leaf, kind } = label;
    Ok(LeafColumns { image, label: leaf, label_kind: kind, label_name: name.to_owned(), is_guess })
}

fn candidates<T>(metadata: &FileMetaData, fits: fn(&ColumnDescriptor) -> Option<T>) -> Vec<Candidate<'_, T>> {
    let leaves = metadata.schema_descr().columns().iter().enumerate();
    let single = leaves.filter(|(_, column)| column.max_rep_level() == 0);
    single
        .filter_map(|(leaf, column)| Some(Candidate { name: &column.path().parts()[0], leaf, kind: fits(column)? }))
        .collect()
}

fn image(metadata: &FileMetaData, wanted: Option<&str>) -> Result<usize, String> {
    let structs = candidates(metadata, |column| is_image_struct(column).then_some(()));
    let binaries = candidates(metadata, |column| is_binary(column).then_some(()));
    if let Some(wanted) = wanted {
        let all = || structs.iter().chain(&binaries);
        let found = all().find(|candidate| candidate.name == wanted);
        let kind = "a struct with bytes, or binary";
        return found.map(|found| found.leaf).ok_or_else(|| refusal(metadata, wanted, "image", kind, listed(all())));
    }
    let (known, kind) = if structs.is_empty() {
        (&binaries, "a struct with bytes, or binary")
    } else {
        (&structs, "a struct with bytes")
    };
    let usual = USUAL_IMAGES.iter().find_map(|name| known.iter().find(|candidate| candidate.name == *name));
    match (usual, known.as_slice()) {
        (Some(found), _) | (None, [found]) => Ok(found.leaf),
        (None, []) => Err(format!("has no image column ({kind})")),
        (None, several) => Err(ambiguous("image", &listed(several.iter()))),
    }
}

/// The label column, and whether it is a guess.
fn label<'a>(metadata: &'a FileMetaData, wanted: Option<&str>) -> Result<(Candidate<'a, LabelKind>, bool), String> {
    let mut known = candidates(metadata, label_kind);
    let names = listed(known.iter());
    if let Some(wanted) = wanted {
        let found = known.iter().position(|candidate| candidate.name == wanted);
        let found = found.ok_or_else(|| refusal(metadata, wanted, "label", "integer or text", names))?;
        return Ok((known.swap_remove(found), false));
    }
    let declared = features(metadata).into_iter().flatten().filter(|(_, feature)| is_class_label(feature));
    let declared: Vec<String> = declared.map(|(name, _)| name).collect();
    for usual in USUAL_LABELS {
        let is_usual = |name: &str| name.eq_ignore_ascii_case(usual);
        if let Some(found) = known.iter().position(|candidate| is_usual(candidate.name)) {
            return Ok((known.swap_remove(found), false));
        }
        // Whatever else is there is not what its author calls the label.
        if let Some(column) = roots(metadata).find(|column| is_usual(root(column)))
            && declared.is_empty()
        {
            let (name, kind) = (root(column), describe(column));
            return Err(format!(
                "has the column {name}, which holds {kind}, where labels are integers or text: convert it, or set \
                 label_column to one of: {names}",
                name = quoted(name)
            ));
        }
    }
    if let [only] = declared.as_slice()
        && let Some(found) = known.iter().position(|candidate| candidate.name == only)
    {
        return Ok((known.swap_remove(found), false));
    }
    match known.as_slice() {
        [] => Err("has no label column (integer or text)".to_owned()),
        [only] if only.kind == LabelKind::Integer && !is_bookkeeping(only.name) => Ok((known.swap_remove(0), true)),
        [only] => Err(format!(
            "has no column that is called label or so: if {} holds the labels, set label_column to it",
            quoted(only.name)
        )),
        _ => Err(ambiguous("label", &names)),
    }
}

fn is_bookkeeping(name: &str) -> bool {
    BOOKKEEPING.iter().any(|other| name.eq_ignore_ascii_case(other))
}

fn ambiguous(what: &str, names: &str) -> String {
    format!("has several columns that could hold the {what}: {names}; set {what}_column to one of them")
}

/// Why a requested column cannot be used.
fn refusal(metadata: &FileMetaData, wanted: &str, what: &str, kind: &str, known: String) -> String {
    match roots(metadata).find(|column| root(column) == wanted) {
        Some(column) => format!(
            "has the column {wanted}, but it holds {}, not the {what} ({kind}); such columns are: {known}",
            describe(column),
            wanted = quoted(wanted)
        ),
        None => format!("has no {what} column {wanted} ({kind}); such columns are: {known}", wanted = quoted(wanted)),
    }
}

fn roots(metadata: &FileMetaData) -> impl Iterator<Item = &ColumnDescriptor> {
    metadata.schema_descr().columns().iter().map(|column| &**column)
}

fn root(column: &ColumnDescriptor) -> &str {
    &column.path().parts()[0]
}

fn listed<'c, 'a: 'c, T: 'c>(candidates: impl Iterator<Item = &'c Candidate<'a, T>>) -> String {
    let names: Vec<_> = candidates.map(|candidate| candidate.name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn is_image_struct(column: &ColumnDescriptor) -> bool {
    let parts = column.path().parts();
    column.physical_type() == Type::BYTE_ARRAY && parts.len() == 2 && parts[1] == "bytes"
}

fn is_binary(column: &ColumnDescriptor) -> bool {
    let is_plain = column.converted_type() == ConvertedType::NONE && column.logical_type_ref().is_none();
    column.physical_type() == Type::BYTE_ARRAY && column.path().parts().len() == 1 && is_plain
}

fn label_kind(column: &ColumnDescriptor) -> Option<LabelKind> {
    use ConvertedType::{INT_8, INT_16, INT_32, INT_64, NONE, UINT_8, UINT_16, UINT_32, UINT_64};
    // Dates and decimals are stored as integers too.
    let integers = [NONE, INT_8, INT_16, INT_32, INT_64, UINT_8, UINT_16, UINT_32, UINT_64];
    if column.path().parts().len() != 1 {
        return None;
    }
    match column.physical_type() {
        Type::INT32 | Type::INT64 => integers.contains(&column.converted_type()).then_some(LabelKind::Integer),
        Type::FLOAT | Type::DOUBLE => Some(LabelKind::Float),
        Type::BYTE_ARRAY => is_text(column).then_some(LabelKind::Text),
        Type::BOOLEAN | Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => None,
    }
}

fn is_text(column: &ColumnDescriptor) -> bool {
    let logical = matches!(column.logical_type_ref(), Some(LogicalType::String | LogicalType::Enum));
    logical || matches!(column.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM)
}

/// What a column holds, for a message.
fn describe(column: &ColumnDescriptor) -> &'static str {
    if column.max_rep_level() > 0 {
        return "lists";
    }
    if column.path().parts().len() > 1 {
        return "structs";
    }
    match (label_kind(column), column.physical_type()) {
        (Some(LabelKind::Integer), _) => "integers",
        (Some(LabelKind::Float), _) => "floating-point numbers",
        (Some(LabelKind::Text), _) => "text",
        (None, Type::BOOLEAN) => "true and false",
        (None, Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY) => "bytes",
        (None, _) => "dates or decimal numbers",
    }
}

/// The features by column, from the metadata that Hugging Face's writer adds to the file.
fn features(metadata: &FileMetaData) -> Option<Map<String, Value>> {
    let entry = metadata.key_value_metadata()?.iter().find(|entry| entry.key == "huggingface")?;
    let mut document: Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
    match document.get_mut("info")?.get_mut("features")?.take() {
        Value::Object(features) => Some(features),
        _ => None,
    }
}

fn is_class_label(feature: &Value) -> bool {
    feature.get("names").is_some_and(Value::is_array)
}

/// The class names of the label column.
pub(super) fn class_names(metadata: &FileMetaData, columns: &LeafColumns) -> Option<Vec<String>> {
    let features = features(metadata)?;
    let names = features.get(&columns.label_name)?.get("names")?.as_array()?;
    let names: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
    names.filter(|names| !names.is_empty())
}
