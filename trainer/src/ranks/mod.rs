//! Several devices for one run: a process for each, the ranks, which train copies of one student on their parts of every
//! batch and average their gradients.
//!
//! Rank 0 is the process that the run was started as. It [launches](crate::launch) the others and decides for all: it alone writes
//! files, reports and hears commands. What it decides goes with the gradients as the gradient of one number more, so that
//! all ranks know it after the same step and no step waits for it. Batch norm sees a rank's own images, and what is kept
//! of it is rank 0's, as in PyTorch's `DataParallel` and `DistributedDataParallel`.

mod group;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::data::Shard;
use crate::device::cuda::Plugin;
use crate::error::Result;
use crate::models::Network;
use distillery::protocol::StopRequest;
use group::Group;

/// One rank's view of all of a run's. A run on one device has one, which is [alone](Self::alone).
#[derive(Debug)]
pub struct Ranks {
    shard: Shard,
    together: Option<Together>,
}

/// What there is where a rank is not alone.
#[derive(Debug)]
struct Together {
    group: Group,
    /// Where all ranks of the run can put files.
    place: PathBuf,
    /// Stops the other ranks' current work; set on rank 0.
    interrupt: Option<Interrupt>,
    messenger: Option<Messenger>,
    /// The weight of this rank's loss in the next step.
    weight: f64,
}

/// Stops the other ranks' current work.
struct Interrupt(Box<dyn Fn()>);

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

/// Brings rank 0's orders to all ranks.
#[derive(Debug)]
struct Messenger {
    /// Takes part in every loss with the order as its factor, so that this is its gradient.
    parameter: Tensor,
    /// Of the next step.
    own: Decision,
    /// Gradients of the steps whose orders are not read yet.
    sent: VecDeque<Tensor>,
    /// Steps between sending and reading. To read a number is to wait for the device; with this many steps in between it
    /// has got there meanwhile.
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

    /// A small integer, so that it survives being averaged with zeros in float32.
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
    /// The one rank of a run on one device.
    #[must_use]
    pub fn alone() -> Self {
        Self { shard: Shard::WHOLE, together: None }
    }

    /// Meets the other ranks, which `place`, a directory of theirs alone, is for. Waits until all are there. `warn` is
    /// told what works, but slowly.
    ///
    /// # Errors
    /// They cannot be reached.
    pub fn meet(shard: Shard, place: &Path, device: Device, mut warn: impl FnMut(String)) -> Result<Self> {
        let mut nccl = None;
        if let Device::Cuda(_) = device {
            match Plugin::load().and_then(|plugin| plugin.nccl()) {
                Ok(found) => nccl = Some(found),
                Err(reason) => warn(format!(
                    "gradients go from GPU to GPU by way of the processor, which is slow: NCCL cannot be used ({reason})"
                )),
            }
        }
        let group = Group::meet(&place.join("meeting"), shard.rank, shard.world_size, nccl)?;
        let together = Together { group, place: place.to_owned(), interrupt: None, messenger: None, weight: 1.0 };
        Ok(Self { shard, together: Some(together) })
    }

    /// Gives rank 0 the means to stop the other ranks' current work: see [`interrupt`](Self::interrupt).
    #[must_use]
    pub fn interrupting_others_by(mut self, interrupt: impl Fn() + 'static) -> Self {
        if let Some(together) = &mut self.together {
            together.interrupt = Some(Interrupt(Box::new(interrupt)));
        }
        self
    }

