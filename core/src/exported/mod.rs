//! Reads networks that `torch.export.save` wrote (`.pt2`, schema 8), without libtorch.
//!
//! Such a file has a network's graph beside its weights. It can come from anybody and is not trusted: it is read as
//! data, and describes nothing but operators of a fixed list ([`Op`]). Sizes are limited before memory is allocated,
//! and the shape of every value is inferred here and must be the one that PyTorch recorded. What is wrong with a
//! network is collected in [`NetworkFaults`].

mod advice;
pub(crate) mod archive;
mod arguments;
mod builder;
mod classifier;
mod comparisons;
mod constants;
mod describe;
mod einsum;
mod error;
mod folding;
mod functions;
mod graph;
mod head;
mod inline;
mod layers;
mod lists;
mod lowering;
mod matrices;
mod memory;
mod new_classifier;
mod op;
mod operators;
mod places;
mod plans;
mod pooling;
mod precision;
mod products;
mod remarks;
mod resampling;
mod reshapes;
mod resizing;
mod rows;
mod rules;
mod schema;
mod scope;
mod signature;
mod size;
mod stored;
mod strip;
mod subject;
mod sums;
mod symbols;
mod tensors;
mod ties;
mod window_rules;

use std::collections::BTreeMap;
use std::path::Path;

pub use classifier::ClassifierCost;
pub use describe::{Description, HeadDescription, MapDescription};
pub use error::{Error, NetworkFault, NetworkFaults};
pub use graph::{Graph, Node, Origin, Value, ValueId};
pub use head::{FeatureMap, MapLayout};
pub use memory::MemoryDescription;
pub use new_classifier::NewClassifier;
pub(crate) use new_classifier::Resized;
pub use op::{Activation, Arithmetic, Comparison, Op, Operand, Window, makes_up_for};
pub use size::Size;
pub use stored::{StoredTensor, TensorRole};
pub use strip::{TRACES_REMOVED, has_sha256, sha256, strip_traces};
pub use subject::Mode;

use crate::byte_source::ByteSource;
use crate::checkpoint::error::shown;
use crate::checkpoint::tensor;
use crate::checkpoint::{Soundness, open_regular, write_each};
use archive::NetworkArchive;
use classifier::SizeChange;
use describe::Described;
use error::Result;
use head::Classifier;
use schema::{Bounds, ProgramRecord, SchemaVersion, Versioned};
use subject::DescriptionInput;
use tensors::Tensors;

/// The version of the schema that is read. A new major version means something else.
const SCHEMA: u64 = 8;

/// The files in an archive that may name the classes.
const CLASS_NAMES: [&str; 2] = ["extra/classes.json", "extra/classes"];

pub use crate::snippets::HOW_TO_EXPORT;

/// A network on disk. Elements of tensors are read on demand.
#[derive(Debug)]
pub struct ExportedNetwork {
    source: ByteSource,
    graph: Graph,
    tensors: Vec<StoredTensor>,
    feature_map: Option<FeatureMap>,
    classifier: Option<Classifier>,
    description: Description,
    /// What a new classifier changes in the file's program.
    changes: Vec<SizeChange>,
}

/// Whether a file is meant for [`ExportedNetwork`] rather than for [`Checkpoint`](crate::checkpoint::Checkpoint): an
/// archive with a program, damaged or not. Files that are neither, or cannot be read, are not.
#[must_use]
pub fn is_exported(path: &Path) -> bool {
    let Ok(source) = open_regular(path) else { return false };
    match NetworkArchive::open(&source) {
        Ok(_) | Err(Error::Version(_)) => true,
        Err(_) if archive::names_program(&source) => true,
        // An archive without a directory may be of either kind, so the name decides.
        Err(_) => path.extension().is_some_and(|extension| extension == "pt2"),
    }
}

impl ExportedNetwork {
    /// Reads and checks everything but what the elements of tensors are. All bytes are compared with the checksums that
    /// the archive names.
    ///
    /// # Errors
    /// The file is not an exported network, is damaged or hostile, has operators that are not supported, or cannot be
    /// read.
    pub fn open(path: &Path) -> std::result::Result<Self, Error> {
        Self::new(open_regular(path)?)
    }

