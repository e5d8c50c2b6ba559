//! What a safetensors file says about its network beside the weights.

use std::ops::RangeInclusive;

use super::error::shown;
use super::{ACCURACY, Checkpoint};
use crate::architecture::{self, Architecture};
use crate::dataset::MeanStd;
use crate::snippets::HOW_TO_EXPORT;

/// The keys of the normalisation in the metadata, which is that of pixel values in [0, 1].
const MEAN: &str = "mean";
const STD: &str = "std";
/// The key in the metadata of the names of the classes.
const CLASSES: &str = "classes";

/// The `format` in the metadata of an exported network's weights.
pub const EXPORTED: &str = "exported";
/// The key in the metadata of the SHA-256 of the file with the network's graph.
pub const NETWORK: &str = "network";
/// The key in the metadata of the architecture.
const ARCHITECTURE: &str = "architecture";

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

    /// The names of the network's classes, in the order of its outputs, as students' files have them. `None` if the
    /// file has none that can be used.
    #[must_use]
    pub fn class_names(&self) -> Option<Vec<String>> {
        serde_json::from_str(self.metadata().get(CLASSES)?).ok()
    }

    /// The SHA-256 in the metadata of the exported network whose weights these are. `None` if they are none's.
    #[must_use]
    pub fn exported_network(&self) -> Option<&str> {
        let metadata = self.metadata();
        let is_exported = metadata.get("format").is_some_and(|format| format == EXPORTED);
        is_exported.then(|| metadata.get(NETWORK).map(String::as_str).unwrap_or_default())
    }

    /// The architecture that the metadata names, if the tensors fit it or none; else the only one that they fit.
    ///
    /// # Errors
    /// There is none, or more than one: a predicate that continues "the checkpoint".
    pub fn certain_architecture(&self) -> Result<&'static Architecture, String> {
        let fits = architecture::fits(&self.shapes());
        let named = self.metadata().get(ARCHITECTURE).and_then(|name| architecture::find(name));
        let is_fit = |named: &&Architecture| fits.iter().any(|fit| fit.architecture.name == named.name);
        if let Some(named) = named.filter(|named| fits.is_empty() || is_fit(named)) {
            return Ok(named);
        }
        match (fits.as_slice(), self.exported_network()) {
            ([only], _) => Ok(only.architecture),
            ([], Some(network)) => Err(format!(
                "has the weights of an exported network and not its graph, which is in the .pt2 file with the SHA-256 {}",
                shown(network)
            )),
            ([], None) => Err(format!(
                "fits no known architecture. Export the network with PyTorch, and use that file instead:\n{}",
                HOW_TO_EXPORT.trim_end()
            )),
            (several, _) => {
                let names: Vec<_> = several.iter().map(|fit| fit.architecture.name).collect();
                Err(format!("fits several architectures: {}", names.join(", ")))
            }
        }
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
        if metadata.contains_key(CLASSES) && self.class_names().is_none() {
            doubts.push("the classes in its metadata are ignored: expected a JSON list of names".to_owned());
        }
        let fits =
            || -> Vec<_> { architecture::fits(&self.shapes()).iter().map(|fit| fit.architecture.name).collect() };
        if let Some(network) = self.exported_network()
            && let fits @ [_, ..] = fits().as_slice()
        {
            doubts.push(format!(
                "it has the weights of the exported network with the SHA-256 {}, whose graph may be another than that of \
                 {}, which its tensors fit",
                shown(network),
                fits.join(" or ")
            ));
        }
        if let Some(named) = metadata.get(ARCHITECTURE).and_then(|name| architecture::find(name)) {
            let fits = fits();
            if !fits.is_empty() && !fits.contains(&named.name) {
                let (named, fits) = (named.name, fits.join(", "));
                doubts
                    .push(format!("its metadata names the architecture {named}, but its tensors are those of {fits}"));
            }
        }
        doubts
    }
}
