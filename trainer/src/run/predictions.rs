//! What a network predicts for every image of the evaluation split. It is noted during the evaluations that a run makes
//! anyway: the teacher's before training, and the student's after epochs. What the student gets wrong is then known
//! without another pass.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::evaluate::Seen;
use crate::error::{Error, Result};
use crate::models::state_dict::StateDict;
use crate::ranks::Ranks;
use distillery_core::predictions::{NetworkPredictions, Predictions};

/// Most images of an evaluation split whose predictions are kept: 20 bytes each.
pub const MOST_IMAGES: u64 = 250_000;

/// The numbers of an image: whether it was seen (1 or 0), its label, the predicted class, the probability of that
/// class, and the probability of the label. float32 has every class exactly.
const FIELDS: i64 = 5;

/// Notes an evaluation on its device.
#[derive(Debug)]
pub struct PredictionLog {
    /// [5, N] float32.
    rows: Tensor,
}

impl PredictionLog {
    /// For a split of this many images; `None` if they are too many.
    #[must_use]
    pub fn new(images: u64, device: Device) -> Option<Self> {
        let count = i64::try_from(images).ok().filter(|_| images <= MOST_IMAGES)?;
        Some(Self { rows: Tensor::zeros([FIELDS, count], (Kind::Float, device)) })
    }

    /// Notes a batch. Does not wait for the device.
    pub fn add(&self, Seen { logits, labels, positions, .. }: &Seen<'_>) {
        let predicted = logits.argmax(-1, false);
        let probabilities = logits.softmax(-1, Kind::Float);
        let of = |classes: &Tensor| probabilities.gather(1, &classes.unsqueeze(-1), false).squeeze_dim(-1);
        let [label, class] = [*labels, &predicted].map(|classes| classes.to_kind(Kind::Float));
        let rows = Tensor::stack(&[&label.ones_like(), &label, &class, &of(&predicted), &of(labels)], 0);
        let _ = self.rows.shallow_clone().index_copy_(1, positions, &rows);
    }

    /// The notes of all ranks. Waits for the device.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn read(&self, ranks: &Ranks) -> Result<PredictionRows> {
        // Every image is one rank's, so that sums are the numbers themselves.
        let rows = self.rows.to_device(Device::Cpu).to_kind(Kind::Double);
        ranks.all_reduce_sum(&rows)?;
        Ok(PredictionRows(rows.to_kind(Kind::Float)))
    }
}

/// What a network predicts: [5, N] float32 on the CPU. As text, its bytes in hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PredictionRows(Tensor);

impl Clone for PredictionRows {
    /// Shares the numbers, which never change.
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

impl From<PredictionRows> for String {
    fn from(rows: PredictionRows) -> Self {
        let values = Vec::<f32>::try_from(rows.0.flatten(0, -1)).expect("the rows are float32");
        hex::encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }
}

impl TryFrom<String> for PredictionRows {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let bytes = hex::decode(text).map_err(|error| error.to_string())?;
        let size = 4 * FIELDS as usize;
        if bytes.is_empty() || !bytes.len().is_multiple_of(size) {
            return Err(format!("{} bytes are no predictions", bytes.len()));
        }
        let shape = [FIELDS, (bytes.len() / size) as i64];
        Tensor::f_from_data_size(&bytes, &shape, Kind::Float).map(Self).map_err(|error| error.to_string())
    }
}

impl PredictionRows {
    /// Takes over a tensor of a file, if it is one of these.
    fn of_tensor(tensor: Tensor) -> Option<Self> {
        let is_one = tensor.dim() == 2 && tensor.size()[0] == FIELDS && tensor.kind() == Kind::Float;
        is_one.then_some(Self(tensor))
    }

    /// The five numbers of each image.
    ///
    /// # Errors
    /// libtorch fails.
    fn images(&self) -> Result<Vec<[f32; FIELDS as usize]>> {
        let values = Vec::<f32>::try_from(self.0.transpose(0, 1).contiguous().flatten(0, -1))?;
        Ok(values.as_chunks::<{ FIELDS as usize }>().0.to_vec())
    }

    /// The label and the predicted class of every image that was seen.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn pairs(&self) -> Result<Vec<[u32; 2]>> {
        let seen = self.images()?.into_iter().filter(|&[seen, ..]| seen > 0.0);
        Ok(seen.map(|[_, label, predicted, ..]| [label as u32, predicted as u32]).collect())
    }
}

/// The predictions that a run keeps.
#[derive(Debug, Clone, Default)]
pub struct RunPredictions {
    /// The student's in its best evaluation.
    pub best: Option<PredictionRows>,
    pub teacher: Option<PredictionRows>,
}

impl RunPredictions {
    /// The names of [`StateDict`] entries.
    const NAMES: [&str; 2] = ["best", "teacher"];

