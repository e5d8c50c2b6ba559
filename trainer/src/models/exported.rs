//! Opens exported networks: files of `torch.export.save`, and files of weights for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::fusion::{Purpose, fuse};
use super::head::Head;
use super::lower::{self, Subgraph, is_random};
use super::program::open as open_shape;
use super::source::{Exported, NetworkSource, PooledMap};
use super::state_dict::unreadable;
use super::{Halves, Network, Weight, init};
use crate::error::{Error, Result};
use distillery_core::architecture::Init;
use distillery_core::checkpoint::{self, Checkpoint, Dtype, EXPORTED, NETWORK, Soundness};
use distillery_core::exported::{self, ExportedNetwork, FeatureMap, Graph, NewClassifier, Op, Origin, TensorRole};

/// Opens the file of an exported network, and checks that its weights can be used. Returns what is doubtful about them,
/// too.
///
/// # Errors
/// The file cannot be read, is no exported network, or cannot be used.
pub fn open(path: &Path) -> Result<(ExportedNetwork, Option<String>)> {
    let file = ExportedNetwork::open(path).map_err(|error| unusable(path, &error))?;
    match file.soundness().map_err(|error| unusable(path, &error))? {
        Soundness::Sound => Ok((file, None)),
        Soundness::Doubtful(doubt) => Ok((file, Some(doubt))),
        Soundness::Unsound(unsound) => Err(Error::user(format!("{} {unsound}", path.display()))),
    }
}

/// Refuses to choose among the state dicts of an exported network.
///
/// # Errors
/// One is named.
pub fn refuse_state_dict(path: &Path, named: Option<&str>) -> Result<()> {
    match named {
        None => Ok(()),
        Some(_) => Err(Error::user(format!(
            "{} is an exported network, which has one state dict only: leave out --state-dict",
            path.display()
        ))),
    }
}

/// Converts an error of the reader.
fn unusable(path: &Path, error: &exported::Error) -> Error {
    match error {
        exported::Error::File(error) => unreadable(path, error),
        _ => Error::user(format!("{}: {error}", path.display())),
    }
}

/// Writes the state dict of a file as safetensors, in the form of a trained student's, and returns it.
///
/// # Errors
/// The file cannot be read, or the output cannot be written.
pub fn write_state_dict(path: &Path, file: &ExportedNetwork, output: &Path) -> Result<Checkpoint> {
    let network = exported::sha256(path).map_err(Error::storage(path))?;
    let metadata = [("format", EXPORTED.to_owned()), (NETWORK, network)];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
    file.write_state_dict(output, &metadata).map_err(|error| match error {
        exported::Error::File(checkpoint::Error::Io(error)) => Error::storage(output)(error),
        error => unusable(path, &error),
    })?;
    Checkpoint::open_as_written(output).map_err(|error| unreadable(output, &error))
}

/// Builds the network of a file with the weights in it, on the CPU in float32. Its random numbers follow from seed 0
/// until [`Network::draw_from`].
///
/// # Errors
/// The file cannot be read, or is larger than the memory.
pub fn build(path: &Path, file: &ExportedNetwork) -> Result<Network> {
    let graph = file.graph();
    let parts = Parts::of(graph, file.feature_map())?;
    let halves = |trains| {
        let program = |part| lower::program(graph, part, trains).ok_or_else(|| apart(path));
        let body = fuse(program(parts.body)?, Purpose::Training);
        let head = Head::of(fuse(program(parts.head)?, Purpose::Training));
        Ok::<_, Error>(Arc::new(Halves { body, head }))
    };
    let weights = weights(path, file)?;
    let state = weights.iter().take(file.tensors().len()).zip(file.tensors());
    let state = state.filter(|(_, stored)| stored.role != TensorRole::Constant).count();
    let description = file.description();
    let small = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
    let [_, height, width] = description.input;
    let streams = graph.nodes.iter().filter(|node| is_random(&node.op)).count();
    let exported = Exported {
        name: path.display().to_string(),
        graph: graph.clone(),
        image_size: [small(height), small(width)],
        body: parts.body,
        map: file.feature_map().map(|map| pooled_map(graph, map)),
        streams: u32::try_from(streams).unwrap_or(u32::MAX),
        counters: counters(graph),
    };
    let mut network = Network {
        source: NetworkSource::Exported(Arc::new(exported)),
        classes: small(description.classes),
        training: halves(true)?,
        evaluation: halves(false)?,
        weights,
        state,
        output_order: None,
        noise: None,
        norm_kernel: None,
        kind: Kind::Float,
        compute: Kind::Float,
        frozen: None,
    };
    network.draw_from(0, 0);
    Ok(network)
}

