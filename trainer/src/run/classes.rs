//! How well each class is recognised: recall, precision and F1 by class, and their means over the classes, which count
//! rare classes as much as frequent ones.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::evaluate::Seen;
use crate::error::Result;
use crate::ranks::Ranks;

/// Numbers of evaluation images of a class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub struct ClassCounts {
    /// Images with this label.
    pub images: u64,
    /// Images with this label for which this class is predicted.
    pub right: u64,
    /// Images with any label for which this class is predicted.
    pub predicted: u64,
}

impl From<(u64, u64, u64)> for ClassCounts {
    fn from((images, right, predicted): (u64, u64, u64)) -> Self {
        Self { images, right, predicted }
    }
}

impl From<ClassCounts> for (u64, u64, u64) {
    fn from(ClassCounts { images, right, predicted }: ClassCounts) -> Self {
        (images, right, predicted)
    }
}

impl ClassCounts {
    fn percent(part: u64, of: u64) -> f64 {
        if of == 0 { 0.0 } else { 100.0 * part as f64 / of as f64 }
    }

    /// Percent of the images of the class that are recognised.
    #[must_use]
    pub fn recall(&self) -> f64 {
        Self::percent(self.right, self.images)
    }

    /// Percent of the predictions of the class that are right; 0 if there are none.
    #[must_use]
    pub fn precision(&self) -> f64 {
        Self::percent(self.right, self.predicted)
    }

    /// The harmonic mean of recall and precision, in percent.
    #[must_use]
    pub fn f1(&self) -> f64 {
        Self::percent(2 * self.right, self.images + self.predicted)
    }
}

/// The mean recall, in percent, of the classes that have images: scikit-learn's `balanced_accuracy_score`.
#[must_use]
pub fn balanced_accuracy(classes: &[ClassCounts]) -> f64 {
    mean(classes.iter().filter(|class| class.images > 0).map(ClassCounts::recall))
}

/// The mean F1, in percent, of the classes that have images or predictions: scikit-learn's `f1_score` with
/// `average="macro"`.
#[must_use]
pub fn macro_f1(classes: &[ClassCounts]) -> f64 {
    mean(classes.iter().filter(|class| class.images + class.predicted > 0).map(ClassCounts::f1))
}

fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = numbers.fold((0.0, 0_u32), |(sum, count), number| (sum + number, count + 1));
    sum / f64::from(count.max(1))
}

/// Counts the batches of an evaluation on their device.
#[derive(Debug)]
pub struct ClassTally {
    /// [3, K] int64.
    counts: Tensor,
}

impl ClassTally {
    #[must_use]
    pub fn new(classes: u32, device: Device) -> Self {
        Self { counts: Tensor::zeros([3, i64::from(classes)], (Kind::Int64, device)) }
    }

    /// Counts a batch. Does not wait for the device.
    pub fn add(&self, Seen { logits, labels, .. }: &Seen<'_>) {
        let predicted = logits.argmax(-1, false);
        let right = predicted.eq_tensor(labels).to_kind(Kind::Int64);
        let ones = labels.ones_like();
        for (row, (classes, numbers)) in
            [(*labels, &ones), (*labels, &right), (&predicted, &ones)].into_iter().enumerate()
        {
            let _ = self.counts.get(row as i64).index_add_(0, classes, numbers);
        }
    }

    /// The counts over all ranks. Waits for the device.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn read(&self, ranks: &Ranks) -> Result<Vec<ClassCounts>> {
        let counts = self.counts.to_device(Device::Cpu).copy();
        ranks.all_reduce_sum(&counts)?;
        let of = |row: i64| -> Result<Vec<i64>> { Ok(Vec::try_from(counts.get(row))?) };
        let (images, right, predicted) = (of(0)?, of(1)?, of(2)?);
        let classes = images.into_iter().zip(right).zip(predicted);
        Ok(classes
            .map(|((images, right), predicted)| {
                let [images, right, predicted] = [images, right, predicted].map(i64::unsigned_abs);
                ClassCounts { images, right, predicted }
            })
            .collect())
    }
}

/// The content of `classes.json`: an entry for each class, in the order of the labels.
#[derive(Debug, Serialize)]
pub struct ClassReport<'a> {
    class: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// Number of evaluation images.
    images: u64,
    /// In percent, like the others.
    recall: f64,
    precision: f64,
    f1: f64,
}

/// The report on the classes of an evaluation.
#[must_use]
pub fn report<'a>(classes: &[ClassCounts], names: Option<&'a [String]>) -> Vec<ClassReport<'a>> {
    let entry = |(class, counts): (usize, &ClassCounts)| ClassReport {
        class,
        name: names.and_then(|names| names.get(class)).map(String::as_str),
        images: counts.images,
        recall: counts.recall(),
        precision: counts.precision(),
        f1: counts.f1(),
    };
    classes.iter().enumerate().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of scikit-learn for the labels 0 0 0 0 1 1 2 and the predictions 0 0 0 1 1 3 0 of four classes.
    #[test]
    fn rare_classes_count_as_much_as_frequent_ones() {
        let tally = ClassTally::new(4, Device::Cpu);
        let labels = Tensor::from_slice(&[0_i64, 0, 0, 0, 1, 1, 2]);
        let predicted = Tensor::from_slice(&[0_i64, 0, 0, 1, 1, 3, 0]);
        let logits = predicted.one_hot(4).to_kind(Kind::Float);
        let positions = Tensor::arange(7, (Kind::Int64, Device::Cpu));
        for (start, count) in [(0, 4), (4, 3)] {
            let [labels, logits, positions] =
                [&labels, &logits, &positions].map(|tensor| tensor.narrow(0, start, count));
            tally.add(&Seen { features: &logits, logits: &logits, labels: &labels, positions: &positions });
        }
        let classes = tally.read(&Ranks::single()).unwrap();
        let counts = |images, right, predicted| ClassCounts { images, right, predicted };
        assert_eq!(classes, [counts(4, 3, 4), counts(2, 1, 2), counts(1, 0, 0), counts(0, 0, 1)]);
        assert!((balanced_accuracy(&classes) - 100.0 * (0.75 + 0.5 + 0.0) / 3.0).abs() < 1e-9);
        assert!((macro_f1(&classes) - 100.0 * (0.75 + 0.5 + 0.0 + 0.0) / 4.0).abs() < 1e-9);
    }
}
