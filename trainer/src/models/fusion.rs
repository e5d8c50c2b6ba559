//! Fuses the nodes of a program: what follows a batch norm or a frozen convolution runs in the same pass.

use tch::Kind;

use distillery_core::exported::Size;

use super::program::{Input, Program, ProgramNode, ProgramOp, ProgramValueId, open};

/// A program that is ready to run.
#[derive(Debug)]
pub(super) struct Plan {
    pub shapes: Vec<Vec<Size>>,
    pub steps: Vec<Step>,
    pub result: ProgramValueId,
}

/// A node, with the nodes after it that run in the same pass.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The operation of the first node.
    pub op: ProgramOp,
    /// Whether the nodes take and make maps of float32 where others are bfloat16.
    pub full_precision: bool,
    /// What the first node takes.
    pub inputs: Vec<Input>,
    /// The batch norm that follows a frozen convolution.
    pub norm: Option<FoldedNorm>,
    pub added: Option<ProgramValueId>,
    /// Whether a ReLU comes last.
    pub relu: bool,
    /// What the last node makes.
    pub outputs: Vec<ProgramValueId>,
    /// Values that nothing takes afterwards.
    pub ends: Vec<ProgramValueId>,
    /// Whether the result may take the memory of the first input, or of the added value: nothing else shows it.
    pub overwrites_input: bool,
    pub overwrites_added: bool,
}

/// A batch norm with its running statistics.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoldedNorm {
    /// Scale, shift, running mean and running variance.
    pub weights: [usize; 4],
    pub epsilon: f64,
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

impl Stage {
    fn of(node: &ProgramNode, purpose: Purpose) -> Self {
        let has_constants = node.inputs.iter().skip(1).all(|input| input.weight().is_some());
        let takes_value = node.inputs.first().is_some_and(|input| input.value().is_some());
        match node.op {
            ProgramOp::Convolution(_) if purpose == Purpose::Inference && has_constants && takes_value => {
                Self::Convolution
            }
            ProgramOp::BatchNorm(_) if has_constants && takes_value => Self::Norm,
            ProgramOp::Add => Self::Sum,
            ProgramOp::Relu => Self::Relu,
            _ => Self::Closed,
        }
    }
}

impl FoldedNorm {
    /// The constants of a batch norm that takes a value and four weights.
    pub(super) fn of(op: &ProgramOp, inputs: &[Input]) -> Option<Self> {
        let ProgramOp::BatchNorm(norm) = op else { return None };
        let weights: Vec<usize> = inputs.iter().skip(1).filter_map(|input| input.weight()).collect();
        Some(Self { weights: weights.try_into().ok()?, epsilon: norm.epsilon })
    }
}

/// Fuses a program's nodes, in order.
pub(super) fn fuse(program: Program, purpose: Purpose) -> Plan {
    let Program { shapes, nodes, result } = program;
    let mut uses = vec![0; shapes.len()];
    let taken = nodes.iter().flat_map(|node| &node.inputs).filter_map(|input| input.value());
    taken.chain([result]).for_each(|value| uses[value] += 1);
    let mut steps: Vec<Step> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    // The step that makes each value.
    let mut made_by: Vec<Option<usize>> = vec![None; shapes.len()];
    for node in nodes {
        let stage = Stage::of(&node, purpose);
        let host = host(&node, stage, &uses, &made_by, &stages);
        node.outputs.iter().for_each(|&output| made_by[output] = Some(host.unwrap_or(steps.len())));
        match host {
            Some(host) => {
                join(&mut steps[host], &node, |value| made_by[value] == Some(host));
                stages[host] = stage;
            }
            None => {
                stages.push(if matches!(stage, Stage::Convolution | Stage::Norm) { stage } else { Stage::Closed });
                steps.push(Step::alone(node));
            }
        }
    }
    let mut plan = Plan { shapes, steps, result };
    plan.find_ends();
    if purpose == Purpose::Inference {
        plan.find_memory();
    }
    plan
}

/// The step that a node joins: a sum joins the later of its two inputs, when the other one exists.
fn host(
    node: &ProgramNode,
    stage: Stage,
    uses: &[usize],
    made_by: &[Option<usize>],
    stages: &[Stage],
) -> Option<usize> {
    let values = || node.inputs.iter().filter_map(|input| input.value());
    let (host, value) = values().filter_map(|value| Some((made_by[value]?, value))).max()?;
    let is_alone = uses[value] == 1 && values().filter(|&other| made_by[other] == Some(host)).count() == 1;
    let is_later = stage > Stage::Convolution && stage < Stage::Closed && stages[host] < stage;
    (is_alone && is_later).then_some(host)
}