    /// Like [`ExportedNetwork::open`], for a file in memory.
    ///
    /// # Errors
    /// As for [`ExportedNetwork::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> std::result::Result<Self, Error> {
        Self::new(ByteSource::Memory(bytes))
    }

    fn new(source: ByteSource) -> Result<Self> {
        let archive = NetworkArchive::open(&source)?;
        let read = read(&archive, &source);
        // Bytes that have changed are why something else is wrong with them.
        archive.check()?;
        let Understood { graph, tensors, described } = read?;
        drop(archive);
        let Described { description, feature_map, classifier } = described;
        Ok(Self { graph, tensors, feature_map, classifier, description, changes: Vec::new(), source })
    }

    /// The mode of another program for the same tensors: a copy of its own with changes, which is checked as one from
    /// outside.
    pub(crate) fn mode_with(&self, program: &[u8]) -> Result<Mode> {
        let Versioned { schema_version: schema } = archive::parsed(archive::PROGRAM, program)?;
        let understood =
            understand(&self.archive()?, &self.source, schema, || archive::parsed(archive::PROGRAM, program))?;
        Ok(understood.described.description.mode)
    }

    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Parameters, buffers and constants, in the file's order.
    #[must_use]
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    #[must_use]
    pub fn feature_map(&self) -> Option<&FeatureMap> {
        self.feature_map.as_ref()
    }

    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Whether the network can compute with its weights. Reads the whole state dict.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn soundness(&self) -> std::result::Result<Soundness, Error> {
        let variances = self.graph.variances();
        let mut doubt = None;
        let state = self.tensors.iter().enumerate().filter(|(_, stored)| stored.role != TensorRole::Constant);
        for (index, stored) in state.filter(|(_, stored)| stored.tensor.dtype().is_float()) {
            match stored.tensor.soundness(&self.source, variances.contains(&index))? {
                Soundness::Sound => {}
                Soundness::Doubtful(what) => doubt = doubt.or(Some(what)),
                unsound @ Soundness::Unsound(_) => return Ok(unsound),
            }
        }
        Ok(doubt.map_or(Soundness::Sound, Soundness::Doubtful))
    }

    /// A tensor's elements in its own type, in row-major order and little-endian.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bytes(&self, stored: &StoredTensor) -> std::result::Result<Vec<u8>, Error> {
        Ok(stored.tensor.bytes(&self.source)?)
    }

    /// Writes the state dict as safetensors, with the file's keys and element types.
    ///
    /// # Errors
    /// The file cannot be read, or the output cannot be written.
    pub fn write_state_dict(
        &self,
        output: &Path,
        metadata: &BTreeMap<String, String>,
    ) -> std::result::Result<(), Error> {
        let state = self.tensors.iter().filter(|stored| stored.role != TensorRole::Constant);
        let state: Vec<&tensor::Tensor> = state.map(|stored| &stored.tensor).collect();
        let plan: Vec<_> = state.iter().map(|tensor| (tensor.name(), tensor.dtype(), tensor.shape())).collect();
        Ok(write_each(output, &plan, metadata, |index| state[index].bytes(&self.source))?)
    }

    /// The names of the network's classes, in the order of its outputs, if the file has them: a JSON list that
    /// `torch.export.save` was given among its `extra_files` as `classes.json` or `classes`.
    ///
    /// # Errors
    /// There is such a file, and it is no list of names.
    pub fn class_names(&self) -> std::result::Result<Option<Vec<String>>, Error> {
        let archive = self.archive()?;
        let Some(name) = CLASS_NAMES.into_iter().find(|name| archive.range(name).is_some()) else { return Ok(None) };
        let names: Vec<String> = serde_json::from_slice(&archive.document(name)?).map_err(|error| {
            archive::damaged(format!("{name} is no JSON list of names ({})", shown(&error.to_string())))
        })?;
        Ok(Some(names))
    }

    /// The archive, of which everything that this reader knows has been checked.
    pub(crate) fn archive(&self) -> Result<NetworkArchive<'_>> {
        NetworkArchive::open(&self.source)
    }

    /// A tensor's elements converted to single precision, in row-major order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn floats(&self, stored: &StoredTensor) -> std::result::Result<Vec<f32>, Error> {
        Ok(tensor::to_f32(stored.tensor.dtype(), &self.bytes(stored)?))
    }
}

fn read(archive: &NetworkArchive<'_>, source: &ByteSource) -> Result<Understood> {
    if let Some(other) = archive.word("archive_format")?.filter(|format| format != "pt2") {
        return Err(Error::NotExported(format!("its archive has the format {}", shown(&other))));
    }
    let Versioned { schema_version: schema } = archive.program()?;
    if schema.major != SCHEMA {
        return Err(Error::Version(format!("schema {}.{}", schema.major, schema.minor)));
    }
    understand(archive, source, schema, || archive.program())
}

/// What a program is read as.
struct Understood {
    graph: Graph,
    tensors: Vec<StoredTensor>,
    described: Described,
}

fn understand(
    archive: &NetworkArchive<'_>,
    source: &ByteSource,
    schema: SchemaVersion,
    program: impl FnOnce() -> Result<ProgramRecord>,
) -> Result<Understood> {
    let mut faults = NetworkFaults::default();
    // Before the program, so that only one of the documents is in memory at a time.
    let mut tensors = Tensors::read(archive, source, &mut faults)?;
    let program = program()?;
    let bounds = program.range_constraints;
    let built = builder::build(program.graph_module, &tensors, source, &mut faults);
    faults.none_or(())?;
    let graph = built.graph.ok_or_else(|| archive::damaged("its program has no images or no logits"))?;
    tensors.list.extend(built.constants);
    let batch = bounds.0.iter().find(|(symbol, _)| Some(symbol) == built.batch.as_ref());
    let batch = batch.map_or(Bounds { min_val: None, max_val: None }, |(_, bounds)| *bounds);
    let torch = program.torch_version.as_deref();
    let subject = DescriptionInput { graph: &graph, tensors: &tensors.list, schema, torch, batch };
    let mut described = describe::describe(&subject);
    described.description.student_warnings.extend(ties::alike(archive, source, &tensors.list)?);
    Ok(Understood { graph, tensors: tensors.list, described })
}
