//! ONNX files.
//!
//! The graph computes what the network computes in evaluation: batch norms use their running statistics, dropout and
//! stochastic depth do nothing. Operators are those of opset 17, which ONNX Runtime reads since 1.12 (2022), and
//! TensorRT and OpenVINO since soon after. Everything is in one file; weights are read one tensor at a time.

mod attention;
mod builder;
mod functions;
mod initializer;
mod normalise;
mod operators;
mod plan;
mod pool;
pub mod proto;
mod quantise;

use std::collections::BTreeMap;
use std::io::Write;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::preprocessing::class_names;
use super::{Result, Student, StudentSource, refused};
use crate::exported::ValueId;
use builder::OnnxBuilder;
use initializer::{Initializer, field};
use proto::{
    DataType, DimensionProto, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The version of ONNX's operators.
pub const OPSET: i64 = 17;
/// The version of the file format that belongs to that opset.
const IR_VERSION: i64 = 8;
/// Name of the input: images [batch, 3, height, width], float32.
pub const INPUT: &str = "images";
/// Name of the output: logits [batch, classes], float32.
pub const OUTPUT: &str = "logits";
/// The field of a model's graph.
const GRAPH: u32 = 7;
/// Readers refuse larger files.
const LARGEST: u64 = i32::MAX as u64;

/// What to write beside the network.
#[derive(Debug, Clone, Default)]
pub struct Options<'a> {
    /// Whether the graph normalises its input, which is then RGB pixels in [0, 1].
    pub preprocess: bool,
    /// More entries of `metadata_props`.
    pub metadata: BTreeMap<String, String>,
    pub numbers: Numbers<'a>,
}

/// The numbers in which the network computes.
#[derive(Debug, Clone, Copy, Default)]
pub enum Numbers<'a> {
    #[default]
    Float32,
    /// As float32, with more outputs: the smallest and the largest element of each value that int8 quantises, named as
    /// by [`outputs`](super::int8::outputs).
    Observed(&'a [ValueId]),
    /// Weights and activations as int8, with these ranges of the activations.
    Int8(&'a super::int8::Ranges),
}

/// Writes an ONNX file. Equal students give equal bytes.
///
/// # Errors
/// The student has something that ONNX cannot express, the file would be larger than 2 GiB, or a file cannot be read
/// or written.
pub fn write(student: &Student, options: &Options<'_>, output: &mut impl Write) -> Result<()> {
    let model = OnnxModel::new(student, options)?;
    let mut head = model.head.encode_to_vec();
    let graph = model.graph.encode_to_vec();
    let tensors = model.initializers.iter().try_fold(0_u64, |sum, tensor| sum.checked_add(tensor.size()?));
    let length = tensors.and_then(|tensors| tensors.checked_add(graph.len() as u64));
    let whole = length.and_then(|length| length.checked_add(head.len() as u64 + field(GRAPH, length)));
    let Some(length) = length.filter(|_| whole.is_some_and(|whole| whole <= LARGEST)) else {
        return refused(format!(
            "the student does not fit into an ONNX file, which has 2 GiB at most: its weights have {} bytes; take it as \
             safetensors or .pt2",
            tensors.map_or("too many".to_owned(), |tensors| tensors.to_string())
        ));
    };
    encode_key(GRAPH, WireType::LengthDelimited, &mut head);
    encode_varint(length, &mut head);
    output.write_all(&head)?;
    output.write_all(&graph)?;
    for initializer in &model.initializers {
        initializer.write(student, output)?;
    }
    output.flush()?;
    Ok(())
}

/// A file before its tensors are read.
struct OnnxModel {
    /// Everything but the graph.
    head: ModelProto,
    /// Without tensors.
    graph: GraphProto,
    initializers: Vec<Initializer>,
}

impl OnnxModel {
    fn new(student: &Student, options: &Options<'_>) -> Result<Self> {
        let normalisation = match (options.preprocess, student.preprocessing().normalisation()) {
            (false, _) => None,
            (true, Some(normalisation)) => Some(normalisation),
            (true, None) => {
                return refused(
                    "the student's file names no mean and std, so that they cannot be part of the graph: leave out \
                     preprocess",
                );
            }
        };
        let mut builder = OnnxBuilder::new(student, options.numbers);
        builder.images(normalisation)?;
        builder.graph()?;
        let OnnxBuilder { nodes, initializers, observed, .. } = builder;
        let [_, height, width] = student.input().map(number);
        let input = tensor(INPUT, &[None, Some(3), Some(height), Some(width)]);
        let logits = tensor(OUTPUT, &[None, Some(number(student.classes()))]);
        let output = std::iter::once(logits).chain(observed.iter().map(|name| tensor(name, &[]))).collect();
        let graph =
            GraphProto { node: nodes, name: "student".to_owned(), initializer: Vec::new(), input: vec![input], output };
        let properties = metadata(student, options).into_iter();
        let head = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "distillery".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            doc_string: String::new(),
            graph: None,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: properties.map(|(key, value)| StringStringEntryProto { key, value }).collect(),
        };
        Ok(Self { head, graph, initializers })
    }
}

fn number(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A float32 tensor of the interface; `None` is the batch size.
fn tensor(name: &str, shape: &[Option<i64>]) -> ValueInfoProto {
    let dimension = |size: &Option<i64>| match size {
        Some(size) => DimensionProto { dim_value: Some(*size), dim_param: None },
        None => DimensionProto { dim_value: None, dim_param: Some("batch".to_owned()) },
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dimension).collect() };
    let tensor = TensorTypeProto { elem_type: DataType::Float as i32, shape: Some(shape) };
    ValueInfoProto { name: name.to_owned(), kind: Some(TypeProto { tensor_type: Some(tensor) }) }
}

/// What the file says beside the graph: the student's own metadata, and how its input is made.
fn metadata(student: &Student, options: &Options<'_>) -> BTreeMap<String, String> {
    let mut metadata = student.metadata().clone();
    // It names the format of the weights' file.
    metadata.remove("format");
    let classes = student.classes();
    metadata.insert("num_classes".to_owned(), classes.to_string());
    if class_names(&metadata, classes).is_none() {
        metadata.remove("classes");
    }
    if let StudentSource::Zoo(network) = student.source() {
        metadata.insert("architecture".to_owned(), network.name.to_owned());
    }
    let input = match (options.preprocess, student.preprocessing().normalisation()) {
        (true, _) => "RGB pixels in [0, 1]",
        (false, Some(_)) => "RGB pixels in [0, 1], minus mean, divided by std, per channel",
        (false, None) => "RGB pixels, normalised as for training",
    };
    metadata.insert("input".to_owned(), input.to_owned());
    let steps = student.preprocessing().steps();
    let before = if options.preprocess {
        steps.iter().filter(|step| !step.starts_with("subtract")).count()
    } else {
        steps.len()
    };
    metadata.insert("preprocessing".to_owned(), steps[..before].join("; "));
    let numbers = match options.numbers {
        Numbers::Float32 | Numbers::Observed(_) => "float32",
        Numbers::Int8(_) => "int8",
    };
    metadata.insert("numbers".to_owned(), numbers.to_owned());
    metadata.extend(options.metadata.clone());
    metadata
}
