//! Executes training steps: operation by operation or, on a GPU, as a CUDA graph that was recorded once.
//!
//! On a GPU, most operations of a small network finish before the host has issued the next one. A graph is issued as a
//! whole. It reads and writes the memory that its operations used while it was recorded, so each batch is copied there
//! first.

use std::rc::Rc;

use tch::{Device, Tensor};

use super::metrics::Meter;
use super::optim::Optimizer;
use super::step::{Inputs, Objective, step};
use crate::device::card;
use crate::device::cuda::{self, CudaGraph, Plugin};
use crate::models::Network;
use crate::ranks::Ranks;
use crate::worker_link::report::warning;
use distillery_core::protocol::{Event, Level};

/// Steps before one is recorded. Libraries choose algorithms and allocate memory in the first ones, which cannot be
/// recorded.
const WARM_UP: u32 = 3;

/// How steps are executed.
#[derive(Debug, Clone)]
pub enum ExecutionMode {
    /// Operation by operation.
    Eager,
    /// Operation by operation, but in fixed memory like a graph's. It costs a copy, and shows on any device what a
    /// graph would compute.
    Rehearsal,
    /// As a graph, for every whole batch.
    Graphs(Rc<Plugin>),
}

/// Executes the steps of a run, whose student, objective, optimiser and meter stay the same.
#[derive(Debug)]
pub struct StepExecutor {
    mode: ExecutionMode,
    /// For steps in which the teacher computes its logits.
    with_teacher: StepKind,
    /// For steps whose teacher's logits come from the cache.
    with_known_logits: StepKind,
    events: Vec<Event>,
}

/// Steps that issue the same operations.
#[derive(Debug, Default)]
struct StepKind {
    /// Whole batches that were executed eagerly.
    eager: u32,
    fixed: Option<FixedMemory>,
}

/// The memory that a graph reads and writes, and the graph.
#[derive(Debug)]
struct FixedMemory {
    inputs: Inputs,
    teacher_logits: Option<Tensor>,
    graph: Option<CudaGraph>,
}

impl StepExecutor {
    /// Chooses graphs on a GPU if `graphs` allows them. Comes before any other use of the device: with graphs, this
    /// thread issues work to a CUDA stream of its own from now on.
    #[must_use]
    pub fn new(device: Device, graphs: bool) -> Self {
        let (mode, event) = choose(device, graphs);
        let mut executor = Self::in_mode(mode);
        executor.events.extend(event);
        executor
    }

    #[must_use]
    pub fn in_mode(mode: ExecutionMode) -> Self {
        Self { mode, with_teacher: StepKind::default(), with_known_logits: StepKind::default(), events: Vec::new() }
    }

    /// Events for the job's history since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Does one [`step`]. The next call overwrites the returned logits.
    pub fn run(
        &mut self,
        student: &Network,
        objective: &Objective,
        optimizer: &mut Optimizer,
        meter: &mut Meter,
        ranks: &mut Ranks,
        inputs: Inputs,
    ) -> Option<Tensor> {
        let images = inputs.labels.size()[0];
        if !ranks.is_idle() {
            meter.count(images.unsigned_abs());
        }
        let mut issue = |inputs: &Inputs| step(student, objective, optimizer, meter, ranks, inputs, |_| {});
        let kind = if inputs.teacher_logits.is_some() { &mut self.with_known_logits } else { &mut self.with_teacher };
        let is_whole = images == i64::from(objective.batch_size);
        if matches!(self.mode, ExecutionMode::Eager) || !is_whole || kind.eager < WARM_UP {
            kind.eager += u32::from(is_whole);
            return issue(&inputs);
        }
        let FixedMemory { inputs: own, teacher_logits, graph } = match &mut kind.fixed {
            Some(fixed) => {
                fixed.inputs.copy_from(&inputs);
                fixed
            }
            None => kind.fixed.insert(FixedMemory { inputs: inputs.copied(), teacher_logits: None, graph: None }),
        };
        if let ExecutionMode::Graphs(plugin) = &self.mode {
            if graph.is_none() {
                match plugin.record(&mut || *teacher_logits = issue(own)) {
                    Ok(recorded) => *graph = Some(recorded),
                    Err(error) => {
                        self.give_up_graphs(&error);
                        return issue(&inputs);
                    }
                }
            }
            let replayed = graph.as_ref().map_or(Ok(()), CudaGraph::replay);
            // tch's operators panic as well.
            replayed.unwrap_or_else(|error| panic!("{error}"));
        } else {
            *teacher_logits = issue(own);
        }
        teacher_logits.as_ref().map(Tensor::shallow_clone)
    }

    fn give_up_graphs(&mut self, error: &str) {
        self.events.push(warning(format!(
            "the training step cannot be recorded as a CUDA graph, so its operations are issued one by one, which is \
             slower: {error}"
        )));
        self.mode = ExecutionMode::Eager;
        self.with_teacher = StepKind::default();
        self.with_known_logits = StepKind::default();
    }
}

fn choose(device: Device, graphs: bool) -> (ExecutionMode, Option<Event>) {
    let Device::Cuda(index) = device else { return (ExecutionMode::Eager, None) };
    cuda::compute_deterministically();
    let gpu = card::capability(device)
        .map_or_else(String::new, |(major, minor)| format!("GPU of compute capability {major}.{minor}; "));
    let event = |level, message: &str| Some(Event::Log { level, message: format!("{gpu}{message}") });
    if !graphs {
        return (
            ExecutionMode::Eager,
            event(Level::Info, "CUDA graphs are off: the operations of a step are issued one by one"),
        );
    }
    match Plugin::load().and_then(|plugin| plugin.begin(index).map(|()| plugin)) {
        Ok(plugin) => (ExecutionMode::Graphs(plugin), event(Level::Info, "training steps are recorded as CUDA graphs")),
        Err(error) => {
            let message =
                format!("no CUDA graphs: the operations of a step are issued one by one, which is slower: {error}");
            (ExecutionMode::Eager, event(Level::Warning, &message))
        }
    }
}
