//! A student as its graph and its weights.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::{Preprocessing, Result, refused, zoo};
use crate::architecture::{self, Architecture};
use crate::checkpoint::error::shown;
use crate::checkpoint::{Checkpoint, Dtype, NETWORK};
use crate::exported::{self, ExportedNetwork, Graph, Origin, StoredTensor, TensorRole, Value};

#[derive(Debug)]
pub struct Student {
    graph: Graph,
    /// Where the elements are of each tensor that the graph refers to by an index.
    tensors: Vec<TensorLocation>,
    weights: Checkpoint,
    source: StudentSource,
}

/// Where a student's graph comes from.
#[derive(Debug)]
pub enum StudentSource {
    /// A network of this program.
    Zoo(&'static Architecture),
    /// A file of `torch.export.save`.
    Exported(Box<ExportedNetwork>),
}

/// Where a tensor's elements are.
#[derive(Debug, Clone, Copy)]
enum TensorLocation {
    /// Index of a tensor of the weights.
    Weights(usize),
    /// Index of a constant of the exported network.
    Network(usize),
}

impl Student {
    /// Reads everything but the elements of tensors. `network` is the exported network that the student was trained as;
    /// without it, the student is a network of [`crate::architecture`].
    ///
    /// # Errors
    /// A file cannot be read or is not what it should be, or the two do not belong together.
    pub fn open(weights: &Path, network: Option<&Path>) -> Result<Self> {
        match network {
            Some(path) => Self::of_network(Checkpoint::open_as_written(weights)?, path),
            None => Self::of_zoo(Checkpoint::open(weights)?),
        }
    }

    fn of_network(weights: Checkpoint, path: &Path) -> Result<Self> {
        let mut network = ExportedNetwork::open(path)?;
        if let Some(expected) = weights.metadata().get(NETWORK)
            && !exported::has_sha256(path, expected)?
        {
            return refused(format!(
                "the student was trained as the network with SHA-256 {}, and this one has {} without its stack traces: \
                 give the file that the job used",
                shown(expected),
                exported::sha256(path)?
            ));
        }
        network.fit_classifier(&weights);
        let index: HashMap<&str, usize> =
            weights.tensors().iter().enumerate().map(|(index, tensor)| (tensor.name(), index)).collect();
        let place = |(at, stored): (usize, &StoredTensor)| match stored.role {
            TensorRole::Constant => Ok(TensorLocation::Network(at)),
            TensorRole::Parameter | TensorRole::Buffer => {
                let found = index.get(stored.tensor.name()).copied();
                let fits = found.filter(|&found| agrees(&weights, found, stored));
                fits.map(TensorLocation::Weights).ok_or_else(|| mismatch(&weights, found, stored))
            }
        };
        let tensors = network.tensors().iter().enumerate().map(place).collect::<std::result::Result<Vec<_>, _>>();
        let tensors = match tensors {
            Ok(tensors) => tensors,
            Err(message) => return refused(message),
        };
        if let Some([first, other]) = apart(&weights, &network)? {
            return refused(format!(
                "{first} and {other} are one parameter of the network, and the student has different values for them: \
                 train it again, or give both the values that the model uses"
            ));
        }
        let elements = |index: usize| {
            let stored = &network.tensors()[index];
            let own = weights.get(stored.tensor.name()).filter(|_| stored.role != TensorRole::Constant);
            own.map(|own| weights.bytes(own)).transpose()
        };
        if let Some(fault) = network.graph().fault_of_rows(elements)? {
            return refused(format!("the student does not fit the network: {fault}"));
        }
        let graph = network.graph().clone();
        Ok(Self { graph, tensors, weights, source: StudentSource::Exported(Box::new(network)) })
    }

    fn of_zoo(weights: Checkpoint) -> Result<Self> {
        if weights.metadata().contains_key(NETWORK) {
            return refused(format!(
                "the student was trained as an exported network, whose graph is not in its file: give the .pt2 file with \
                 SHA-256 {} with --network",
                shown(&weights.metadata()[NETWORK])
            ));
        }
        let shapes = weights.shapes();
        let fits = architecture::fits(&shapes);
        let named = weights.metadata().get("architecture");
        let mut fitting = fits.iter().filter(|fit| named.is_none_or(|name| fit.architecture.name == name));
        let (Some(fit), None) = (fitting.next(), fitting.next()) else {
            let fits: Vec<_> = fits.iter().map(|fit| fit.architecture.name).collect();
            return refused(match (named, fits.is_empty()) {
                (Some(name), _) => format!("its metadata names {}, which its tensors do not fit", shown(name)),
                (None, true) => {
                    "its tensors fit no network of GET /v1/architectures: give the exported network (.pt2) \
                                 that it was trained as with --network"
                        .to_owned()
                }
                (None, false) => {
                    format!("its tensors fit {}: name one as `architecture` in its metadata", fits.join(", "))
                }
            });
        };
        let network = fit.architecture;
        let side = Preprocessing::of(weights.metadata()).image_size.unwrap_or(network.input_side);
        let layout = network.layout_at(fit.classes, side);
        if layout.feature_map.contains(&0) {
            return refused(format!("images of {side} pixels are too small for {}", network.name));
        }
        let keys: HashMap<&str, usize> = weights
            .tensors()
            .iter()
            .enumerate()
            .filter_map(|(index, tensor)| Some((network.canonical_key(tensor.name())?, index)))
            .collect();
        let places =
            layout.entries.iter().map(|entry| keys.get(entry.key.as_str()).map(|&at| TensorLocation::Weights(at)));
        let Some(tensors) = places.collect::<Option<Vec<_>>>() else {
            return refused(format!("it lacks tensors of {}", network.name));
        };
        Ok(Self { graph: zoo::graph(&layout), tensors, weights, source: StudentSource::Zoo(network) })
    }

    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    #[must_use]
    pub fn source(&self) -> &StudentSource {
        &self.source
    }

