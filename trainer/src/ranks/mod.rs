//! Data parallelism: one process per device, the ranks, which train copies of one student on their shards of every
//! batch and average their gradients.
//!
//! Rank 0 is the process that the run was started as. It [launches](crate::launch) the others and decides for all: it
//! alone writes files, reports, and receives stop requests. Its decision travels as the gradient of one more parameter,
//! so that all ranks know it after the same step and no step waits for it. Batch norm sees a rank's own images, and
//! rank 0's running statistics are kept, as in PyTorch's `DataParallel` and `DistributedDataParallel`.

mod group;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::data::{Portion, Shard};
use crate::device::cuda::Plugin;
use crate::device::later::LaterNumber;
use crate::error::Result;
use crate::models::Network;
use distillery_core::protocol::StopRequest;
use group::{ProcessGroup, Reduction};

/// All ranks of a run, seen from one of them. Except where noted, every function is called by all ranks at the same
/// place of the run and waits for the others.
#[derive(Debug)]
pub struct Ranks {
    shard: Shard,
    /// `None` for the only rank of a run.
    distributed: Option<Distributed>,
}

#[derive(Debug)]
struct Distributed {
    group: ProcessGroup,
    /// A directory that all ranks of the run share.
    directory: PathBuf,
    /// Set on rank 0.
    interrupt: Option<Interrupt>,
    decisions: Option<DecisionChannel>,
    /// The weight of this rank's loss in the next step.
    weight: f64,
}

/// Stops the current work of the other ranks.
struct Interrupt(Box<dyn Fn()>);

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

/// Carries rank 0's decisions to all ranks.
#[derive(Debug)]
struct DecisionChannel {
    /// Multiplied by the decision in every loss, so that the decision is its gradient.
    parameter: Tensor,
    /// What rank 0 decides about the next step.
    next: Decision,
    /// Gradients of the steps whose decisions have not been read yet.
    sent: VecDeque<LaterNumber>,
    /// Steps between sending and reading: meanwhile the device computes the number.
    lag: usize,
}

/// What all ranks do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub stop: Option<StopRequest>,
    pub reads_metrics: bool,
}

impl Decision {
    const CONTINUE: Self = Self { stop: None, reads_metrics: false };

    /// A small integer, which survives being averaged with zeros in float32.
    fn to_number(self) -> f64 {
        let stop = match self.stop {
            None => 0.0,
            Some(StopRequest::Pause) => 1.0,
            Some(StopRequest::Cancel) => 2.0,
        };
        stop + if self.reads_metrics { 4.0 } else { 0.0 }
    }

    fn from_number(number: f64) -> Self {
        let number = number.round() as u8;
        let stop = match number & 3 {
            0 => None,
            1 => Some(StopRequest::Pause),
            _ => Some(StopRequest::Cancel),
        };
        Self { stop, reads_metrics: number & 4 != 0 }
    }
}

impl Ranks {
    /// The only rank of a run on one device.
    #[must_use]
    pub fn single() -> Self {
        Self { shard: Shard::WHOLE, distributed: None }
    }

    /// Joins the other ranks in `directory`, which no other run uses. Waits until all have joined. Calls `warn` about
    /// what works but is slow.
    ///
    /// # Errors
    /// The other ranks cannot be reached.
    pub fn join(shard: Shard, directory: &Path, device: Device, mut warn: impl FnMut(String)) -> Result<Self> {
        let mut nccl = None;
        if let Device::Cuda(_) = device {
            match Plugin::load().and_then(|plugin| plugin.nccl()) {
                Ok(found) => nccl = Some(found),
                Err(reason) => warn(format!(
                    "NCCL cannot be used, so gradients travel between GPUs through host memory, which is slow: {reason}"
                )),
            }
        }
        let group = ProcessGroup::join(&directory.join("meeting"), shard, nccl)?;
        let directory = directory.to_owned();
        let distributed = Distributed { group, directory, interrupt: None, decisions: None, weight: 1.0 };
        Ok(Self { shard, distributed: Some(distributed) })
    }

