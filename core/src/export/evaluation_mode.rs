//! The nodes of a program as PyTorch exports them in evaluation, where batch norms use their running statistics,
//! dropout does nothing, and stochastic depth keeps every branch.
//!
//! What the graph says of a node, such as that it divides a mask, is found by the node's name.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::json_filter::{Edit, Rules, filtered};
use super::{Result, refused};
use crate::exported::{Arithmetic, Graph, Op, Operand};

/// The arguments of a node, which have names.
const ARGUMENTS: Rules<'_> = Rules { dropped: &[], checked: None, edited: ("name", ""), resized: &[] };
/// Largest relative difference of two probabilities that are the same, as in the trainer.
const SAME: f64 = 1e-6;

/// What becomes of a node beside its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeChange {
    Nothing,
    /// It counts a batch, which evaluation does not.
    LeftOut,
    /// It divides a mask of stochastic depth by the share of branches that training keeps.
    DividesByOne,
}

/// How the nodes of a program change.
#[derive(Debug)]
pub(super) struct EvaluationMode {
    /// By the name in PyTorch.
    changes: HashMap<String, NodeChange>,
    /// Nodes that have to change by name, and have not been seen yet.
    left: usize,
}

impl EvaluationMode {
    /// # Errors
    /// Nodes that have to change differently have the same name, in different regions of the program.
    pub(super) fn of(graph: &Graph) -> Result<Self> {
        // Of masks, the probability with which an element was drawn as one, over what it was divided by.
        let mut masks: Vec<Option<f64>> = vec![None; graph.values.len()];
        let (mut changes, mut left) = (HashMap::new(), 0);
        for node in &graph.nodes {
            let input = node.inputs.first().and_then(|&input| masks[input]);
            let (mask, change) = match (&node.op, input) {
                (Op::Bernoulli { probability }, _) => (Some(*probability), NodeChange::Nothing),
                (Op::Arithmetic { kind: Arithmetic::Divide, other: Operand::Number(number) }, Some(probability))
                    if (number - probability).abs() <= SAME * probability =>
                {
                    (Some(1.0), NodeChange::DividesByOne)
                }
                (Op::CountBatch, _) => (None, NodeChange::LeftOut),
                (op, mask) if op.is_view() => (mask, NodeChange::Nothing),
                _ => (None, NodeChange::Nothing),
            };
            node.outputs.iter().for_each(|&output| masks[output] = mask);
            if node.operator.is_empty() {
                continue;
            }
            left += usize::from(change != NodeChange::Nothing);
            // Regions have names of their own, which the reader puts the region's before.
            let name = node.name.rsplit('.').next().unwrap_or(&node.name);
            if changes.insert(name.to_owned(), change).is_some_and(|other| other != change) {
                return refused(format!(
                    "the network has two nodes {name:?}, one of them in a region of torch.autocast, and in evaluation \
                     one of them changes: take the student as ONNX, or as safetensors for the network's own code"
                ));
            }
        }
        Ok(Self { changes, left })
    }

    /// Whether every node that has to change has been edited.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// What a node of the program, as JSON, is in evaluation.
    pub(super) fn edit(&mut self, document: &[u8]) -> Result<Edit> {
        // Whatever else has a target is no node of the program, all of which have been read.
        let Ok(node) = serde_json::from_slice::<NodeJson>(document) else { return Ok(Edit::Kept) };
        let change = self.changes.get(node.name()).copied().unwrap_or(NodeChange::Nothing);
        if change != NodeChange::Nothing {
            self.left = self.left.saturating_sub(1);
        }
        match change {
            NodeChange::LeftOut => return Ok(Edit::LeftOut),
            NodeChange::DividesByOne => return with_arguments(document, one),
            NodeChange::Nothing => {}
        }
        match node.target.as_str() {
            "torch.ops.aten.bernoulli_.float" => Ok(ones(document)),
            // What has no running statistics, such as a weight that is standardised, is normalised by its own in
            // evaluation, too.
            "torch.ops.aten.batch_norm.default" | "torch.ops.aten.instance_norm.default"
                if !node.has_tensor("running_mean") =>
            {
                Ok(Edit::Kept)
            }
            _ if node.inputs.iter().any(|argument| in_evaluation(argument).is_some()) => {
                with_arguments(document, in_evaluation)
            }
            _ => Ok(Edit::Kept),
        }
    }
}

#[derive(Deserialize)]
struct NodeJson {
    target: String,
    inputs: Vec<ArgumentJson>,
    outputs: Vec<Value>,
}

#[derive(Deserialize)]
struct ArgumentJson {
    name: String,
    arg: Value,
}

impl NodeJson {
    /// The name of its result; empty for one with several, which none of the changes is for.
    fn name(&self) -> &str {
        self.outputs.first().and_then(|output| output["as_tensor"]["name"].as_str()).unwrap_or_default()
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.inputs.iter().any(|argument| argument.name == name && argument.arg.get("as_tensor").is_some())
    }
}

/// What an argument is in evaluation, if it is something else.
fn in_evaluation(argument: &ArgumentJson) -> Option<Value> {
    let arg = &argument.arg;
    match argument.name.as_str() {
        "training" | "train" | "use_input_stats" if arg["as_bool"] == true => Some(json!({"as_bool": false})),
        "dropout_p" if arg["as_float"].as_f64().or(arg["as_int"].as_f64()).is_some_and(|dropped| dropped != 0.0) => {
            Some(json!({"as_float": 0.0}))
        }
        _ => None,
    }
}

/// A divisor that changes nothing.
fn one(argument: &ArgumentJson) -> Option<Value> {
    let is_int = argument.arg.get("as_int").is_some();
    (argument.name == "other").then(|| if is_int { json!({"as_int": 1}) } else { json!({"as_float": 1.0}) })
}

/// The node with other arguments. The rest keeps its bytes.
fn with_arguments(document: &[u8], change: impl Fn(&ArgumentJson) -> Option<Value>) -> Result<Edit> {
    let edited = filtered(document, &ARGUMENTS, &mut |document| {
        let changed = serde_json::from_slice(document).ok().and_then(|argument| change(&argument));
        let (Some(changed), Ok(mut argument)) = (changed, serde_json::from_slice::<Value>(document)) else {
            return Ok(Edit::Kept);
        };
        argument["arg"] = changed;
        Ok(Edit::Replaced(argument.to_string().into_bytes()))
    })?;
    Ok(Edit::Replaced(edited))
}

/// A node that draws zeros and ones into its input as one that writes ones.
fn ones(document: &[u8]) -> Edit {
    let node = serde_json::from_slice::<Value>(document).ok();
    let filled = node.and_then(|mut node| {
        let input = node["inputs"].as_array()?.iter().find(|input| input["name"] == "self")?.clone();
        let mut value = input.clone();
        value["name"] = json!("value");
        value["arg"] = json!({"as_float": 1.0});
        node["inputs"] = json!([input, value]);
        node["target"] = json!("torch.ops.aten.fill_.Scalar");
        Some(node.to_string().into_bytes())
    });
    filled.map_or(Edit::Kept, Edit::Replaced)
}
