//! The data set of a document as far as it can be read.

use super::reader::ObjectReader;
use super::requested::DatasetLocation;
use super::{DatasetSpec, EvalCrop};

/// `native` is the side in pixels for which the networks were made. Returns whether the document has another, too.
pub(super) fn dataset(reader: ObjectReader<'_>, native: Option<u32>) -> (DatasetSpec<DatasetLocation>, bool) {
    let path = if reader.knows("path") { reader.optional("path") } else { None };
    let (mean, std) = normalisation(&reader);
    let limit = reader.optional("limit");
    check_selection(&reader, limit);
    let (folds, fold) = folds(&reader);
    let given: Option<u32> = reader.optional("image_size");
    let image_size = given.or(native).unwrap_or(32);
    let (eval_crop, eval_resize) = eval_framing(&reader, image_size);
    let dataset = DatasetSpec {
        location: DatasetLocation { name: reader.optional("name"), path },
        train_split: reader.optional("train_split"),
        eval_split: reader.optional("eval_split"),
        eval_fraction: reader.optional("eval_fraction"),
        image_column: reader.optional("image_column"),
        label_column: reader.optional("label_column"),
        image_size,
        mean,
        std,
        eval_crop,
        eval_resize,
        limit,
        limit_per_class: reader.optional("limit_per_class"),
        folds,
        fold,
        split_seed: reader.optional("split_seed"),
        unlabelled_split: reader.optional("unlabelled_split"),
    };
    reader.finish();
    (dataset, given.is_some())
}

/// There is one way to choose the images to evaluate on, one limit, and something to train on.
fn check_selection(reader: &ObjectReader<'_>, limit: Option<u64>) {
    let ways = ["eval_split", "eval_fraction", "folds"].into_iter().filter(|name| reader.is_given(name));
    if let [first, second, ..] = ways.collect::<Vec<_>>().as_slice() {
        reader.fault(second, format!("give either {first} or {second}, not both"));
    }
    if reader.is_given("limit") && reader.is_given("limit_per_class") {
        reader.fault("limit_per_class", "give either limit or limit_per_class, not both");
    }
    if limit == Some(0) && !reader.is_given("unlabelled_split") {
        let detail = "leaves no image to train on: give at least 1, or an unlabelled_split to distil from alone";
        reader.fault("limit", detail);
    }
    if reader.is_given("split_seed") && !reader.is_given("eval_fraction") && !reader.is_given("folds") {
        reader.fault("split_seed", "draws what eval_fraction or folds hold out: give one of them, or leave this out");
    }
}

/// The number of folds, and which of them, from 1.
fn folds(reader: &ObjectReader<'_>) -> (Option<u32>, Option<u32>) {
    let (folds, fold): (Option<u32>, Option<u32>) = (reader.optional("folds"), reader.optional("fold"));
    match (folds, fold) {
        (Some(_), None) if !reader.is_given("fold") => reader.fault("fold", "is required together with folds, from 1"),
        (None, Some(_)) if !reader.is_given("folds") => reader.fault("folds", "is required together with fold"),
        (Some(folds), Some(fold)) if fold > folds => reader.fault("fold", format!("must be one of the {folds} folds")),
        _ => {}
    }
    (folds, fold)
}

/// `eval_crop` and `eval_resize`, which only the centre has.
fn eval_framing(reader: &ObjectReader<'_>, image_size: u32) -> (Option<EvalCrop>, Option<u32>) {
    let (crop, resize): (Option<EvalCrop>, Option<u32>) =
        (reader.optional("eval_crop"), reader.optional("eval_resize"));
    match resize {
        Some(_) if crop == Some(EvalCrop::Whole) => {
            reader.fault("eval_resize", "is used with eval_crop \"centre\" only: leave out one of them");
        }
        Some(resize) if resize < image_size && !reader.has_fault(&["image_size"]) => {
            let origin = if reader.is_given("image_size") { "" } else { " (the networks' own size, or the default)" };
            let detail = format!(
                "must be at least image_size, {image_size}{origin}: the centre of that size is taken. Raise eval_resize, or \
                 set dataset.image_size"
            );
            reader.fault("eval_resize", detail);
        }
        _ => {}
    }
    (crop, resize)
}

/// `mean` and `std`: both or neither.
pub(super) fn normalisation(reader: &ObjectReader<'_>) -> (Option<[f64; 3]>, Option<[f64; 3]>) {
    match (reader.is_given("mean"), reader.is_given("std")) {
        (true, false) => reader.fault("std", "is required together with mean"),
        (false, true) => reader.fault("mean", "is required together with std"),
        _ => {}
    }
    (reader.optional("mean"), reader.optional("std"))
}