    /// Gives rank 0 the means to stop the current work of the other ranks: see
    /// [`interrupt_others`](Self::interrupt_others). Does not wait.
    #[must_use]
    pub fn interrupting_others_by(mut self, interrupt: impl Fn() + 'static) -> Self {
        if let Some(distributed) = &mut self.distributed {
            distributed.interrupt = Some(Interrupt(Box::new(interrupt)));
        }
        self
    }

    /// Whether this is rank 0, which writes and reports.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.shard.rank == 0
    }

    #[must_use]
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// A directory that all ranks share until the run ends; `None` for a single rank.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.distributed.as_ref().map(|distributed| distributed.directory.as_path())
    }

    /// Copies rank 0's student and optimiser `state` to all ranks. From then on, backward averages gradients.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn begin(&mut self, student: &Network, state: &[(String, Tensor)], device: Device) -> Result<()> {
        let Some(Distributed { group, decisions, .. }) = &mut self.distributed else { return Ok(()) };
        let weights = student.weights().iter().filter(|weight| weight.tied_to.is_none());
        let weights = weights.map(|weight| weight.tensor.detach());
        let state = state.iter().map(|(_, tensor)| tensor.shallow_clone());
        group.broadcast(&weights.chain(state).collect::<Vec<_>>())?;
        let parameter = Tensor::zeros([1], (Kind::Float, device)).set_requires_grad(true);
        // The others have no gradients, which would be waited for.
        let mut parameters: Vec<Tensor> = student.trained_and_used().map(Tensor::shallow_clone).collect();
        // Backward reaches the last parameter first, so the decision travels with the first gradients.
        parameters.push(parameter.shallow_clone());
        group.average_gradients_of(&parameters)?;
        let lag = if device == Device::Cpu { 0 } else { 2 };
        *decisions = Some(DecisionChannel { parameter, next: Decision::CONTINUE, sent: VecDeque::new(), lag });
        Ok(())
    }

    /// Copies rank 0's running statistics of batch norm to all ranks.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn broadcast_statistics(&self, student: &Network) -> Result<()> {
        let Some(Distributed { group, .. }) = &self.distributed else { return Ok(()) };
        let statistics = student.weights().iter().filter(|weight| !weight.trained && weight.tied_to.is_none());
        group.broadcast(&statistics.map(|weight| weight.tensor.shallow_clone()).collect::<Vec<_>>())
    }

    /// Called between two steps: hands over this rank's decision, of which only rank 0's counts, and returns what all
    /// ranks do now: what rank 0 decided a few steps ago. A single rank does what it decides.
    pub fn agree(&mut self, own: Decision) -> Decision {
        let Some(DecisionChannel { next, sent, lag, .. }) = self.decisions() else { return own };
        *next = own;
        if sent.len() <= *lag {
            return Decision::CONTINUE;
        }
        let gradient = sent.pop_front().expect("there are more than the lag");
        Decision::from_number(gradient.read() * f64::from(self.shard.world_size))
    }

    /// Weights the next step's loss, a mean over this rank's `portion` of a batch, so that the average over ranks is
    /// the mean over the batch. Does not wait.
    pub fn weight_loss(&mut self, portion: &Portion) {
        let world_size = f64::from(self.shard.world_size);
        if let Some(distributed) = &mut self.distributed {
            distributed.weight = portion.rows.len() as f64 * world_size / portion.batch_size.max(1) as f64;
        }
    }

    /// Whether this rank has no image in the batch, so that its loss has weight zero. Does not wait.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.distributed.as_ref().is_some_and(|distributed| distributed.weight == 0.0)
    }

    /// Computes the gradients of a loss, averaged over all ranks by their weights. Those of a step's further losses are
    /// added to those of its `first`.
    pub fn backward(&mut self, loss: &Tensor, is_first: bool) {
        let is_leader = self.is_leader();
        let Some(Distributed { group, decisions: Some(decisions), weight, .. }) = &mut self.distributed else {
            return loss.backward();
        };
        let decision = if is_leader && is_first { decisions.next.to_number() } else { 0.0 };
        let loss = if *weight == 1.0 { loss.shallow_clone() } else { loss * *weight };
        let loss = loss + (&decisions.parameter * decision).sum(Kind::Float);
        // tch's operators panic as well.
        group.prepare_backward(&loss).unwrap_or_else(|error| panic!("{error}"));
        loss.backward();
        let mut gradient = decisions.parameter.grad();
        // One decision per step.
        decisions.sent.extend(is_first.then(|| LaterNumber::send(&gradient)));
        let _ = gradient.zero_();
    }

    /// Replaces a tensor by the sum over all ranks.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn all_reduce_sum(&self, tensor: &Tensor) -> Result<()> {
        self.distributed.as_ref().map_or(Ok(()), |ranks| ranks.group.all_reduce(tensor, Reduction::Sum))
    }

    /// Replaces each number of a tensor by the minimum over all ranks.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn all_reduce_min(&self, tensor: &Tensor) -> Result<()> {
        self.distributed.as_ref().map_or(Ok(()), |ranks| ranks.group.all_reduce(tensor, Reduction::Min))
    }

    /// Whether any rank calls it with true.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn any(&self, own: bool) -> Result<bool> {
        let count = Tensor::from(i64::from(own));
        self.all_reduce_sum(&count)?;
        Ok(count.int64_value(&[]) > 0)
    }

    /// Returns on all ranks the text that `make` returns on rank 0.
    ///
    /// # Errors
    /// `make` failed, or another rank is gone.
    pub fn broadcast_text(&self, make: impl FnOnce() -> Result<String>) -> Result<String> {
        let own = if self.is_leader() { make()? } else { String::new() };
        let Some(Distributed { group, .. }) = &self.distributed else { return Ok(own) };
        let length = Tensor::from(own.len() as i64);
        group.broadcast(&[length.shallow_clone()])?;
        let bytes = Tensor::zeros([length.int64_value(&[])], (Kind::Uint8, Device::Cpu));
        if self.is_leader() {
            bytes.shallow_clone().copy_(&Tensor::from_slice(own.as_bytes()));
        }
        group.broadcast(&[bytes.shallow_clone()])?;
        Ok(String::from_utf8_lossy(&Vec::<u8>::try_from(bytes)?).into_owned())
    }

    /// Returns on all ranks the texts of all, in the order of the ranks.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn gather_texts(&self, own: &str) -> Result<Vec<String>> {
        let Shard { rank, world_size } = self.shard;
        // Each sum has one number of one rank, and zeros of the others.
        let numbers = |count: i64| Tensor::zeros([count], (Kind::Int64, Device::Cpu));
        let own_length = own.len() as i64;
        let lengths = numbers(i64::from(world_size));
        let _ = lengths.get(i64::from(rank)).fill_(own_length);
        self.all_reduce_sum(&lengths)?;
        let lengths = Vec::<i64>::try_from(lengths)?;
        let bytes = numbers(lengths.iter().sum());
        let start = lengths[..rank as usize].iter().sum::<i64>();
        bytes.narrow(0, start, own_length).copy_(&Tensor::from_slice(own.as_bytes()));
        self.all_reduce_sum(&bytes)?;
        let bytes: Vec<u8> = Vec::<i64>::try_from(bytes)?.into_iter().map(|byte| byte as u8).collect();
        let mut rest = bytes.as_slice();
        let texts = lengths.into_iter().map(|length| {
            let (text, others) = rest.split_at(length as usize);
            rest = others;
            String::from_utf8_lossy(text).into_owned()
        });
        Ok(texts.collect())
    }

    /// Stops the current work of the other ranks, whose result is no longer needed. Does nothing on other ranks than
    /// 0, and does not wait.
    pub fn interrupt_others(&self) {
        let interrupt = self.distributed.as_ref().and_then(|distributed| distributed.interrupt.as_ref());
        if let Some(Interrupt(interrupt)) = interrupt {
            interrupt();
        }
    }

    fn decisions(&mut self) -> Option<&mut DecisionChannel> {
        self.distributed.as_mut()?.decisions.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_survives_being_averaged_in_float32_over_any_number_of_ranks() {
        for count in 1..=64_u8 {
            for stop in [None, Some(StopRequest::Pause), Some(StopRequest::Cancel)] {
                for reads_metrics in [false, true] {
                    let decision = Decision { stop, reads_metrics };
                    let averaged = decision.to_number() as f32 / f32::from(count);
                    assert_eq!(Decision::from_number(f64::from(averaged) * f64::from(count)), decision);
                }
            }
        }
    }
}
