//! Names of splits.

use std::collections::BTreeMap;

use super::forms::composed;

/// The default split to train on: the first of these that exists, whatever its case.
pub(super) const TRAIN: [&str; 2] = ["train", "training"];
/// The default split to evaluate on: the first of these that exists, whatever its case.
pub(super) const EVAL: [&str; 8] = ["test", "val", "validation", "testing", "valid", "evaluation", "eval", "dev"];

/// The split of that name, or else the only one that differs from it in case or Unicode normal form alone.
pub(super) fn find<'a>(splits: &'a [String], wanted: &str) -> Option<&'a str> {
    let exact = splits.iter().find(|split| *split == wanted);
    let folded = |name: &str| composed(name).to_lowercase();
    let mut similar = splits.iter().filter(|split| folded(split) == folded(wanted));
    let only = similar.next().filter(|_| similar.next().is_none());
    exact.or(only).map(String::as_str)
}

/// Whether data sets usually call a split so.
pub(super) fn is_usual(name: &str) -> bool {
    TRAIN.iter().chain(&EVAL).any(|usual| usual.eq_ignore_ascii_case(name))
}

/// Whether jobs train on the split by default.
pub(super) fn is_train(name: &str) -> bool {
    TRAIN.iter().any(|usual| usual.eq_ignore_ascii_case(name))
}

/// The split that defines the classes: the one to train on by default, or else the first.
pub(super) fn deciding<V>(splits: &BTreeMap<String, V>) -> &str {
    let train = splits.keys().find(|split| is_train(split));
    train.or_else(|| splits.keys().next()).map_or(TRAIN[0], String::as_str)
}
