//! Which images people are shown.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{PredictionOutcome, Predictions};

impl Predictions {
    /// Up to `most` images worth looking at, ascending: a quarter each where only the student is wrong (the largest
    /// [`difference`](Self::difference) first), where both are (the student's largest confidence first), and where only
    /// the teacher is; then the student's mistakes by pair of label and prediction, the most frequent pair first, each
    /// pair in turn; then those about which the networks differ most.
    #[must_use]
    pub fn chosen(&self, most: usize) -> Vec<usize> {
        let mut chosen = BTreeSet::new();
        let groups = [
            (PredictionOutcome::StudentWrong, self.by(|image| self.difference(image))),
            (PredictionOutcome::BothWrong, self.by(|image| self.student.confidence[image])),
            (PredictionOutcome::TeacherWrong, self.by(|image| -self.difference(image))),
        ];
        for (outcome, images) in groups {
            chosen.extend(images.into_iter().filter(|&image| self.outcome(image) == outcome).take(most / 4));
        }
        let rest = self.by_cell().into_iter().chain(self.by(|image| self.difference(image).abs()));
        for image in rest {
            if chosen.len() >= most {
                break;
            }
            chosen.insert(image);
        }
        chosen.into_iter().collect()
    }

    /// All images, those with the largest value first.
    fn by(&self, value: impl Fn(usize) -> f32) -> Vec<usize> {
        let mut images: Vec<usize> = (0..self.len()).collect();
        images.sort_by(|&one, &other| value(other).total_cmp(&value(one)));
        images
    }

    /// The images that the student gets wrong: of each pair of label and prediction the one with the largest
    /// difference, then of each the second, and so on. The most frequent pair comes first.
    fn by_cell(&self) -> Vec<usize> {
        let mut cells: BTreeMap<[u32; 2], Vec<usize>> = BTreeMap::new();
        for image in self.by(|image| self.difference(image)) {
            let cell = [self.labels[image], self.student.predicted[image]];
            if cell[0] != cell[1] {
                cells.entry(cell).or_default().push(image);
            }
        }
        let mut cells: Vec<Vec<usize>> = cells.into_values().collect();
        cells.sort_by_key(|images| Reverse(images.len()));
        let mut places: Vec<(usize, usize, usize)> = Vec::new();
        for (cell, images) in cells.iter().enumerate() {
            places.extend(images.iter().enumerate().map(|(turn, &image)| (turn, cell, image)));
        }
        places.sort_unstable();
        places.into_iter().map(|(_, _, image)| image).collect()
    }
}
