//! How images become a student's input, as its file says.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::dataset::MeanStd;

/// What happens to an image before the network. `preprocess.json` of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Side, in pixels, of the images that the network was trained and evaluated on.
    pub image_size: Option<u32>,
    /// Pixels to which the shorter side is resized before the centre is cut out; `None` if the whole image is resized
    /// to `image_size` × `image_size`.
    pub resize: Option<u32>,
    /// How images are resized, such as `bilinear, antialiased`.
    pub filter: Option<String>,
    /// Per-channel mean, red first, of pixel values in [0, 1], which is subtracted.
    pub mean: Option<[f64; 3]>,
    /// Per-channel standard deviation by which the difference is divided.
    pub std: Option<[f64; 3]>,
}

impl Preprocessing {
    /// From the metadata of a student's file. What is missing or is not what it should be is `None`.
    #[must_use]
    pub fn of(metadata: &BTreeMap<String, String>) -> Self {
        let pixels = |key: &str, highest: u32| {
            metadata.get(key)?.trim().parse::<u32>().ok().filter(|pixels| (8..=highest).contains(pixels))
        };
        let channels = |key: &str, valid: RangeInclusive<f64>| {
            let channels: [f64; 3] = serde_json::from_str(metadata.get(key)?).ok()?;
            channels.iter().all(|value| valid.contains(value)).then_some(channels)
        };
        let is_centre = metadata.get("eval_crop").is_some_and(|crop| crop == "centre");
        Self {
            image_size: pixels("image_size", 1024),
            resize: pixels("eval_resize", 4096).filter(|_| is_centre),
            filter: metadata.get("eval_filter").cloned(),
            mean: channels("mean", MeanStd::MEANS),
            std: channels("std", MeanStd::DEVIATIONS),
        }
    }

    /// Mean and standard deviation, if both are known.
    #[must_use]
    pub fn normalisation(&self) -> Option<MeanStd> {
        MeanStd::of_both(self.mean, self.std)
    }

    /// The steps in words, for people.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        let filter = self.filter.as_deref().map(|filter| format!(" ({filter})")).unwrap_or_default();
        let mut steps = vec!["decode to RGB".to_owned()];
        steps.extend(match (self.image_size, self.resize) {
            (Some(side), Some(resize)) => {
                vec![
                    format!("resize the shorter side to {resize} pixels{filter}"),
                    format!("cut out the centre, {side}×{side}"),
                ]
            }
            (Some(side), None) => vec![format!("resize to {side}×{side} pixels{filter}")],
            (None, _) => Vec::new(),
        });
        steps.push("divide by 255".to_owned());
        if let Some(MeanStd { mean, std }) = self.normalisation() {
            steps.push(format!("subtract the mean {mean:?} and divide by the standard deviation {std:?}, per channel"));
        }
        steps
    }
}

/// The names of the classes, in the order of the logits, if the file has a name for each.
pub(super) fn class_names(metadata: &BTreeMap<String, String>, classes: u64) -> Option<Vec<String>> {
    let names: Vec<String> = serde_json::from_str(metadata.get("classes")?).ok()?;
    (names.len() as u64 == classes).then_some(names)
}
