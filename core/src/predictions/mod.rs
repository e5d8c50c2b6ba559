//! What a student and its teacher predict for the images of the evaluation split: image by image in a [file](read), and
//! counted in a [report](PredictionReport).

mod choice;
mod file;
mod report;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use file::{Pictures, PredictionFile, RegionVotes, read, write};
pub use report::{
    Calibration, CalibrationBin, ClassPredictions, ConfusionCell, NetworkReport, OutcomeCounts, PredictionReport,
};

/// What a network predicts for `N` images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkPredictions {
    /// The class with the largest logit: `[N]`
    pub predicted: Vec<u32>,
    /// The probability of that class, from 0 to 1: `[N]`
    pub confidence: Vec<f32>,
    /// The probability of the image's label: `[N]`
    pub of_label: Vec<f32>,
}

/// What both networks predict for the same `N` images. All lists have `N` entries, and classes are below `classes`.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    pub classes: u32,
    /// Places of the images in the evaluation split, as it is evaluated: ascending.
    pub positions: Vec<u64>,
    pub labels: Vec<u32>,
    pub student: NetworkPredictions,
    /// `None` for plain training.
    pub teacher: Option<NetworkPredictions>,
}

/// Which of the networks is right about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PredictionOutcome {
    /// The student, and the teacher if there is one.
    Right,
    /// Not the student; the teacher if there is one.
    StudentWrong,
    /// The student, but not the teacher.
    TeacherWrong,
    /// Neither the student nor the teacher.
    BothWrong,
}

impl Predictions {
    /// The number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Which network is right about an image.
    #[must_use]
    pub fn outcome(&self, image: usize) -> PredictionOutcome {
        let label = self.labels[image];
        let is_right = |answers: &NetworkPredictions| answers.predicted[image] == label;
        match (is_right(&self.student), self.teacher.as_ref().map(is_right)) {
            (true, None | Some(true)) => PredictionOutcome::Right,
            (false, None | Some(true)) => PredictionOutcome::StudentWrong,
            (true, Some(false)) => PredictionOutcome::TeacherWrong,
            (false, Some(false)) => PredictionOutcome::BothWrong,
        }
    }

    /// How much less probable the label is to the student than to the teacher, from -1 to 1; without a teacher, than
    /// certain.
    #[must_use]
    pub fn difference(&self, image: usize) -> f32 {
        self.teacher.as_ref().map_or(1.0, |teacher| teacher.of_label[image]) - self.student.of_label[image]
    }
}