    /// What the file with the weights says beside them.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.weights.metadata()
    }

    /// How images become the network's input.
    #[must_use]
    pub fn preprocessing(&self) -> Preprocessing {
        let preprocessing = Preprocessing::of(self.metadata());
        let side = u32::try_from(self.input()[1]).ok();
        Preprocessing { image_size: preprocessing.image_size.or(side), ..preprocessing }
    }

    /// Writes the weights as safetensors, with the file's metadata.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn write_safetensors(&self, path: &Path) -> Result<()> {
        Ok(self.weights.convert(path)?)
    }

    /// Channels, height and width of an image.
    #[must_use]
    pub fn input(&self) -> [u64; 3] {
        [1, 2, 3].map(|dimension| self.graph.values[self.graph.images].shape[dimension].per_image())
    }

    #[must_use]
    pub fn classes(&self) -> u64 {
        self.graph.values[self.graph.logits].shape[1].per_image()
    }

    /// Number of trained parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        match &self.source {
            StudentSource::Zoo(_) => self.weights.parameters(),
            StudentSource::Exported(network) => network.description().parameters,
        }
    }

    /// The key of a tensor that the graph refers to.
    pub(super) fn key(&self, stored: usize) -> &str {
        match (self.tensors[stored], &self.source) {
            (TensorLocation::Weights(index), _) => self.weights.tensors()[index].name(),
            (TensorLocation::Network(index), StudentSource::Exported(network)) => {
                network.tensors()[index].tensor.name()
            }
            (TensorLocation::Network(_), StudentSource::Zoo(_)) => unreachable!("the zoo's graphs have no constants"),
        }
    }

    /// A tensor's elements in the graph's type, in row-major order and little-endian.
    pub(super) fn bytes(&self, stored: usize, dtype: Dtype) -> Result<Vec<u8>> {
        match (self.tensors[stored], &self.source) {
            (TensorLocation::Weights(index), _) => {
                let tensor = &self.weights.tensors()[index];
                if tensor.dtype() == dtype {
                    return Ok(self.weights.bytes(tensor)?);
                }
                let floats = self.weights.floats(tensor)?;
                Ok(floats.iter().flat_map(|float| float.to_le_bytes()).collect())
            }
            (TensorLocation::Network(index), StudentSource::Exported(network)) => {
                Ok(network.bytes(&network.tensors()[index])?)
            }
            (TensorLocation::Network(_), StudentSource::Zoo(_)) => unreachable!("the zoo's graphs have no constants"),
        }
    }

    /// The elements of a float32 value that is stored.
    pub(super) fn floats(&self, stored: usize) -> Result<Vec<f32>> {
        let bytes = self.bytes(stored, Dtype::F32)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&element| f32::from_le_bytes(element)).collect())
    }

    /// The stored tensor that a value is, with its sizes.
    pub(super) fn stored(&self, value: &Value) -> Option<(usize, Vec<u64>)> {
        match value.origin {
            Origin::Stored(index) => Some((index, value.shape.iter().map(|size| size.per_image()).collect())),
            Origin::Images | Origin::Node(_) => None,
        }
    }
}

/// Two keys of one parameter of a network under which the weights have different elements.
fn apart(weights: &Checkpoint, network: &ExportedNetwork) -> Result<Option<[String; 2]>> {
    let bytes = |stored: &StoredTensor| weights.get(stored.tensor.name()).map(|own| weights.bytes(own)).transpose();
    for stored in network.tensors() {
        let Some(first) = stored.tied_to.map(|first| &network.tensors()[first]) else { continue };
        if bytes(first)? != bytes(stored)? {
            return Ok(Some([first, stored].map(|stored| shown(stored.tensor.name()))));
        }
    }
    Ok(None)
}

/// Whether a tensor of the weights can stand for one of the network. Other floating-point types are converted.
fn agrees(weights: &Checkpoint, index: usize, stored: &StoredTensor) -> bool {
    let (given, wanted) = (&weights.tensors()[index], &stored.tensor);
    let is_same_type = given.dtype() == wanted.dtype() || (wanted.dtype() == Dtype::F32 && given.dtype().is_float());
    given.shape() == wanted.shape() && is_same_type
}

fn mismatch(weights: &Checkpoint, found: Option<usize>, stored: &StoredTensor) -> String {
    let (name, wanted) = (shown(stored.tensor.name()), &stored.tensor);
    match found.map(|index| &weights.tensors()[index]) {
        None => format!("the student lacks {name} of the network: is it the student of this network?"),
        Some(given) => format!(
            "the student's {name} is {:?} of {}, and the network's {:?} of {}: is it the student of this network?",
            given.shape(),
            given.dtype(),
            wanted.shape(),
            wanted.dtype()
        ),
    }
}
