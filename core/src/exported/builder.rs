//! Makes a graph of a program: finds what each name stands for, and checks every shape.

use std::collections::{BTreeMap, HashMap};

use super::arguments::{Arguments, MOST_DIMENSIONS};
use super::error::{NetworkFaults, OrFault};
use super::graph::{Graph, NOWHERE, Node, Origin, Value, ValueId};
use super::op::Op;
use super::places;
use super::schema::{self, Argument, SizeArgument, SizeMeta, TensorMeta};
use super::scope::{FOLLOWS, ValueMemory, ValueScope, most_elements};
use super::size::{MOST_ELEMENTS, Size, product, shown_shape};
use super::stored::StoredTensor;
use super::tensors::{Tensors, dtype};
use super::{advice, inline, operators, rules, symbols};
use crate::byte_source::ByteSource;
use crate::checkpoint::Dtype;
use crate::checkpoint::error::shown;

/// Most nodes of a network.
pub(super) const MOST_NODES: usize = 20_000;
/// Longest name of a node, in bytes. Of a node that is read as several, each has it.
const LONGEST_NAME: usize = 512;
/// Nodes that a fault names.
const MOST_NAMED: usize = 3;

/// What a program is made into, as far as it could be.
pub(super) struct Built {
    pub(super) graph: Option<Graph>,
    /// Tensors that the graph has beside those of the file, with the numbers after theirs.
    pub(super) constants: Vec<StoredTensor>,
    /// The symbol of the batch size.
    pub(super) batch: Option<String>,
}

pub(super) struct Builder<'a> {
    pub(super) tensors: &'a Tensors,
    pub(super) source: &'a ByteSource,
    /// Tensors beside those of the file.
    pub(super) constants: Vec<StoredTensor>,
    pub(super) faults: &'a mut NetworkFaults,
    pub(super) scope: ValueScope,
    /// What PyTorch recorded of each value.
    pub(super) recorded: HashMap<String, TensorMeta>,
    recorded_sizes: HashMap<String, SizeMeta>,
    pub(super) batch: Option<String>,
    /// The batch size, if it is fixed, which is a fault.
    pub(super) fixed_batch: Option<Size>,
    pub(super) nodes: Vec<Node>,
    /// Operators that are not supported, and where they are.
    unsupported: BTreeMap<String, Vec<String>>,
    /// Nodes that compute with a type that is not supported, by what is wrong with them.
    other_types: BTreeMap<String, Vec<String>>,
}

/// Reads a program. What is wrong with it is added to `faults`; a graph made with faults must not be used.
pub(super) fn build(
    program: schema::GraphModule,
    tensors: &Tensors,
    source: &ByteSource,
    faults: &mut NetworkFaults,
) -> Built {
    let schema::GraphModule { graph, signature } = program;
    let graph = inline::without_autocast(graph, faults);
    let mut builder = Builder {
        tensors,
        source,
        constants: Vec::new(),
        faults,
        scope: ValueScope::new(most_elements(source.len()), most_results(source.len())),
        recorded: graph.tensor_values.0.into_iter().collect(),
        recorded_sizes: graph.sym_int_values.0.into_iter().collect(),
        batch: None,
        fixed_batch: None,
        nodes: Vec::new(),
        unsupported: BTreeMap::new(),
        other_types: BTreeMap::new(),
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
        builder.add_faults_of_types();
    }
    let logits = builder.logits(&signature.output_specs, &graph.outputs);
    builder.finish(images, logits)
}

/// How many results the operations of a file of `length` bytes may have, all together. PyTorch writes more than a
/// kilobyte for each node; in memory, a result takes about as much.
fn most_results(length: u64) -> u64 {
    (length / 64).saturating_add(1 << 12).min(5 * MOST_NODES as u64)
}