    /// The entries of a checkpoint.
    #[must_use]
    pub fn to_state(&self) -> StateDict {
        let both = [&self.best, &self.teacher].into_iter().zip(Self::NAMES);
        both.filter_map(|(rows, name)| Some((name.to_owned(), rows.as_ref()?.0.shallow_clone()))).collect()
    }

    /// From part of a checkpoint. What is missing there, as in those of earlier versions, is missing.
    #[must_use]
    pub fn of_state(state: StateDict) -> Self {
        let mut found = Self::default();
        for (name, tensor) in state {
            let rows = PredictionRows::of_tensor(tensor);
            match Self::NAMES.iter().position(|known| *known == name) {
                Some(0) => found.best = rows,
                Some(_) => found.teacher = rows,
                None => {}
            }
        }
        found
    }

    /// The images that both networks have seen; `None` if the best student's predictions are not known.
    ///
    /// # Errors
    /// The two evaluations are of different images.
    pub fn joined(&self, classes: u32) -> Result<Option<Predictions>> {
        let Some(student) = &self.best else { return Ok(None) };
        let student = student.images()?;
        let teacher = self.teacher.as_ref().map(PredictionRows::images).transpose()?;
        if teacher.as_ref().is_some_and(|teacher| teacher.len() != student.len()) {
            return Err(Error::internal("teacher and student were evaluated on different images"));
        }
        let mut joined = Predictions {
            classes,
            positions: Vec::new(),
            labels: Vec::new(),
            student: NetworkPredictions::default(),
            teacher: teacher.is_some().then(NetworkPredictions::default),
        };
        for (position, of_student) in student.into_iter().enumerate() {
            let of_teacher = teacher.as_ref().map(|teacher| teacher[position]);
            let [seen, label, ..] = of_student;
            if seen == 0.0 || of_teacher.is_some_and(|[seen, ..]| seen == 0.0) {
                continue;
            }
            joined.positions.push(position as u64);
            joined.labels.push(label as u32);
            let both = [(Some(&mut joined.student), Some(of_student)), (joined.teacher.as_mut(), of_teacher)];
            for (answers, image) in both {
                if let (Some(answers), Some([_, _, predicted, confidence, of_label])) = (answers, image) {
                    answers.predicted.push(predicted as u32);
                    answers.confidence.push(confidence);
                    answers.of_label.push(of_label);
                }
            }
        }
        Ok(Some(joined))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three images of two classes, of which the one in the middle cannot be read.
    fn rows() -> PredictionRows {
        let log = PredictionLog::new(3, Device::Cpu).unwrap();
        let logits = Tensor::from_slice(&[3_f32, 1.0, 2.0, 1.0]).view([2, 2]);
        let [labels, positions] = [[1_i64, 1], [0, 2]].map(|numbers| Tensor::from_slice(&numbers));
        for at in 0..2 {
            let [logits, labels, positions] = [&logits, &labels, &positions].map(|tensor| tensor.narrow(0, at, 1));
            log.add(&Seen { features: &logits, logits: &logits, labels: &labels, positions: &positions });
        }
        log.read(&Ranks::single()).unwrap()
    }

    #[test]
    fn predictions_are_noted_at_the_images_positions_with_their_softmax() {
        assert_eq!(rows().pairs().unwrap(), [[1, 0], [1, 0]]);
        let run = RunPredictions { best: Some(rows()), teacher: None };
        let joined = run.joined(2).unwrap().unwrap();
        assert_eq!((joined.positions, joined.labels, joined.teacher), (vec![0, 2], vec![1, 1], None));
        let [first, second] = [2_f32, 1.0].map(|lead| 1.0 / (1.0 + (-lead).exp()));
        let NetworkPredictions { predicted, confidence, of_label } = joined.student;
        assert_eq!(predicted, [0, 0]);
        for (image, expected) in [first, second].into_iter().enumerate() {
            let (found, other) = (confidence[image], of_label[image]);
            assert!((found - expected).abs() < 1e-6 && (other - (1.0 - expected)).abs() < 1e-6, "{found} {other}");
        }
    }

    #[test]
    fn a_run_that_resumes_and_a_cache_give_the_predictions_back() {
        let run = RunPredictions { best: Some(rows()), teacher: Some(rows()) };
        let back = RunPredictions::of_state(run.to_state());
        assert_eq!(back.joined(2).unwrap(), run.joined(2).unwrap());
        let text = serde_json::to_string(&rows()).unwrap();
        let read: PredictionRows = serde_json::from_str(&text).unwrap();
        assert_eq!(String::from(read), String::from(rows()));
        assert!(serde_json::from_str::<PredictionRows>("\"00ff\"").is_err());
        assert!(RunPredictions::of_state(Vec::new()).joined(2).unwrap().is_none());
    }

    #[test]
    fn a_split_of_too_many_images_is_not_noted() {
        assert!(PredictionLog::new(MOST_IMAGES + 1, Device::Cpu).is_none());
    }
}