fn join(host: &mut Step, node: &ProgramNode, is_hosts: impl Fn(ProgramValueId) -> bool) {
    match node.op {
        ProgramOp::BatchNorm(_) => host.norm = FoldedNorm::of(&node.op, &node.inputs),
        ProgramOp::Add => {
            host.added = node.inputs.iter().filter_map(|input| input.value()).find(|&value| !is_hosts(value));
        }
        _ => host.relu = true,
    }
    host.outputs.clone_from(&node.outputs);
}

impl Step {
    fn alone(ProgramNode { op, full_precision, inputs, outputs }: ProgramNode) -> Self {
        Self {
            op,
            full_precision,
            inputs,
            norm: None,
            added: None,
            relu: false,
            outputs,
            ends: Vec::new(),
            overwrites_input: false,
            overwrites_added: false,
        }
    }

    /// The kind of its maps in a network with maps of `kind`.
    pub(super) fn kind(&self, kind: Kind) -> Kind {
        if self.full_precision && kind == Kind::BFloat16 { Kind::Float } else { kind }
    }

    /// The values that it takes.
    pub(super) fn values(&self) -> impl Iterator<Item = ProgramValueId> {
        self.inputs.iter().filter_map(|input| input.value()).chain(self.added)
    }
}

impl Plan {
    fn last_uses(&self) -> Vec<usize> {
        let mut last: Vec<usize> = vec![0; self.shapes.len()];
        for (index, step) in self.steps.iter().enumerate() {
            step.values().chain(step.outputs.iter().copied()).for_each(|value| last[value] = index);
        }
        last[self.result] = self.steps.len();
        last
    }

    fn find_ends(&mut self) {
        let last = self.last_uses();
        for (index, step) in self.steps.iter_mut().enumerate() {
            let mut ends: Vec<ProgramValueId> =
                step.values().chain(step.outputs.iter().copied()).filter(|&value| last[value] == index).collect();
            ends.sort_unstable();
            ends.dedup();
            step.ends = ends;
        }
    }

    /// Finds out whose memory nothing else shows.
    fn find_memory(&mut self) {
        // Of each value: the one whose memory it shows. `None` for memory that is not the program's.
        let mut owner: Vec<Option<ProgramValueId>> = vec![None; self.shapes.len()];
        for step in &self.steps {
            let viewed = if step.op.is_view() { step.inputs.first() } else { None };
            for &output in &step.outputs {
                owner[output] = match viewed {
                    Some(input) => input.value().and_then(|value| owner[value]),
                    None => Some(output),
                };
            }
        }
        let last = self.last_uses();
        let mut memory_ends: Vec<usize> = vec![0; self.shapes.len()];
        for (value, owner) in owner.iter().enumerate() {
            if let Some(owner) = owner {
                memory_ends[*owner] = memory_ends[*owner].max(last[value]);
            }
        }
        for (index, step) in self.steps.iter_mut().enumerate() {
            let owns = |value: ProgramValueId| owner[value] == Some(value) && memory_ends[value] == index;
            let shows = |value: ProgramValueId, among: &[ProgramValueId]| {
                among.iter().any(|&other| owner[other] == Some(value))
            };
            let inputs: Vec<ProgramValueId> = step.inputs.iter().filter_map(|input| input.value()).collect();
            step.overwrites_added = step.added.is_some_and(|added| owns(added) && !shows(added, &inputs));
            step.overwrites_input = inputs.first().is_some_and(|&input| {
                owns(input) && !shows(input, &inputs[1..]) && step.added.is_none_or(|added| !shows(input, &[added]))
            });
        }
    }

    /// The indices of the weights that it takes.
    pub(super) fn weights(&self) -> impl Iterator<Item = usize> {
        let folded = self.steps.iter().filter_map(|step| step.norm).flat_map(|norm| norm.weights);
        self.steps.iter().flat_map(|step| &step.inputs).filter_map(|input| input.weight()).chain(folded)
    }

    /// The sizes [channels, height, width] of a map.
    pub(super) fn map(&self, value: ProgramValueId) -> Option<[i64; 3]> {
        match open(&self.shapes[value]).as_slice() {
            &[_, channels, height, width] => Some([channels, height, width]),
            _ => None,
        }
    }
}
