//! Issues training steps: each operation of each, or, on a GPU, all of a step as a graph that was recorded once.
//!
//! On a GPU most operations of a small network end sooner than the host issues the next. A graph is issued at once. It
//! reads and writes where its operations did when they were recorded, so that a batch is brought there first.

use std::rc::Rc;

use tch::{Device, Tensor};

use super::metrics::Meter;
use super::optim::Optimizer;
use super::step::{Inputs, Objective, step};
use crate::device::cuda::{self, Graph, Plugin};
use crate::models::Network;
use crate::ranks::Ranks;
use crate::worker_link::report::warning;
use distillery::protocol::{Event, Level};

/// Steps that are issued one operation at a time before one is recorded: libraries choose their algorithms and take their
/// memory in the first ones, which cannot be recorded.
const WARM_UP: u32 = 3;

/// How steps are issued.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Each operation of each step.
    Eager,
    /// Each operation of each step, but on tensors that stay, as a graph's do. It costs a copy, and shows on any device
    /// what a graph would compute.
    Rehearsal,
    /// A graph for every whole batch.
    Graphs(Rc<Plugin>),
}

/// Issues the steps of a training, whose student, objective, optimiser and meter stay the same.
#[derive(Debug)]
pub struct StepExecutor {
    mode: Mode,
    /// For steps that ask the teacher, and for those that know what it says.
    slots: [Slot; 2],
    events: Vec<Event>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Steps that were issued eagerly.
    eager: u32,
    fixed: Option<Fixed>,
}

/// What a graph reads and gives, and itself.
#[derive(Debug)]
struct Fixed {
    inputs: Inputs,
    logits: Option<Tensor>,
    graph: Option<Graph>,
}

impl StepExecutor {
    /// Steps on a device; on a GPU as graphs, unless they are not wanted. From here on this thread issues to a stream of
    /// its own, so it comes before anything is done on the device.
    #[must_use]
    pub fn new(device: Device, graphs: bool) -> Self {
        let (mode, event) = choose(device, graphs);
        let mut executor = Self::in_mode(mode);
        executor.events.extend(event);
        executor
    }

    /// In that mode.
    #[must_use]
    pub fn in_mode(mode: Mode) -> Self {
        Self { mode, slots: Default::default(), events: Vec::new() }
    }

    /// What there is to say since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// One [`step`]. The logits are good until the next.
    pub fn run(
        &mut self,
        student: &Network,
        objective: &Objective,
        optimizer: &mut Optimizer,
        meter: &mut Meter,
        ranks: &mut Ranks,
        inputs: Inputs,
    ) -> Option<Tensor> {
        let count = inputs.labels.size()[0];
        if !ranks.is_idle() {
            meter.count(count.unsigned_abs());
        }
        let mut issue = |inputs: &Inputs| step(student, objective, optimizer, meter, ranks, inputs, |_| {});
        let slot = &mut self.slots[usize::from(inputs.logits.is_some())];
        let is_whole = count == i64::from(objective.batch_size);
        if matches!(self.mode, Mode::Eager) || !is_whole || slot.eager < WARM_UP {
            slot.eager += u32::from(is_whole);
            return issue(&inputs);
        }
        let Fixed { inputs: own, logits, graph } = match &mut slot.fixed {
            Some(fixed) => {
                fixed.inputs.take_over(&inputs);
                fixed
            }
            // The first batch stays where it is.
            None => slot.fixed.insert(Fixed { inputs: inputs.copied(), logits: None, graph: None }),
        };
        if let Mode::Graphs(plugin) = &self.mode {
            if graph.is_none() {
                match plugin.record(&mut || *logits = issue(own)) {
                    Ok(recorded) => *graph = Some(recorded),
                    Err(error) => {
                        let message = format!(
                            "the training step cannot be recorded as a CUDA graph, and its operations are launched one \
                             by one, which is slower: {error}"
                        );
                        self.events.push(warning(message));
                        self.mode = Mode::Eager;
                        self.slots = Default::default();
                        return issue(&inputs);
                    }
                }
            }
            let replayed = graph.as_ref().map_or(Ok(()), Graph::replay);
            // As any operation that fails.
            replayed.unwrap_or_else(|error| panic!("{error}"));
        } else {
            *logits = issue(own);
        }
        logits.as_ref().map(Tensor::shallow_clone)
    }
}

fn choose(device: Device, graphs: bool) -> (Mode, Option<Event>) {
    let Device::Cuda(index) = device else { return (Mode::Eager, None) };
    cuda::compute_deterministically();
    let what = cuda::capability(device)
        .map_or_else(String::new, |(major, minor)| format!("a GPU of compute capability {major}.{minor}; "));
    let told = |level, message: &str| Some(Event::Log { level, message: format!("{what}{message}") });
    if !graphs {
        return (
            Mode::Eager,
            told(Level::Info, "CUDA graphs are off: the operations of a step are launched one by one"),
        );
    }
    match Plugin::load().and_then(|plugin| plugin.begin(index).map(|()| plugin)) {
        Ok(plugin) => (Mode::Graphs(plugin), told(Level::Info, "training steps are recorded as CUDA graphs")),
        Err(error) => {
            let message =
                format!("no CUDA graphs: the operations of a step are launched one by one, which is slower: {error}");
            (Mode::Eager, told(Level::Warning, &message))
        }
    }
}