/// Where a graph is cut in two.
struct Parts {
    body: Subgraph,
    head: Subgraph,
}

impl Parts {
    /// After the feature map; without one, before the last layer, which is computed in float32 as other heads are.
    fn of(graph: &Graph, map: Option<&FeatureMap>) -> Result<Self> {
        let (images, logits) = (graph.images, graph.logits);
        if let Some(map) = map {
            let pooled = graph.nodes[map.pooled_by].outputs[0];
            return Ok(Self {
                body: Subgraph { from: images, to: map.value },
                head: Subgraph { from: pooled, to: logits },
            });
        }
        let layers =
            graph.nodes.iter().rev().filter(|node| matches!(node.op, Op::Linear { .. } | Op::Convolution { .. }));
        let mut cuts = layers.map(|node| node.inputs[0]);
        let cut = cuts.next().filter(|&from| lower::program(graph, Subgraph { from, to: logits }, false).is_some());
        let cut = cut.unwrap_or(logits);
        Ok(Self { body: Subgraph { from: images, to: cut }, head: Subgraph { from: cut, to: logits } })
    }
}

fn apart(path: &Path) -> Error {
    Error::internal(format!("{}: the images reach its logits without its feature map", path.display()))
}

fn pooled_map(graph: &Graph, map: &FeatureMap) -> PooledMap {
    let pooled = graph.nodes[map.pooled_by].outputs[0];
    let size = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    PooledMap {
        layout: map.layout,
        shape: [map.channels, map.height, map.width].map(size),
        vectors: open_shape(&graph.values[pooled].shape),
    }
}

/// The counters of batches, by how often a step counts in them.
fn counters(graph: &Graph) -> Vec<(i64, Vec<usize>)> {
    let mut counts: BTreeMap<usize, i64> = BTreeMap::new();
    for node in graph.nodes.iter().filter(|node| matches!(node.op, Op::CountBatch)) {
        let mut origin = graph.values[node.inputs[0]].origin;
        // A layer that is used twice counts twice.
        while let Origin::Node(before) = origin {
            origin = graph.values[graph.nodes[before].inputs[0]].origin;
        }
        if let Origin::Stored(index) = origin {
            *counts.entry(index).or_default() += 1;
        }
    }
    let mut counters: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    counts.into_iter().for_each(|(index, count)| counters.entry(count).or_default().push(index));
    counters.into_iter().collect()
}

/// All tensors of the file, in its order: the state dict, then constants.
fn weights(path: &Path, file: &ExportedNetwork) -> Result<Vec<Weight>> {
    let graph = file.graph();
    let mut is_kernel = vec![false; file.tensors().len()];
    for node in graph.nodes.iter().filter(|node| matches!(node.op, Op::Convolution { .. })) {
        if let Origin::Stored(index) = graph.values[node.inputs[1]].origin {
            is_kernel[file.tensors()[index].tied_to.unwrap_or(index)] = true;
        }
    }
    let weight = |stored: &exported::StoredTensor, is_kernel: bool| -> Result<Weight> {
        let bytes = file.bytes(stored).map_err(|error| unusable(path, &error))?;
        let shape: Vec<i64> =
            stored.tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        let tensor = Tensor::f_from_data_size(&bytes, &shape, super::state_dict::kind(stored.tensor.dtype()))?;
        // Nothing is computed with parameters of other types.
        let is_float = stored.tensor.dtype() == Dtype::F32;
        let trained = is_float && stored.trained;
        Ok::<_, Error>(Weight {
            name: stored.tensor.name().to_owned(),
            tensor: tensor.set_requires_grad(trained),
            trained,
            tied_to: None,
            is_float,
            is_kernel,
        })
    };
    let own = file.tensors().iter().zip(is_kernel);
    let own = own.map(|(stored, is_kernel)| stored.tied_to.is_none().then(|| weight(stored, is_kernel)).transpose());
    let mut weights: Vec<Option<Weight>> = own.collect::<Result<_>>()?;
    for (index, stored) in file.tensors().iter().enumerate() {
        if let Some(first) = stored.tied_to {
            let follows = stored.follows_a_parameter(file.tensors());
            let name = stored.tensor.name();
            weights[index] = weights[first].as_ref().map(|weight| weight.under(name, first, follows));
        }
    }
    Ok(weights.into_iter().flatten().collect())
}