    /// Whether this rank writes and reports.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.shard.rank == 0
    }

    /// Which part of the data it sees.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// A directory for files that all ranks use until the run ends; none where there is one rank.
    #[must_use]
    pub fn place(&self) -> Option<&Path> {
        self.together.as_ref().map(|together| together.place.as_path())
    }

    /// Gives all ranks rank 0's student and optimiser's `state`, and has them average gradients from now on.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn begin(&mut self, student: &Network, state: &[(String, Tensor)], device: Device) -> Result<()> {
        let Some(Together { group, messenger, .. }) = &mut self.together else { return Ok(()) };
        let weights = student.weights().iter().map(|weight| weight.tensor.detach());
        let state = state.iter().map(|(_, tensor)| tensor.shallow_clone());
        group.copy_first(&weights.chain(state).collect::<Vec<_>>())?;
        let parameter = Tensor::zeros([1], (Kind::Float, device)).set_requires_grad(true);
        let mut parameters: Vec<Tensor> = student.trained().map(Tensor::shallow_clone).collect();
        // Its gradient is there first, and goes with the first ones.
        parameters.push(parameter.shallow_clone());
        group.average(&parameters)?;
        let lag = if device == Device::Cpu { 0 } else { 2 };
        *messenger = Some(Messenger { parameter, own: Decision::CONTINUE, sent: VecDeque::new(), lag });
        Ok(())
    }

    /// Gives all ranks rank 0's running statistics of batch norm.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn share_statistics(&self, student: &Network) -> Result<()> {
        let Some(Together { group, .. }) = &self.together else { return Ok(()) };
        let statistics = student.weights().iter().filter(|weight| !weight.trained);
        group.copy_first(&statistics.map(|weight| weight.tensor.shallow_clone()).collect::<Vec<_>>())
    }

    /// Says what this rank wants, between two steps, and learns what all do now: what rank 0 wanted a moment ago. Alone,
    /// that is what it wants.
    pub fn agree(&mut self, own: Decision) -> Decision {
        let Some(Messenger { own: next, sent, lag, .. }) = self.messenger() else { return own };
        *next = own;
        if sent.len() <= *lag {
            return Decision::CONTINUE;
        }
        let gradient = sent.pop_front().expect("there are more than the lag");
        Decision::from_number(gradient.double_value(&[0]) * f64::from(self.shard.world_size))
    }

    /// Sets what the next step's loss, a mean over `images` of this rank, counts in that of a batch of `all` images: the
    /// average over ranks is the mean over the batch.
    pub fn weigh(&mut self, images: usize, all: usize) {
        let count = f64::from(self.shard.world_size);
        if let Some(together) = &mut self.together {
            together.weight = images as f64 * count / all.max(1) as f64;
        }
    }

    /// Whether there was no image for this rank in the batch: it takes part with a loss that counts nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.together.as_ref().is_some_and(|together| together.weight == 0.0)
    }

    /// The gradients of a loss, averaged over all ranks by their weights.
    pub fn backward(&mut self, loss: &Tensor) {
        let leads = self.leads();
        let Some(Together { group, messenger: Some(messenger), weight, .. }) = &mut self.together else {
            return loss.backward();
        };
        let order = if leads { messenger.own.to_number() } else { 0.0 };
        let loss = if *weight == 1.0 { loss.shallow_clone() } else { loss * *weight };
        let loss = loss + (&messenger.parameter * order).sum(Kind::Float);
        // As the operators of tch: what fails here ends the run.
        group.expect(&loss).unwrap_or_else(|error| panic!("{error}"));
        loss.backward();
        let mut gradient = messenger.parameter.grad();
        messenger.sent.push_back(gradient.copy());
        let _ = gradient.zero_();
    }

    /// Replaces a tensor by the sum of all ranks'.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn sum(&self, tensor: &Tensor) -> Result<()> {
        self.together.as_ref().map_or(Ok(()), |together| together.group.combine(tensor, false))
    }

    /// Replaces each number of a tensor by the least of all ranks'.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn least(&self, tensor: &Tensor) -> Result<()> {
        self.together.as_ref().map_or(Ok(()), |together| together.group.combine(tensor, true))
    }

    /// Whether `any` rank says so.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn any(&self, own: bool) -> Result<bool> {
        let said = Tensor::from(i64::from(own));
        self.sum(&said)?;
        Ok(said.int64_value(&[]) > 0)
    }

    /// Gives all ranks the text that rank 0 makes.
    ///
    /// # Errors
    /// It could not be made, or another rank is gone.
    pub fn tell(&self, make: impl FnOnce() -> Result<String>) -> Result<String> {
        let own = if self.leads() { make()? } else { String::new() };
        let Some(Together { group, .. }) = &self.together else { return Ok(own) };
        let length = Tensor::from(own.len() as i64);
        group.copy_first(&[length.shallow_clone()])?;
        let bytes = Tensor::zeros([length.int64_value(&[])], (Kind::Uint8, Device::Cpu));
        if self.leads() {
            bytes.shallow_clone().copy_(&Tensor::from_slice(own.as_bytes()));
        }
        group.copy_first(&[bytes.shallow_clone()])?;
        Ok(String::from_utf8_lossy(&Vec::<u8>::try_from(bytes)?).into_owned())
    }

    /// Has the other ranks leave what they do between two steps: rank 0 does so, and they would work for nothing.
    pub fn interrupt(&self) {
        if let Some(Interrupt(interrupt)) = self.together.as_ref().and_then(|together| together.interrupt.as_ref()) {
            interrupt();
        }
    }

    fn messenger(&mut self) -> Option<&mut Messenger> {
        self.together.as_mut()?.messenger.as_mut()
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
