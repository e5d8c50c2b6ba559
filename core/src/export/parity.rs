//! Whether an exported student computes what the student does: its logits in another runtime, compared with those of
//! the trainer, and what is reported of that.

use serde::{Deserialize, Serialize};

use super::samples::SampleBatch;
use super::{Result, refused};

/// Largest difference of a float32 export's logits, as a share of the largest logit.
pub const TOLERANCE: f64 = 1e-4;
/// Logits of two runtimes, compared so far.
#[derive(Debug, Clone, Default)]
pub struct LogitComparison {
    images: u64,
    largest_difference: f64,
    largest_logit: f64,
    agreeing: u64,
    labelled: u64,
    right: u64,
    right_exported: u64,
}

impl LogitComparison {
    /// Adds the logits [N, classes] that a runtime gives for a batch.
    ///
    /// # Errors
    /// They are not one for each of the student's.
    pub fn add(&mut self, batch: &SampleBatch<'_>, found: &[f32]) -> Result<()> {
        let count = batch.shape[0] as usize;
        if found.len() != batch.logits.len() || count == 0 {
            return refused(format!(
                "the runtime gives {} logits, and the student {}",
                found.len(),
                batch.logits.len()
            ));
        }
        let classes = found.len() / count;
        for (at, (expected, found)) in batch.logits.chunks(classes).zip(found.chunks(classes)).enumerate() {
            for (expected, found) in expected.iter().zip(found) {
                let difference = f64::from((expected - found).abs());
                // What is not a number differs by more than any number.
                let difference = if difference.is_nan() { f64::INFINITY } else { difference };
                self.largest_difference = self.largest_difference.max(difference);
                self.largest_logit = self.largest_logit.max(f64::from(expected.abs()));
            }
            let (expected, found) = (best(expected), best(found));
            self.images += 1;
            self.agreeing += u64::from(expected == found);
            if let Some(label) =
                batch.labels.and_then(|labels| labels.get(at)).and_then(|&label| usize::try_from(label).ok())
            {
                self.labelled += 1;
                self.right += u64::from(expected == label);
                self.right_exported += u64::from(found == label);
            }
        }
        Ok(())
    }

    /// What was found. `tolerance` is the largest relative difference that is accepted; `None` accepts any.
    #[must_use]
    pub fn parity(&self, tolerance: Option<f64>) -> Parity {
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        Parity {
            images: self.images,
            available: self.images,
            largest_difference: self.largest_difference,
            logits_scale: self.largest_logit,
            relative_difference: self.largest_difference / self.largest_logit.max(f64::MIN_POSITIVE),
            tolerance,
            top1_agreement: percent(self.agreeing, self.images),
            top1: (self.labelled > 0).then(|| Top1 {
                student: percent(self.right, self.labelled),
                exported: percent(self.right_exported, self.labelled),
            }),
        }
    }
}

/// The class with the largest logit.
fn best(logits: &[f32]) -> usize {
    logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (at, &logit)| if logit > best.1 { (at, logit) } else { best })
        .0
}

/// How far an exported student's logits are from the student's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// Number of evaluation images that were compared.
    pub images: u64,
    /// Number that there are: more than were compared where that would have taken too long.
    pub available: u64,
    /// Largest absolute difference of two logits.
    pub largest_difference: f64,
    /// Largest absolute logit of the student.
    pub logits_scale: f64,
    /// The largest difference as a share of the largest logit.
    pub relative_difference: f64,
    /// The largest relative difference that is accepted; null for int8, which is judged by its accuracy.
    pub tolerance: Option<f64>,
    /// Images for which both name the same class, in percent.
    pub top1_agreement: f64,
    /// Accuracies on the same images, if their labels are known.
    pub top1: Option<Top1>,
}

/// Accuracies in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Top1 {
    pub student: f64,
    pub exported: f64,
}

impl Parity {
    #[must_use]
    pub fn holds(&self) -> bool {
        self.tolerance.is_none_or(|tolerance| self.relative_difference <= tolerance)
    }
}

/// A program that runs exported students.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    pub name: String,
    pub version: String,
}

/// `export-<format>.json`: what an exported file is, and how it was checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportReport {
    pub format: String,
    /// The version of ONNX's operators.
    pub opset: Option<i64>,
    pub size_bytes: u64,
    /// SHA-256 of the exported file, in hexadecimal.
    pub sha256: String,
    /// What ran the exported file; null if nothing did.
    pub runtime: Option<Runtime>,
    /// Why the file was not checked; null if it was.
    pub not_checked: Option<String>,
    /// Null if the file was not checked.
    pub parity: Option<Parity>,
}
