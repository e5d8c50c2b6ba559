//! Makes a graph of a program: finds what each name stands for, and checks every shape.

use std::collections::{BTreeMap, HashMap};

use super::arguments::{Arguments, MOST_DIMENSIONS, Outcome};
use super::error::Faults;
use super::graph::{Graph, Node, Origin, Value, ValueId};
use super::op::Op;
use super::operators;
use super::rules;
use super::schema::{self, Argument, SizeArgument, SizeMeta, TensorMeta};
use super::scope::{FOLLOWS, Memory, Scope};
use super::size::{Size, product, shown_shape};
use super::symbols;
use super::tensors::{TensorRole, Tensors, dtype};
use crate::checkpoint::error::shown;

/// Most nodes of a network.
pub(super) const MOST_NODES: usize = 20_000;
/// Most elements of a value, per image.
const MOST_ELEMENTS: u64 = 1 << 32;
/// Nodes that a fault names.
const MOST_NAMED: usize = 3;

/// What a program is made into, as far as it could be.
pub(super) struct Built {
    pub(super) graph: Option<Graph>,
    /// The symbol of the batch size.
    pub(super) batch: Option<String>,
}

pub(super) struct Builder<'a> {
    pub(super) tensors: &'a Tensors,
    pub(super) faults: &'a mut Faults,
    pub(super) scope: Scope,
    /// What PyTorch recorded of each value.
    pub(super) recorded: HashMap<String, TensorMeta>,
    recorded_sizes: HashMap<String, SizeMeta>,
    pub(super) batch: Option<String>,
    nodes: Vec<Node>,
    /// Operators that are not supported, and where they are.
    unsupported: BTreeMap<String, Vec<String>>,
}

/// Reads a program. What is wrong with it is added to `faults`; a graph made with faults must not be used.
pub(super) fn build(program: schema::GraphModule, tensors: &Tensors, faults: &mut Faults) -> Built {
    let schema::GraphModule { graph, signature } = program;
    let mut builder = Builder {
        tensors,
        faults,
        scope: Scope::default(),
        recorded: graph.tensor_values.0.into_iter().collect(),
        recorded_sizes: graph.sym_int_values.0.into_iter().collect(),
        batch: None,
        nodes: Vec::new(),
        unsupported: BTreeMap::new(),
    };
    if !graph.custom_obj_values.0.is_empty() {
        builder.faults.add("graph", "uses objects of user-defined classes, which are not supported");
    }
    let images = builder.images(&signature.input_specs);
    builder.inputs(&signature.input_specs, &graph.inputs);
    if graph.nodes.len() > MOST_NODES {
        let message = format!("has {} nodes, and {MOST_NODES} are read at most", graph.nodes.len());
        builder.faults.add("graph", message);
    } else {
        graph.nodes.iter().for_each(|node| builder.node(node));
    }
    let logits = builder.logits(&signature.output_specs, &graph.outputs);
    builder.finish(images, logits)
}