/// Gives a new classifier its initial weights, which are those of PyTorch and of the zoo's classifiers: uniform in
/// ±1/√inputs.
pub fn initialise(network: &Network, new: &NewClassifier, seed: u64) {
    let sizes = |index: usize| -> Vec<u64> {
        network.weights()[index].tensor.size().into_iter().map(i64::unsigned_abs).collect()
    };
    // The weight is the first.
    let fan_in = new.tensors.first().map_or(1, |&weight| sizes(weight)[1..].iter().product());
    for &index in &new.tensors {
        network.set(index, &init::values(&sizes(index), Init::Default { fan_in }, index as u64, seed));
    }
}

/// Opens a file with an exported network's state dict, such as a trained student's. If the student was trained with a
/// new classifier, `network` gets one like it.
///
/// # Errors
/// The file cannot be read.
pub fn open_weights(path: &Path, network: &mut ExportedNetwork) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open_as_written(path).map_err(|error| unreadable(path, &error))?;
    network.fit_classifier(&checkpoint);
    Ok(checkpoint)
}

/// Copies weights from a file that [`open_weights`] opened, but for the tensors with the indices `kept`: those of a new
/// classifier. Returns the notes of the file, and what is doubtful about the weights.
///
/// # Errors
/// The file cannot be read, its keys, shapes or element types are not the network's, it names rows that tables do not
/// have, or its weights make every output NaN.
pub fn load(network: &Network, checkpoint: &Checkpoint, path: &Path, kept: &[usize]) -> Result<Vec<String>> {
    let mismatch = |what: String| {
        Error::user(format!(
            "checkpoint {} does not fit the exported network {}: {what}",
            path.display(),
            network.name()
        ))
    };
    if checkpoint.tensors().len() != network.weights().len() {
        let (found, wanted) = (checkpoint.tensors().len(), network.weights().len());
        return Err(mismatch(format!("it has {found} tensors, expected {wanted}")));
    }
    let variances = network.source.exported().map(|exported| exported.graph.variances()).unwrap_or_default();
    let mut doubt = None;
    for (index, weight) in network.weights().iter().enumerate().filter(|(index, _)| !kept.contains(index)) {
        let stored = checkpoint.get(&weight.name).ok_or_else(|| mismatch(format!("{} is missing", weight.name)))?;
        let shape: Vec<i64> = stored.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        let kind = super::state_dict::kind(stored.dtype());
        if shape != weight.tensor.size() || kind != weight.tensor.kind() {
            let (wanted, of) = (weight.tensor.size(), weight.tensor.kind());
            return Err(mismatch(format!("{} is {shape:?} of {kind:?}, expected {wanted:?} of {of:?}", weight.name)));
        }
        if weight.is_float {
            let soundness = checkpoint.soundness_of(stored, variances.contains(&index));
            match soundness.map_err(|error| unreadable(path, &error))? {
                Soundness::Sound => {}
                Soundness::Doubtful(what) => doubt = doubt.or(Some(what)),
                Soundness::Unsound(what) => {
                    return Err(Error::user(format!("checkpoint {} {what}", path.display())));
                }
            }
        }
        let bytes = checkpoint.bytes(stored).map_err(|error| unreadable(path, &error))?;
        if let Some(first) = weight.tied_to {
            let first = &network.weights()[first].name;
            let other = checkpoint.get(first).map(|first| checkpoint.bytes(first)).transpose();
            if other.map_err(|error| unreadable(path, &error))?.as_ref() != Some(&bytes) {
                return Err(mismatch(format!(
                    "{first} and {} are one parameter, and have different values: give both the one that the model uses",
                    weight.name
                )));
            }
            continue;
        }
        network.set(index, &Tensor::f_from_data_size(&bytes, &shape, kind)?);
    }
    let elements = |index: usize| {
        let stored = network.weights().get(index).and_then(|weight| checkpoint.get(&weight.name));
        stored.map(|stored| checkpoint.bytes(stored)).transpose()
    };
    let fault = network.source.exported().map(|exported| exported.graph.fault_of_rows(elements)).transpose();
    if let Some(fault) = fault.map_err(|error| unreadable(path, &error))?.flatten() {
        return Err(mismatch(fault));
    }
    Ok(checkpoint.notes().iter().cloned().chain(doubt).collect())
}