impl Builder<'_> {
    /// A recorded tensor as a value.
    pub(super) fn recorded_value(&self, meta: &TensorMeta, origin: Origin) -> OrFault<Value> {
        if meta.sizes.len() > MOST_DIMENSIONS {
            return Err(format!("has {} dimensions, and {MOST_DIMENSIONS} are read at most", meta.sizes.len()));
        }
        let shape = meta.sizes.iter().map(|size| self.recorded_size(size)).collect::<OrFault<Vec<_>>>()?;
        let is_small = product(&shape).is_some_and(|elements| (1..=MOST_ELEMENTS).contains(&elements.per_image()));
        if !is_small {
            return Err(format!("has no elements or too many: {}", shown_shape(&shape)));
        }
        Ok(Value { dtype: dtype(meta)?, shape, origin })
    }

    fn recorded_size(&self, size: &SizeMeta) -> OrFault<Size> {
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
    pub(super) fn compare(&self, name: &str, value: &Value) -> OrFault<()> {
        let meta = self.recorded.get(name).ok_or_else(|| format!("has no recorded shape of {}", shown(name)))?;
        let recorded = self.recorded_value(meta, value.origin)?;
        if recorded.shape != value.shape || recorded.dtype != value.dtype {
            let (one, two) = (shown_shape(&recorded.shape), shown_shape(&value.shape));
            let is_rounded = value.dtype == Dtype::F32 && matches!(recorded.dtype, Dtype::Bf16 | Dtype::F16);
            let advice = if is_rounded { ": export the network outside of torch.autocast" } else { "" };
            return Err(format!(
                "PyTorch recorded {one} of {}, but it would be {two} of {}{advice}",
                recorded.dtype, value.dtype
            ));
        }
        Ok(())
    }

    fn node(&mut self, node: &schema::NodeRecord) {
        let outcome = match symbols::read(node, &self.scope) {
            Some(size) => size.and_then(|size| self.define_size(node, size)),
            None => self.tensor_node(node),
        };
        if let Err(message) = outcome {
            if message.starts_with(rules::COMPUTES_WITH) {
                self.other_types.entry(message).or_default().push(node.name().to_owned());
            } else if message != FOLLOWS {
                self.faults.of_node(node.name(), message);
            }
            self.define_recorded(node);
        }
    }

    /// A network in half precision has one fault, rather than one for each of its nodes.
    fn add_faults_of_types(&mut self) {
        for (message, nodes) in std::mem::take(&mut self.other_types) {
            self.faults.add(format!("node {}", some_of(&nodes)), message);
        }
    }

    fn define_size(&mut self, node: &schema::NodeRecord, size: Size) -> OrFault<()> {
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

    fn tensor_node(&mut self, node: &schema::NodeRecord) -> OrFault<()> {
        if node.target == "torch.ops.aten._assert_tensor_metadata.default" {
            // It says of a tensor what is checked of every tensor.
            return Ok(());
        }
        let plain = operators::plain_name(&node.target);
        let Some((name, overwrites)) = plain else { return self.leave_out(node) };
        if node.name().len() > LONGEST_NAME {
            return Err(format!("has a name of {} bytes, and {LONGEST_NAME} are read at most", node.name().len()));
        }
        let folded = self.fold(node, &name, overwrites);
        if let Some(Ok(())) = folded {
            return Ok(());
        }
        self.settle_arguments(node)?;
        match (operators::read(&name, Arguments::new(&self.scope, &node.inputs)), folded) {
            (Some(plan), _) => self.add_plan(node, plan?, overwrites),
            (None, Some(Err(message))) => Err(message),
            (None, _) => self.leave_out(node),
        }
    }

    /// Remembers an operator that is not supported.
    fn leave_out(&mut self, node: &schema::NodeRecord) -> OrFault<()> {
        self.unsupported.entry(node.target.clone()).or_default().push(node.name().to_owned());
        self.define_recorded(node);
        Ok(())
    }

    /// Takes PyTorch's word for the results of a node that has a fault, so that the nodes after it can be checked.
    fn define_recorded(&mut self, node: &schema::NodeRecord) {
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
                let value = meta.and_then(|meta| self.recorded_value(meta, NOWHERE).ok());
                if value.is_none_or(|value| self.scope.define(name, value, &ValueMemory::Own).is_err()) {
                    self.scope.give_up(name);
                }
            }
        }
    }

    fn finish(mut self, images: Option<ValueId>, logits: Option<ValueId>) -> Built {
        if self.unsupported.is_empty() && self.faults.list().is_empty() {
            if let Some((node, message)) = places::first_fault(&self.nodes, |id| self.scope.value(id)) {
                self.faults.of_node(&node, message);
            }
        } else if let Some((layers, message)) = advice::of_spectral_norm(&self.tensors.list) {
            self.faults.add(layers, message);
        }
        for (target, nodes) in &self.unsupported {
            let operator = shown(target.trim_start_matches("torch.ops."));
            let advice = advice::of_operator(target).map(|advice| format!(": {advice}")).unwrap_or_default();
            let message = format!("is not supported; it computes {}{advice}", some_of(nodes));
            self.faults.add(format!("operator {operator}"), message);
        }
        self.check_empty_memory(logits);
        let graph = images.zip(logits).map(|(images, logits)| {
            compact(Graph { values: self.scope.into_values(), nodes: self.nodes, images, logits })
        });
        Built { graph, constants: self.constants, batch: self.batch }
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

/// The graph without the values of constants, which others stand for.
fn compact(mut graph: Graph) -> Graph {
    let mut numbers = vec![0; graph.values.len()];
    let mut kept = 0;
    for (value, number) in graph.values.iter().zip(&mut numbers) {
        *number = kept;
        kept += usize::from(value.origin != NOWHERE);
    }
    graph.values.retain(|value| value.origin != NOWHERE);
    for node in &mut graph.nodes {
        node.inputs.iter_mut().chain(&mut node.outputs).for_each(|id| *id = numbers[*id]);
    }
    (graph.images, graph.logits) = (numbers[graph.images], numbers[graph.logits]);
    graph
}

/// The first of some names, and how many there are beside them.
fn some_of(names: &[String]) -> String {
    let named: Vec<_> = names.iter().take(MOST_NAMED).map(|name| shown(name)).collect();
    match names.len().saturating_sub(MOST_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// The names of a node's results.
pub(super) fn results(node: &schema::NodeRecord) -> OrFault<Vec<&String>> {
    if let [Argument::Tensors(names)] = node.outputs.as_slice() {
        return Ok(names.iter().collect());
    }
    let names = node.outputs.iter().map(|output| match output {
        Argument::Tensor(name) => Ok(name),
        _ => Err("has results that are not tensors".to_owned()),
    });
    if node.outputs.is_empty() { Err("has no result".to_owned()) } else { names.collect() }
}

/// The name of the tensor that an operator overwrites or views.
pub(super) fn first_tensor(node: &schema::NodeRecord) -> Option<&str> {
    let is_first = |argument: &&schema::NamedArgument| matches!(argument.name.as_str(), "self" | "input");
    match &node.inputs.iter().find(is_first)?.arg {
        Argument::Tensor(name) => Some(name),
        _ => None,
    }
}
