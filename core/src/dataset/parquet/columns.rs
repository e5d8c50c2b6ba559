//! Chooses the image and label columns, and reads the names of the classes.

use ::parquet::basic::{ConvertedType, Type};
use ::parquet::file::metadata::FileMetaData;
use ::parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use super::super::DatasetOptions;

/// Indices of leaf columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) label: usize,
    label_name: String,
}

/// A column with a suitable type.
struct Candidate<'a> {
    name: &'a str,
    leaf: usize,
}

/// The requested columns, or else the unambiguous ones. The error lists the candidates.
pub(super) fn choose(metadata: &FileMetaData, options: &DatasetOptions) -> Result<Columns, String> {
    let leaves = || metadata.schema_descr().columns().iter().enumerate();
    let candidates = |fits: fn(&ColumnDescriptor) -> bool| -> Vec<Candidate<'_>> {
        let found = leaves().filter(|(_, column)| column.max_rep_level() == 0 && fits(column));
        found.map(|(leaf, column)| Candidate { name: &column.path().parts()[0], leaf }).collect()
    };
    let structs = candidates(is_image_struct);
    let binaries = candidates(is_binary);
    let integers = candidates(is_integer);
    let image = match &options.image_column {
        Some(wanted) => named(wanted, structs.iter().chain(&binaries), "image", "a struct with bytes, or binary"),
        None if structs.is_empty() => only(&binaries, &["image", "img"], "image", "a struct with bytes, or binary"),
        None => only(&structs, &["image", "img"], "image", "a struct with bytes"),
    }?;
    let label = match &options.label_column {
        Some(wanted) => named(wanted, integers.iter(), "label", "integer"),
        None => only(&integers, &["label", "fine_label"], "label", "integer"),
    }?;
    Ok(Columns { image: image.leaf, label: label.leaf, label_name: label.name.to_owned() })
}

fn named<'c, 'a>(
    wanted: &str,
    mut candidates: impl Iterator<Item = &'c Candidate<'a>> + Clone,
    what: &str,
    kind: &str,
) -> Result<&'c Candidate<'a>, String>
where
    'a: 'c,
{
    let known = listed(candidates.clone());
    let found = candidates.find(|candidate| candidate.name == wanted);
    found.ok_or_else(|| format!("has no {what} column {wanted:?} ({kind}); such columns are: {known}"))
}

/// The candidate with a usual name, or else the only one.
fn only<'c, 'a>(
    candidates: &'c [Candidate<'a>],
    usual: &[&str],
    what: &str,
    kind: &str,
) -> Result<&'c Candidate<'a>, String> {
    let by_name = usual.iter().find_map(|name| candidates.iter().find(|candidate| candidate.name == *name));
    match (by_name, candidates) {
        (Some(found), _) => Ok(found),
        (None, [one]) => Ok(one),
        (None, []) => Err(format!("has no {what} column ({kind})")),
        (None, several) => {
            let known = listed(several.iter());
            Err(format!("has several columns that could hold the {what}: {known}; set {what}_column to one of them"))
        }
    }
}

fn listed<'c, 'a: 'c>(candidates: impl Iterator<Item = &'c Candidate<'a>>) -> String {
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

fn is_integer(column: &ColumnDescriptor) -> bool {
    use ConvertedType::{INT_8, INT_16, INT_32, INT_64, NONE, UINT_8, UINT_16, UINT_32, UINT_64};
    // Dates and decimals are stored as integers too.
    let kinds = [NONE, INT_8, INT_16, INT_32, INT_64, UINT_8, UINT_16, UINT_32, UINT_64];
    matches!(column.physical_type(), Type::INT32 | Type::INT64)
        && column.path().parts().len() == 1
        && kinds.contains(&column.converted_type())
}

/// The class names of the label column, from the metadata that Hugging Face's writer adds to the file.
pub(super) fn class_names(metadata: &FileMetaData, columns: &Columns) -> Option<Vec<String>> {
    let entry = metadata.key_value_metadata()?.iter().find(|entry| entry.key == "huggingface")?;
    let document: Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
    let names = document.get("info")?.get("features")?.get(&columns.label_name)?.get("names")?.as_array()?;
    let names: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
    names.filter(|names| !names.is_empty())
}
