//! Collects the nodes and tensors of an ONNX graph, and gives everything a name.

use std::collections::{HashMap, HashSet};

use super::initializer::{Elements, Initializer};
use super::plan::QuantisationPlan;
use super::proto::{AttributeProto, DataType, NodeProto};
use super::{INPUT, Numbers, OUTPUT};
use crate::dataset::MeanStd;
use crate::export::evaluation::EvaluatedGraph;
use crate::export::{Result, Student, int8, refused};
use crate::exported::{Graph, Node, Size, ValueId};

/// Most elements of a tensor that is computed here, so that a small file cannot ask for a large one.
const MOST_ELEMENTS: u64 = 1 << 22;

pub(super) struct OnnxBuilder<'a> {
    pub(super) student: &'a Student,
    pub(super) graph: &'a Graph,
    pub(super) evaluation: EvaluatedGraph,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) initializers: Vec<Initializer>,
    /// Outputs beside the logits.
    pub(super) observed: Vec<String>,
    /// What int8 replaces.
    pub(super) plan: Option<QuantisationPlan<'a>>,
    /// Values whose extremes are outputs.
    watched: HashSet<ValueId>,
    /// Names that are taken, with the number that the next one like it gets.
    names: HashMap<String, u32>,
    /// The name of each value that has been computed.
    values: Vec<Option<String>>,
    /// Names of small tensors by their type, sizes and elements.
    constants: HashMap<(i32, Vec<u64>, Vec<u8>), String>,
}

impl<'a> OnnxBuilder<'a> {
    pub(super) fn new(student: &'a Student, numbers: Numbers<'a>) -> Self {
        let graph = student.graph();
        let watched =
            if let Numbers::Observed(values) = numbers { values.iter().copied().collect() } else { HashSet::new() };
        let plan =
            if let Numbers::Int8(ranges) = numbers { Some(QuantisationPlan::new(student, ranges)) } else { None };
        Self {
            student,
            graph,
            evaluation: EvaluatedGraph::of(graph),
            nodes: Vec::new(),
            initializers: Vec::new(),
            observed: Vec::new(),
            plan,
            watched,
            names: [INPUT, OUTPUT].map(|name| (name.to_owned(), 2)).into(),
            values: vec![None; graph.values.len()],
            constants: HashMap::new(),
        }
    }

    /// Defines the images, which the graph normalises if it is to.
    pub(super) fn images(&mut self, normalisation: Option<MeanStd>) -> Result<()> {
        let mut name = INPUT.to_owned();
        if let Some(MeanStd { mean, std }) = normalisation {
            let channels = |values: [f64; 3]| values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
            let mean = self.constant("mean", DataType::Float, &[3, 1, 1], channels(mean));
            let std = self.constant("std", DataType::Float, &[3, 1, 1], channels(std));
            let centred = self.step("normalise", "Sub", vec![name, mean], Vec::new());
            name = self.step("normalise", "Div", vec![centred, std], Vec::new());
        }
        self.define(self.graph.images, name)
    }

    /// Writes every node that the logits depend on.
    pub(super) fn graph(&mut self) -> Result<()> {
        let graph = self.graph;
        for (index, node) in graph.nodes.iter().enumerate() {
            if self.evaluation.needed[index] && self.is_new(node) && !self.quantised_layer(index, node)? {
                self.operation(node)?;
            }
        }
        let logits = self.name(graph.logits)?;
        if logits != OUTPUT {
            self.add("Identity", vec![logits], vec![OUTPUT.to_owned()], Vec::new());
        }
        Ok(())
    }

    /// Whether a node computes something that nothing before it has computed.
    fn is_new(&self, node: &Node) -> bool {
        let known = |&output: &ValueId| self.evaluation.root(output) != output || self.evaluation.is_one(output);
        !node.outputs.iter().all(known)
    }

    /// A name that nothing else has.
    fn unique(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while let Some(number) = self.names.get(&name) {
            name = format!("{wanted}_{number}");
            *self.names.get_mut(wanted).expect("it was taken before") += 1;
        }
        self.names.insert(name.clone(), 2);
        name
    }

    fn add(&mut self, op_type: &str, input: Vec<String>, output: Vec<String>, attribute: Vec<AttributeProto>) {
        // Names of nodes and of tensors are independent in ONNX.
        let name = output[0].clone();
        self.nodes.push(NodeProto { input, output, name, op_type: op_type.to_owned(), attribute });
    }

    /// Adds a node whose result is part of what `base` computes, and returns the result's name.
    pub(super) fn step(
        &mut self,
        base: &str,
        op_type: &str,
        inputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = self.unique(&format!("{base}/{op_type}"));
        self.add(op_type, inputs, vec![output.clone()], attributes);
        output
    }

    /// Adds the node that computes the results of an operation.
    pub(super) fn result(
        &mut self,
        node: &Node,
        op_type: &str,
        inputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) -> Result<()> {
        let names: Vec<String> = node.outputs.iter().map(|&value| self.name_for(node, value)).collect();
        self.add(op_type, inputs, names.clone(), attributes);
        node.outputs.iter().zip(names).try_for_each(|(&value, name)| self.define(value, name))
    }

    /// The name for a result of a node.
    fn name_for(&mut self, node: &Node, value: ValueId) -> String {
        if value == self.evaluation.root(self.graph.logits) { OUTPUT.to_owned() } else { self.unique(&node.name) }
    }

