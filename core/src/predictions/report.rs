//! The counts of predictions: confusion, classes, agreement and calibration.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NetworkPredictions, PredictionOutcome, Predictions};

/// Bins of a calibration, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
const BINS: usize = 15;
/// Most cells of the confusion matrices that are listed. Those of 50,000 images of 1,000 classes fit, unless every
/// other image is wrong.
const MOST_CELLS: usize = 20_000;

/// What the best student and its teacher get right and wrong on the evaluation split. The content of
/// `predictions.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PredictionReport {
    /// The evaluation split.
    pub split: String,
    /// Images counted.
    pub images: u64,
    /// The student.
    pub student: NetworkReport,
    /// The teacher; null for plain training.
    pub teacher: Option<NetworkReport>,
    /// How many images each of the networks is right about.
    pub outcomes: OutcomeCounts,
    /// Percent of the images for which both networks predict the same class; null without a teacher.
    pub agreement: Option<f64>,
    /// An entry for each class, in the order of the labels.
    pub classes: Vec<ClassPredictions>,
    /// The confusion matrices of both networks: the pairs of label and predicted class that occur, ordered by label and
    /// predicted class.
    pub cells: Vec<ConfusionCell>,
    /// Pairs that occur and are not listed, because there are more than 20,000: the rarest ones.
    pub cells_left_out: u64,
}

/// How good a network is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkReport {
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// Whether its confidence is its accuracy.
    pub calibration: Calibration,
}

/// How far a network's confidence is from its accuracy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Calibration {
    /// Expected calibration error in percentage points: the mean over all images of the difference between confidence
    /// and accuracy of the image's bin (Guo et al., ICML 2017).
    pub ece: f64,
    /// 15 bins of the same width, by confidence.
    pub bins: Vec<CalibrationBin>,
}

/// Images with about the same confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalibrationBin {
    /// The largest confidence of the bin in percent. It begins above that of the bin before.
    pub up_to: f64,
    /// Images.
    pub images: u64,
    /// Mean confidence in percent; null without images.
    pub confidence: Option<f64>,
    /// Accuracy in percent; null without images.
    pub accuracy: Option<f64>,
}

/// Numbers of images by which network is right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeCounts {
    /// The student is, and the teacher if there is one.
    pub right: u64,
    /// The student is not; the teacher is, if there is one.
    pub student_wrong: u64,
    /// Only the student is.
    pub teacher_wrong: u64,
    /// Neither is.
    pub both_wrong: u64,
}

/// The images and the predictions of a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassPredictions {
    /// Its number.
    pub class: u32,
    /// Its name; null if the data set has none.
    pub name: Option<String>,
    /// Images with this label.
    pub images: u64,
    /// Percent of these that the student recognises; null without images.
    pub student: Option<f64>,
    /// Percent of these that the teacher recognises; null without images or teacher.
    pub teacher: Option<f64>,
    /// Percent of these for which both predict the same class; null without images or teacher.
    pub agreement: Option<f64>,
    /// Images with any label for which the student predicts this class.
    pub student_predicted: u64,
    /// Images with any label for which the teacher predicts this class; null without a teacher.
    pub teacher_predicted: Option<u64>,
}

/// A cell of the confusion matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfusionCell {
    /// The images' label.
    pub label: u32,
    /// The class that is predicted.
    pub predicted: u32,
    /// Images for which the student predicts it.
    pub student: u64,
    /// Images for which the teacher predicts it: 0 without a teacher.
    pub teacher: u64,
}

impl Predictions {
    /// Counts the predictions. `names` are those of the classes, if they have any.
    #[must_use]
    pub fn report(&self, split: &str, names: Option<&[String]>) -> PredictionReport {
        let mut outcomes = OutcomeCounts::default();
        for image in 0..self.len() {
            let count = match self.outcome(image) {
                PredictionOutcome::Right => &mut outcomes.right,
                PredictionOutcome::StudentWrong => &mut outcomes.student_wrong,
                PredictionOutcome::TeacherWrong => &mut outcomes.teacher_wrong,
                PredictionOutcome::BothWrong => &mut outcomes.both_wrong,
            };
            *count += 1;
        }
        let mut cells = self.cells();
        let cells_left_out = cells.len().saturating_sub(MOST_CELLS) as u64;
        if cells_left_out > 0 {
            // The sort is stable: cells of the same frequency stay ordered.
            cells.sort_by_key(|cell| Reverse(cell.student + cell.teacher));
            cells.truncate(MOST_CELLS);
            cells.sort_by_key(|cell| (cell.label, cell.predicted));
        }
        let agreed =
            |teacher: &NetworkPredictions| agreements(&self.student, teacher).filter(|&agrees| agrees).count() as u64;
        PredictionReport {
            split: split.to_owned(),
            images: self.len() as u64,
            student: self.network(&self.student),
            teacher: self.teacher.as_ref().map(|teacher| self.network(teacher)),
            outcomes,
            agreement: self.teacher.as_ref().and_then(|teacher| percent(agreed(teacher), self.len() as u64)),
            classes: self.by_class(names),
            cells,
            cells_left_out,
        }
    }

