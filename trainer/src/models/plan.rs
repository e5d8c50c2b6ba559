//! In which steps a graph is run: what follows a batch norm or a frozen convolution goes along with it.

use distillery::architecture::{Layout, Op};

/// One step: a node, and those after it that are done in the same pass.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The first node's.
    pub op: Op,
    /// The batch norm that is folded into a convolution.
    pub norm: Option<usize>,
    /// The step whose map is added.
    pub added: Option<usize>,
    /// Whether a ReLU ends it.
    pub relu: bool,
    /// The steps whose maps the first node takes.
    pub inputs: Vec<usize>,
    /// The first node.
    pub node: usize,
    /// The step that takes the map last; itself where none does.
    pub last_use: usize,
}

/// What a network is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Gradients are wanted: batch norms need the batch's own statistics.
    Training,
    /// The weights are constants: batch norms become part of the convolutions before them.
    Inference,
}

/// How much of a chain is in a step already; only what comes later can still join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Convolution,
    Norm,
    Sum,
    Relu,
    Closed,
}

/// The steps of a graph, in order.
pub(super) fn steps(layout: &Layout, purpose: Purpose) -> Vec<Step> {
    let mut uses = vec![0; layout.nodes.len()];
    for &input in layout.nodes.iter().flat_map(|node| &node.inputs) {
        uses[input] += 1;
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    // The step that makes the map of each node.
    let mut made_by: Vec<usize> = Vec::new();
    for (index, node) in layout.nodes.iter().enumerate() {
        let inputs: Vec<usize> = node.inputs.iter().map(|&input| made_by[input]).collect();
        let stage = match node.op {
            Op::Convolution { .. } if purpose == Purpose::Inference => Stage::Convolution,
            Op::BatchNorm { .. } => Stage::Norm,
            Op::Add => Stage::Sum,
            Op::Relu => Stage::Relu,
            _ => Stage::Closed,
        };
        // A sum joins the later of its two inputs, so that the other is there.
        let joined = inputs.iter().copied().max().filter(|&step| {
            let of = node.inputs.iter().position(|&input| made_by[input] == step);
            let alone =
                of.is_some_and(|of| uses[node.inputs[of]] == 1) && inputs.iter().filter(|&&i| i == step).count() == 1;
            alone && stage > Stage::Convolution && stage < Stage::Closed && stages[step] < stage
        });
        match joined {
            Some(step) => {
                match node.op {
                    Op::BatchNorm { weight } => steps[step].norm = Some(weight),
                    Op::Add => steps[step].added = inputs.iter().copied().find(|&input| input != step),
                    _ => steps[step].relu = true,
                }
                stages[step] = stage;
                made_by.push(step);
            }
            None => {
                let last_use = steps.len();
                let op = node.op;
                steps.push(Step { op, norm: None, added: None, relu: false, inputs, node: index, last_use });
                stages.push(if matches!(stage, Stage::Convolution | Stage::Norm) { stage } else { Stage::Closed });
                made_by.push(last_use);
            }
        }
    }
    for index in 0..steps.len() {
        let taken: Vec<usize> = steps[index].inputs.iter().copied().chain(steps[index].added).collect();
        for input in taken {
            steps[input].last_use = index;
        }
    }
    steps
}
