//! Regions of a program in which PyTorch computes in full precision although others may not (`torch.autocast` that is
//! disabled). They are programs of their own, which are put where they are used.

use std::cell::Cell;
use std::collections::HashMap;

use super::error::NetworkFaults;
use super::schema::{Argument, GraphRecord, NodeRecord, SizeArgument};

const AUTOCAST: &str = "torch.ops.higher_order.wrap_with_autocast";
/// Deepest nesting.
const DEEPEST: usize = 8;
/// Most bytes that names may grow by, all together. Each name within a program gets the program's before it.
const MOST_GROWTH: usize = 16 << 20;

/// The program without such regions. Others than those that are disabled stay, and are not supported.
pub(super) fn without_autocast(mut graph: GraphRecord, faults: &mut NetworkFaults) -> GraphRecord {
    let growth = Cell::new(0);
    for _ in 0..DEEPEST {
        if !graph.nodes.iter().any(is_disabled) {
            return graph;
        }
        for node in std::mem::take(&mut graph.nodes) {
            if is_disabled(&node) {
                inline(node, &mut graph, faults, &growth);
            } else {
                graph.nodes.push(node);
            }
        }
        if growth.get() > MOST_GROWTH {
            faults.add("graph", "has regions of torch.autocast whose names are too long");
            return graph;
        }
    }
    faults.add("graph", format!("nests torch.autocast more than {DEEPEST} times"));
    graph
}

/// Whether a node is `wrap_with_autocast(device, dtype, enabled=False, …, program, tensors…)`.
fn is_disabled(node: &NodeRecord) -> bool {
    let enabled = node.inputs.get(2).map(|input| &input.arg);
    node.target == AUTOCAST && matches!(enabled, Some(Argument::Bool(false)))
}

fn inline(node: NodeRecord, graph: &mut GraphRecord, faults: &mut NetworkFaults, growth: &Cell<usize>) {
    let name = node.name().to_owned();
    let mut arguments = node.inputs.into_iter().map(|input| input.arg);
    let inner = arguments.find_map(|argument| match argument {
        Argument::Graph(name, inner) => Some((name, *inner)),
        _ => None,
    });
    let Some((prefix, mut inner)) = inner else {
        return faults.of_node(&name, "has no program of its own");
    };
    let given: Vec<Argument> = arguments.collect();
    if given.len() != inner.inputs.len() || node.outputs.len() != inner.outputs.len() {
        return faults.of_node(&name, "has other inputs or outputs than its own program");
    }
    let mut names = HashMap::new();
    for (inside, outside) in inner.inputs.iter().zip(&given).chain(inner.outputs.iter().zip(&node.outputs)) {
        match (inside.name(), outside.name()) {
            (Some(inside), Some(outside)) if !names.contains_key(inside) => {
                names.insert(inside.to_owned(), outside.to_owned());
            }
            _ => {
                return faults
                    .of_node(&name, "returns what it was given, or takes something other than tensors and sizes");
            }
        }
    }
    let rename = |name: &mut String| match names.get(name.as_str()) {
        Some(outside) => {
            growth.set(growth.get().saturating_add(outside.len()));
            if growth.get() <= MOST_GROWTH {
                outside.clone_into(name);
            }
        }
        None => {
            growth.set(growth.get().saturating_add(prefix.len()));
            if growth.get() <= MOST_GROWTH {
                *name = format!("{prefix}.{name}");
            }
        }
    };
    for node in &mut inner.nodes {
        node.full_precision = true;
        node.inputs.iter_mut().for_each(|input| input.arg.rename(&rename));
        node.outputs.iter_mut().for_each(|output| output.rename(&rename));
    }
    for (mut name, meta) in inner.tensor_values.0 {
        if !names.contains_key(&name) {
            rename(&mut name);
            graph.tensor_values.0.push((name, meta));
        }
    }
    for (mut name, meta) in inner.sym_int_values.0 {
        if !names.contains_key(&name) {
            rename(&mut name);
            graph.sym_int_values.0.push((name, meta));
        }
    }
    graph.nodes.extend(inner.nodes);
}

impl Argument {
    /// The name of the only tensor or size that it is.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Tensor(name) | Self::SymInt(SizeArgument::Name(name)) => Some(name),
            _ => None,
        }
    }

    /// Gives other names to the tensors and sizes in it.
    fn rename(&mut self, rename: &impl Fn(&mut String)) {
        match self {
            Self::Tensor(name) | Self::SymInt(SizeArgument::Name(name)) => rename(name),
            Self::Tensors(names) => names.iter_mut().for_each(rename),
            Self::OptionalTensors(names) => names.iter_mut().flatten().for_each(rename),
            Self::SymInts(sizes) => {
                for size in sizes {
                    if let SizeArgument::Name(name) = size {
                        rename(name);
                    }
                }
            }
            _ => {}
        }
    }
}