impl Builder<'_> {
    /// A recorded tensor as a value.
    pub(super) fn recorded_value(&self, meta: &TensorMeta, origin: Origin) -> Outcome<Value> {
        if meta.sizes.len() > MOST_DIMENSIONS {
            return Err(format!("has {} dimensions, and {MOST_DIMENSIONS} are read at most", meta.sizes.len()));
        }
        let shape = meta.sizes.iter().map(|size| self.recorded_size(size)).collect::<Outcome<Vec<_>>>()?;
        let is_small = product(&shape).is_some_and(|elements| (1..=MOST_ELEMENTS).contains(&elements.per_image()));
        if !is_small {
            return Err(format!("has no elements or too many: {}", shown_shape(&shape)));
        }
        Ok(Value { dtype: dtype(meta)?, shape, origin })
    }

    fn recorded_size(&self, size: &SizeMeta) -> Outcome<Size> {
        match size {
            SizeMeta::Int(size) => u64::try_from(*size).map(Size::Fixed).map_err(|_| "has a negative size".to_owned()),
            SizeMeta::Expression(expression) => {
                let size = self.batch.as_deref().and_then(|batch| Size::of_expression(&expression.expr_str, batch));
                size.ok_or_else(|| {
                    "has a size that is no multiple of the batch size, and nothing else may be left open".to_owned()
                })
            }
        }
    }

    /// Compares a value with what PyTorch recorded of it.
    pub(super) fn compare(&self, name: &str, value: &Value) -> Outcome<()> {
        let meta = self.recorded.get(name).ok_or_else(|| format!("has no recorded shape of {}", shown(name)))?;
        let recorded = self.recorded_value(meta, value.origin)?;
        if recorded.shape != value.shape || recorded.dtype != value.dtype {
            let (one, two) = (shown_shape(&recorded.shape), shown_shape(&value.shape));
            return Err(format!(
                "PyTorch recorded {one} of {}, but it would be {two} of {}",
                recorded.dtype, value.dtype
            ));
        }
        Ok(())
    }

    fn node(&mut self, node: &schema::Node) {
        let outcome = match symbols::read(node, &self.scope) {
            Some(size) => size.and_then(|size| self.define_size(node, size)),
            None => self.tensor_node(node),
        };
        if let Err(message) = outcome {
            if message != FOLLOWS {
                self.faults.of_node(node.name(), message);
            }
            self.define_recorded(node);
        }
    }

    fn define_size(&mut self, node: &schema::Node, size: Size) -> Outcome<()> {
        let [Argument::SymInt(SizeArgument::Name(name))] = node.outputs.as_slice() else {
            return Err("has another result than a size".to_owned());
        };
        if let Some(recorded) = self.recorded_sizes.get(name)
            && self.recorded_size(recorded).is_ok_and(|recorded| recorded != size)
        {
            return Err(format!("PyTorch recorded another size than {size}"));
        }
        self.scope.define_size(name, size)
    }

    fn tensor_node(&mut self, node: &schema::Node) -> Outcome<()> {
        let plain = operators::plain_name(&node.target);
        let mut arguments = Arguments::new(&self.scope, &node.inputs);
        let read = plain.as_ref().and_then(|(name, _)| operators::read(name, &mut arguments));
        let (Some(read), Some((_, overwrites))) = (read, plain) else {
            self.unsupported.entry(node.target.clone()).or_default().push(node.name().to_owned());
            self.define_recorded(node);
            return Ok(());
        };
        let op = read?;
        let inputs = arguments.finish()?;
        let given: Vec<&Value> = inputs.iter().map(|&id| self.scope.value(id)).collect();
        let shapes = rules::shapes(&op, &given)?;
        let dtype = rules::dtype(&op, &given);
        let names = results(node)?;
        if names.len() != shapes.len() {
            return Err(format!("has {} results, and should have {}", names.len(), shapes.len()));
        }
        let origin = Origin::Node(self.nodes.len());
        let values: Vec<Value> = shapes.into_iter().map(|shape| Value { dtype, shape, origin }).collect();
        let first = first_tensor(node);
        let memory = match (first, overwrites) {
            (Some(first), true) => {
                self.check_overwriting(first, &op, &values[0], given[0])?;
                Memory::Overwritten(first)
            }
            (Some(first), false) if op.is_view() => Memory::Shared(first),
            _ if matches!(op, Op::CountBatch | Op::Bernoulli { .. }) => {
                return Err("must overwrite its input".to_owned());
            }
            _ => Memory::Own,
        };
        self.check_statistics(&op, &given)?;
        for (name, value) in names.iter().zip(&values) {
            self.compare(name, value)?;
        }
        let operator = node.target.trim_start_matches("torch.ops.").to_owned();
        let outputs = names.iter().zip(values).map(|(name, value)| self.scope.define(name, value, &memory));
        let outputs = outputs.collect::<Outcome<_>>()?;
        self.nodes.push(Node { name: node.name().to_owned(), operator, op, inputs, outputs });
        Ok(())
    }

    /// Refuses to overwrite a tensor of the file, but for counters of batches.
    fn check_overwriting(&self, name: &str, op: &Op, result: &Value, input: &Value) -> Outcome<()> {
        if result.shape != input.shape {
            return Err("overwrites its input with a result of another shape".to_owned());
        }
        let origin = self.scope.origin(name).map(|id| self.scope.value(id).origin);
        let role = match origin {
            Some(Origin::Stored(index)) => Some(self.tensors.list[index].role),
            _ => None,
        };
        match (role, op) {
            (Some(TensorRole::Buffer), Op::CountBatch) | (None, _) if !matches!((role, op), (None, Op::CountBatch)) => {
                Ok(())
            }
            _ => Err(format!("overwrites {}, which is not a counter of batches", shown(name))),
        }
    }

    /// A batch norm changes its running statistics, which must therefore be buffers.
    fn check_statistics(&self, op: &Op, inputs: &[&Value]) -> Outcome<()> {
        let is_buffer = |value: &&Value| match value.origin {
            Origin::Stored(index) => self.tensors.list[index].role == TensorRole::Buffer,
            _ => false,
        };
        match op {
            Op::BatchNorm { .. } if !inputs[3..].iter().all(is_buffer) => {
                Err("has running statistics that are not buffers of the state dict".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Takes PyTorch's word for the results of a node that has a fault, so that the nodes after it can be checked.
    fn define_recorded(&mut self, node: &schema::Node) {
        for output in &node.outputs {
            let names = match output {
                Argument::Tensor(name) => std::slice::from_ref(name),
                Argument::Tensors(names) => names.as_slice(),
                Argument::SymInt(SizeArgument::Name(name)) => {
                    let recorded = self.recorded_sizes.get(name).and_then(|size| self.recorded_size(size).ok());
                    if recorded.is_none_or(|size| self.scope.define_size(name, size).is_err()) {
                        self.scope.give_up(name);
                    }
                    continue;
                }
                _ => continue,
            };
            for name in names {
                let meta = self.recorded.get(name);
                let value = meta.and_then(|meta| self.recorded_value(meta, Origin::Node(usize::MAX)).ok());
                if value.is_none_or(|value| self.scope.define(name, value, &Memory::Own).is_err()) {
                    self.scope.give_up(name);
                }
            }
        }
    }

    fn finish(mut self, images: Option<ValueId>, logits: Option<ValueId>) -> Built {
        for (target, nodes) in &self.unsupported {
            let named: Vec<_> = nodes.iter().take(MOST_NAMED).map(|name| shown(name)).collect();
            let more = match nodes.len().saturating_sub(MOST_NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let operator = shown(target.trim_start_matches("torch.ops."));
            let message = format!("is not supported; it computes {}{more}", named.join(", "));
            self.faults.add(format!("operator {operator}"), message);
        }
        self.check_empty_memory(logits);
        let graph = images.zip(logits).map(|(images, logits)| Graph {
            values: self.scope.into_values(),
            nodes: self.nodes,
            images,
            logits,
        });
        Built { graph, batch: self.batch }
    }

    /// Memory that nothing has been written to may be used by nothing but what writes it.
    fn check_empty_memory(&mut self, logits: Option<ValueId>) {
        let is_empty = |id: ValueId| match self.scope.value(id).origin {
            Origin::Node(index) => self.nodes.get(index).is_some_and(|node| matches!(node.op, Op::Empty { .. })),
            _ => false,
        };
        let readers = self.nodes.iter().filter(|node| !matches!(node.op, Op::Bernoulli { .. }));
        let faulty: Vec<String> =
            readers.filter(|node| node.inputs.iter().any(|&id| is_empty(id))).map(|node| node.name.clone()).collect();
        if logits.is_some_and(is_empty) {
            self.faults.add("output", "is memory that nothing has been written to");
        }
        for name in faulty {
            self.faults.of_node(&name, "uses memory that nothing has been written to");
        }
    }
}

/// The names of a node's results.
fn results(node: &schema::Node) -> Outcome<Vec<&String>> {
    match node.outputs.as_slice() {
        [Argument::Tensor(name)] => Ok(vec![name]),
        [Argument::Tensors(names)] => Ok(names.iter().collect()),
        _ => Err("has results that are not tensors".to_owned()),
    }
}

/// The name of the tensor that an operator overwrites or views.
fn first_tensor(node: &schema::Node) -> Option<&str> {
    let is_first = |argument: &&schema::NamedArgument| matches!(argument.name.as_str(), "self" | "input");
    match &node.inputs.iter().find(is_first)?.arg {
        Argument::Tensor(name) => Some(name),
        _ => None,
    }
}