    fn cells(&self) -> Vec<ConfusionCell> {
        let mut counts: BTreeMap<[u32; 2], [u64; 2]> = BTreeMap::new();
        for (network, answers) in [Some(&self.student), self.teacher.as_ref()].into_iter().enumerate() {
            for (&label, &predicted) in
                answers.into_iter().flat_map(|answers| self.labels.iter().zip(&answers.predicted))
            {
                counts.entry([label, predicted]).or_default()[network] += 1;
            }
        }
        let cell = |([label, predicted], [student, teacher]): ([u32; 2], [u64; 2])| ConfusionCell {
            label,
            predicted,
            student,
            teacher,
        };
        counts.into_iter().map(cell).collect()
    }

    fn by_class(&self, names: Option<&[String]>) -> Vec<ClassPredictions> {
        let count = |classes: &mut dyn Iterator<Item = u32>| {
            let mut counts = vec![0_u64; self.classes as usize];
            classes.for_each(|class| counts[class as usize] += 1);
            counts
        };
        let images = count(&mut self.labels.iter().copied());
        let predicted = |answers: &NetworkPredictions| count(&mut answers.predicted.iter().copied());
        let right = |answers: &NetworkPredictions| {
            let both = self.labels.iter().zip(&answers.predicted);
            count(&mut both.filter(|(label, predicted)| label == predicted).map(|(&label, _)| label))
        };
        let (student, student_predicted) = (right(&self.student), predicted(&self.student));
        let teacher = self.teacher.as_ref().map(right);
        let teacher_predicted = self.teacher.as_ref().map(predicted);
        let agreed = self.teacher.as_ref().map(|teacher| {
            let both = self.labels.iter().zip(agreements(&self.student, teacher));
            count(&mut both.filter(|(_, agrees)| *agrees).map(|(&label, _)| label))
        });
        let entry = |(class, &images): (usize, &u64)| ClassPredictions {
            class: class as u32,
            name: names.and_then(|names| names.get(class)).cloned(),
            images,
            student: percent(student[class], images),
            teacher: teacher.as_ref().and_then(|teacher| percent(teacher[class], images)),
            agreement: agreed.as_ref().and_then(|agreed| percent(agreed[class], images)),
            student_predicted: student_predicted[class],
            teacher_predicted: teacher_predicted.as_ref().map(|predicted| predicted[class]),
        };
        images.iter().enumerate().map(entry).collect()
    }

    fn network(&self, answers: &NetworkPredictions) -> NetworkReport {
        let mut sums = [(0_u64, 0_u64, 0.0_f64); BINS];
        for ((&label, &predicted), &confidence) in self.labels.iter().zip(&answers.predicted).zip(&answers.confidence) {
            // A bin has its upper bound. What is no number is no confidence.
            let confidence = f64::from(confidence).clamp(0.0, 1.0);
            let confidence = if confidence.is_nan() { 0.0 } else { confidence };
            let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
            let (images, right, sum) = &mut sums[bin];
            *images += 1;
            *right += u64::from(label == predicted);
            *sum += confidence;
        }
        let all = self.len() as f64;
        let errors = sums.iter().map(|&(_, right, sum)| (right as f64 - sum).abs());
        let ece = if self.is_empty() { 0.0 } else { 100.0 * errors.sum::<f64>() / all };
        let bin = |(index, &(images, right, sum)): (usize, &(u64, u64, f64))| CalibrationBin {
            up_to: 100.0 * (index + 1) as f64 / BINS as f64,
            images,
            confidence: (images > 0).then(|| 100.0 * sum / images as f64),
            accuracy: percent(right, images),
        };
        let right = sums.iter().map(|&(_, right, _)| right).sum();
        NetworkReport {
            top1: percent(right, self.len() as u64).unwrap_or(0.0),
            calibration: Calibration { ece, bins: sums.iter().enumerate().map(bin).collect() },
        }
    }
}

/// Whether two networks predict the same, image by image.
fn agreements<'a>(one: &'a NetworkPredictions, other: &'a NetworkPredictions) -> impl Iterator<Item = bool> + 'a {
    one.predicted.iter().zip(&other.predicted).map(|(one, other)| one == other)
}

fn percent(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| 100.0 * part as f64 / of as f64)
}
