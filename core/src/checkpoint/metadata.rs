//! What a safetensors file says about its network beside the weights.

use std::ops::RangeInclusive;

use super::error::shown;
use super::{ACCURACY, Checkpoint};
use crate::architecture;
use crate::dataset::MeanStd;

/// The keys of the normalisation in the metadata, which is that of pixel values in [0, 1].
const MEAN: &str = "mean";
const STD: &str = "std";

impl Checkpoint {
    /// Per-channel mean and standard deviation of pixel values in [0, 1] that the file names for its network, as those
    /// of students do. `None` if it names none that can be used.
    #[must_use]
    pub fn normalisation(&self) -> Option<MeanStd> {
        let channels = |key: &str, valid: RangeInclusive<f64>| {
            let channels: [f64; 3] = serde_json::from_str(self.metadata().get(key)?).ok()?;
            channels.iter().all(|value| valid.contains(value)).then_some(channels)
        };
        MeanStd::of_both(channels(MEAN, MeanStd::MEANS), channels(STD, MeanStd::DEVIATIONS))
    }

    /// Notes on metadata that is ignored because it cannot be true.
    pub(super) fn doubts_of_metadata(&self) -> Vec<String> {
        let metadata = self.metadata();
        let mut doubts = Vec::new();
        if let Some(accuracy) = metadata.get(ACCURACY)
            && self.recorded_accuracy().is_none()
        {
            doubts
                .push(format!("the accuracy \"{}\" in its metadata is no percentage, and is ignored", shown(accuracy)));
        }
        if [MEAN, STD].iter().any(|key| metadata.contains_key(*key)) && self.normalisation().is_none() {
            doubts.push(format!(
                "the mean and std in its metadata are ignored: each must be a list of three numbers for pixel values in \
                 [0, 1], those of mean from {} to {} and those of std from {} to {}",
                MeanStd::MEANS.start(),
                MeanStd::MEANS.end(),
                MeanStd::DEVIATIONS.start(),
                MeanStd::DEVIATIONS.end()
            ));
        }
        if let Some(named) = metadata.get("architecture").and_then(|name| architecture::find(name)) {
            let fits: Vec<_> = architecture::fits(&self.shapes()).iter().map(|fit| fit.architecture.name).collect();
            if !fits.is_empty() && !fits.contains(&named.name) {
                let (named, fits) = (named.name, fits.join(", "));
                doubts
                    .push(format!("its metadata names the architecture {named}, but its tensors are those of {fits}"));
            }
        }
        doubts
    }
}
