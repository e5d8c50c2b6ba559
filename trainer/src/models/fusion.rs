//! Fuses the nodes of a graph: what follows a batch norm or a frozen convolution runs in the same pass.

use distillery_core::architecture::{Layout, Op};

/// A node, with the nodes after it that run in the same pass.
#[derive(Debug, Clone)]
pub(super) struct FusedNode {
    /// The operation of the first node.
    pub op: Op,
    /// The weights of the batch norm that follows a frozen convolution.
    pub norm: Option<usize>,
    /// The fused node whose map is added.
    pub added: Option<usize>,
    /// Whether a ReLU comes last.
    pub relu: bool,
    /// The fused nodes whose maps the first node takes.
    pub inputs: Vec<usize>,
    /// The index of the first node in the layout.
    pub node: usize,
    /// The last fused node that takes the map; itself if none does.
    pub last_use: usize,
}

/// What a network is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// With gradients, and batch norms that need the statistics of the batch.
    Training,
    /// With constant weights, so that batch norms become part of the convolutions before them.
    Inference,
}

/// The latest kind of node that is fused already. Only later kinds can still join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Convolution,
    Norm,
    Sum,
    Relu,
    Closed,
}

/// The fused nodes of a graph, in order.
pub(super) fn fuse(layout: &Layout, purpose: Purpose) -> Vec<FusedNode> {
    let mut uses = vec![0; layout.nodes.len()];
    for &input in layout.nodes.iter().flat_map(|node| &node.inputs) {
        uses[input] += 1;
    }
    let mut fused: Vec<FusedNode> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    // The fused node that makes the map of each node.
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
        // A sum joins the later of its two inputs, when the other one exists.
        let joined = inputs.iter().copied().max().filter(|&candidate| {
            let of = node.inputs.iter().position(|&input| made_by[input] == candidate);
            let alone = of.is_some_and(|of| uses[node.inputs[of]] == 1)
                && inputs.iter().filter(|&&input| input == candidate).count() == 1;
            alone && stage > Stage::Convolution && stage < Stage::Closed && stages[candidate] < stage
        });
        match joined {
            Some(host) => {
                match node.op {
                    Op::BatchNorm { weight } => fused[host].norm = Some(weight),
                    Op::Add => fused[host].added = inputs.iter().copied().find(|&input| input != host),
                    _ => fused[host].relu = true,
                }
                stages[host] = stage;
                made_by.push(host);
            }
            None => {
                let last_use = fused.len();
                let op = node.op;
                fused.push(FusedNode { op, norm: None, added: None, relu: false, inputs, node: index, last_use });
                stages.push(if matches!(stage, Stage::Convolution | Stage::Norm) { stage } else { Stage::Closed });
                made_by.push(last_use);
            }
        }
    }
    for index in 0..fused.len() {
        let taken: Vec<usize> = fused[index].inputs.iter().copied().chain(fused[index].added).collect();
        for input in taken {
            fused[input].last_use = index;
        }
    }
    fused
}