    /// Says under which name a value is, and what int8 adds to it.
    pub(super) fn define(&mut self, value: ValueId, name: String) -> Result<()> {
        if self.watched.contains(&value) {
            for (op_type, output) in ["ReduceMin", "ReduceMax"].into_iter().zip(int8::outputs(value)) {
                let output = self.unique(&output);
                self.add(op_type, vec![name.clone()], vec![output.clone()], vec![AttributeProto::int("keepdims", 0)]);
                self.observed.push(output);
            }
        }
        let name = self.quantised_value(value, name)?;
        self.values[value] = Some(name);
        Ok(())
    }

    /// The name of a value: of a tensor of the student, or of a result.
    pub(super) fn name(&mut self, value: ValueId) -> Result<String> {
        let value = self.evaluation.root(value);
        if let Some(name) = &self.values[value] {
            return Ok(name.clone());
        }
        if self.evaluation.is_one(value) {
            return Ok(self.float(1.0));
        }
        let described = &self.graph.values[value];
        let Some((index, dims)) = self.student.stored(described) else {
            return refused(
                "the network uses a value of stochastic depth for something else, which has no form in ONNX",
            );
        };
        let name = self.unique(self.student.key(index));
        let (data_type, elements) = (described.dtype.into(), Elements::Stored(index, described.dtype));
        self.initializers.push(Initializer { name: name.clone(), dims, data_type, elements });
        self.values[value] = Some(name.clone());
        Ok(name)
    }

    pub(super) fn names(&mut self, values: &[ValueId]) -> Result<Vec<String>> {
        values.iter().map(|&value| self.name(value)).collect()
    }

    pub(super) fn initializer(&mut self, initializer: Initializer) -> String {
        let name = self.unique(&initializer.name);
        self.initializers.push(Initializer { name: name.clone(), ..initializer });
        name
    }

    /// A matrix with rows and columns swapped: of the student if it is stored, else computed.
    pub(super) fn transposed(&mut self, base: &str, value: ValueId) -> Result<String> {
        let described = &self.graph.values[self.evaluation.root(value)];
        if let Some((index, dims)) = self.student.stored(described) {
            let name = format!("{}/transposed", self.student.key(index));
            let dims = vec![dims[1], dims[0]];
            let elements = Elements::Transposed(index);
            return Ok(self.initializer(Initializer { name, dims, data_type: DataType::Float, elements }));
        }
        let name = self.name(value)?;
        Ok(self.step(base, "Transpose", vec![name], vec![AttributeProto::ints("perm", vec![1, 0])]))
    }

    /// A small tensor. Equal ones are written once.
    pub(super) fn constant(&mut self, name: &str, data_type: DataType, dims: &[u64], bytes: Vec<u8>) -> String {
        let key = (data_type as i32, dims.to_vec(), bytes);
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let elements = Elements::Bytes(key.2.clone());
        let name = name.to_owned();
        let name = self.initializer(Initializer { name, dims: dims.to_vec(), data_type, elements });
        self.constants.insert(key, name.clone());
        name
    }

    /// A float32 number.
    pub(super) fn float(&mut self, value: f64) -> String {
        self.constant("number", DataType::Float, &[], (value as f32).to_le_bytes().to_vec())
    }

    /// A matrix of float32 numbers.
    pub(super) fn matrix(&mut self, rows: u64, columns: u64, element: impl Fn(u64, u64) -> f32) -> Result<String> {
        let bytes = matrix(rows, columns, |row, column| element(row, column).to_le_bytes())?;
        Ok(self.constant("averages", DataType::Float, &[rows, columns], bytes))
    }

    /// A matrix of integers.
    pub(super) fn integers(&mut self, rows: u64, columns: u64, element: impl Fn(u64, u64) -> u64) -> Result<String> {
        let bytes = matrix(rows, columns, |row, column| signed(element(row, column)).to_le_bytes())?;
        Ok(self.constant("windows", DataType::Int64, &[rows, columns], bytes))
    }

    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant("numbers", DataType::Int64, &[values.len() as u64], bytes)
    }

    /// One integer, without dimensions.
    pub(super) fn int(&mut self, value: i64) -> String {
        self.constant("index", DataType::Int64, &[], value.to_le_bytes().to_vec())
    }

    /// A shape that may have multiples of the batch size in any number of places.
    pub(super) fn shape(&mut self, base: &str, shape: &[Size]) -> String {
        if shape.iter().all(|size| size.fixed().is_some()) {
            let sizes: Vec<i64> = shape.iter().map(|size| signed(size.per_image())).collect();
            return self.ints(&sizes);
        }
        let ends = vec![AttributeProto::int("start", 0), AttributeProto::int("end", 1)];
        let batch = self.step(base, "Shape", vec![INPUT.to_owned()], ends);
        let mut parts = Vec::new();
        for size in shape {
            parts.push(match *size {
                Size::Fixed(size) => self.ints(&[signed(size)]),
                Size::Batch(1) => batch.clone(),
                Size::Batch(times) => {
                    let times = self.ints(&[signed(times)]);
                    self.step(base, "Mul", vec![batch.clone(), times], Vec::new())
                }
            });
        }
        self.step(base, "Concat", parts, vec![AttributeProto::int("axis", 0)])
    }

    pub(super) fn sizes(&self, value: ValueId) -> &'a [Size] {
        let graph: &'a Graph = self.graph;
        &graph.values[value].shape
    }
}

/// A size as ONNX has it. Sizes that do not fit belong to values that no machine can hold.
pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The bytes of a matrix, row by row.
fn matrix<const N: usize>(rows: u64, columns: u64, element: impl Fn(u64, u64) -> [u8; N]) -> Result<Vec<u8>> {
    if rows.checked_mul(columns).is_none_or(|elements| elements > MOST_ELEMENTS) {
        return refused(format!("the network pools {columns} positions to {rows}, which is too large to export"));
    }
    let elements = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    Ok(elements.flat_map(|(row, column)| element(row, column)).collect())
}
