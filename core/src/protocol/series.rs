//! The names of a job's series. The trainer and the worker write series by these constants. What quotes a name
//! elsewhere (SQL, the dashboard, the documentation) is held against this list by the tests below, which cannot tell
//! `lr` and `images_per_second` there from other words.

/// Top-1 accuracy on the evaluation split, in percent.
pub const EVAL_TOP1: &str = "eval/top1";
/// Top-5 accuracy on the evaluation split, in percent.
pub const EVAL_TOP5: &str = "eval/top5";
/// Mean cross entropy on the evaluation split.
pub const EVAL_LOSS: &str = "eval/loss";
/// Mean recall of the classes on the evaluation split, in percent.
pub const EVAL_BALANCED_ACCURACY: &str = "eval/balanced_accuracy";
/// Mean F1 of the classes on the evaluation split, in percent.
pub const EVAL_F1: &str = "eval/f1";
/// The first three of the weights as trained, where the student is their average.
pub const EVAL_RAW_TOP1: &str = "eval/raw_top1";
pub const EVAL_RAW_TOP5: &str = "eval/raw_top5";
pub const EVAL_RAW_LOSS: &str = "eval/raw_loss";
/// Mean loss on the training split since the last point.
pub const TRAIN_LOSS: &str = "train/loss";
/// The part of the training loss from the labels: cross entropy.
pub const TRAIN_LOSS_CE: &str = "train/loss_ce";
/// The part of the training loss from the teacher.
pub const TRAIN_LOSS_DISTILL: &str = "train/loss_distill";
/// The part of the distillation loss from consistent regions: see [`Grouping`](crate::spec::Grouping).
pub const TRAIN_LOSS_CONSISTENT: &str = "train/loss_consistent";
/// The part of the distillation loss from complementary regions, which are all others.
pub const TRAIN_LOSS_COMPLEMENTARY: &str = "train/loss_complementary";
/// How much the similarities between the regions of an image differ from the teacher's (iCD), before the weight.
pub const TRAIN_LOSS_CLUSTERING: &str = "train/loss_clustering";
/// Top-1 accuracy on the training images since the last point, in percent.
pub const TRAIN_TOP1: &str = "train/top1";
/// Fraction of the training images since the last point that have a label.
pub const TRAIN_LABELLED_FRACTION: &str = "train/labelled_fraction";
pub const LEARNING_RATE: &str = "lr";
/// Training images per second since the last point.
pub const IMAGES_PER_SECOND: &str = "images_per_second";
/// Resident memory of the trainer's process, in bytes.
pub const RESIDENT_BYTES: &str = "memory/resident_bytes";
/// Memory in use on the job's GPUs, by any process, in bytes.
pub const GPU_BYTES: &str = "memory/gpu_bytes";
/// Fraction of all regions that are complementary.
pub const COMPLEMENTARY_FRACTION: &str = "sdd/complementary_fraction";

/// Every series but those of single scales.
pub const ALL: [&str; 21] = [
    EVAL_TOP1,
    EVAL_TOP5,
    EVAL_LOSS,
    EVAL_BALANCED_ACCURACY,
    EVAL_F1,
    EVAL_RAW_TOP1,
    EVAL_RAW_TOP5,
    EVAL_RAW_LOSS,
    TRAIN_LOSS,
    TRAIN_LOSS_CE,
    TRAIN_LOSS_DISTILL,
    TRAIN_LOSS_CONSISTENT,
    TRAIN_LOSS_COMPLEMENTARY,
    TRAIN_LOSS_CLUSTERING,
    TRAIN_TOP1,
    TRAIN_LABELLED_FRACTION,
    LEARNING_RATE,
    IMAGES_PER_SECOND,
    RESIDENT_BYTES,
    GPU_BYTES,
    COMPLEMENTARY_FRACTION,
];

/// The mean loss of one scale of a scale-decoupled method.
#[must_use]
pub fn scale_loss(scale: u32) -> String {
    format!("sdd/scale_{scale}/loss")
}

/// The fraction of one scale's regions that are complementary.
#[must_use]
pub fn scale_complementary_fraction(scale: u32) -> String {
    format!("sdd/scale_{scale}/complementary_fraction")
}

/// Whether some job of this version may have a series of this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    let scale = name.strip_prefix("sdd/scale_").and_then(|rest| rest.split('/').next()?.parse::<u32>().ok());
    ALL.contains(&name)
        || scale.is_some_and(|scale| name == scale_loss(scale) || name == scale_complementary_fraction(scale))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files_below(&path, found);
            } else {
                found.push(path);
            }
        }
    }

    /// What stands in quotes or backticks and looks like the name of a series.
    fn quoted_names(text: &str) -> impl Iterator<Item = &str> {
        let is_name = |text: &&str| {
            let kind = text.split_once('/').map(|(kind, rest)| (kind, rest.chars()));
            kind.is_some_and(|(kind, mut rest)| {
                ["eval", "train", "memory", "sdd"].contains(&kind)
                    && rest.clone().next().is_some()
                    && rest.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
            })
        };
        text.split(['\'', '"', '`']).filter(is_name)
    }

    #[test]
    fn series_of_scales_are_known_by_their_form() {
        for name in ALL.into_iter().chain(["sdd/scale_1/loss", "sdd/scale_14/complementary_fraction"]) {
            assert!(is_known(name), "{name}");
        }
        for name in ["", "loss", "Lr", "eval", "sdd/scale_/loss", "sdd/scale_01/loss", "sdd/scale_1", "sdd/scale_1/lr"]
        {
            assert!(!is_known(name), "{name}");
        }
    }

    #[test]
    fn names_that_are_quoted_elsewhere_are_names_of_series() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = Vec::new();
        let directories =
            ["static/js", "src/cli", "src/db", "src/http", "src/worker", "trainer/src", "migrations", "docs"];
        for directory in directories {
            files_below(&root.join(directory), &mut found);
        }
        let mut quoted = 0;
        for path in found {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for name in quoted_names(&text) {
                assert!(ALL.contains(&name), "{} names a series {name:?}, which there is not", path.display());
                quoted += 1;
            }
        }
        assert!(quoted > 10, "the quotes are found");
    }

    #[test]
    fn the_trainer_and_the_worker_name_series_by_their_constants() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = Vec::new();
        for directory in ["trainer/src", "src/worker"] {
            files_below(&root.join(directory), &mut found);
        }
        let mut named = 0;
        for path in found.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
            let text = fs::read_to_string(path).unwrap();
            named += text.matches("series::").count();
            // The speed is a field of `evaluate`'s result, too.
            for name in ALL.into_iter().filter(|name| *name != IMAGES_PER_SECOND) {
                assert!(!text.contains(&format!("\"{name}\"")), "{} quotes {name:?}", path.display());
            }
        }
        assert!(named > 10, "the constants are used");
    }
}
