//! Runs an exported network on a batch, and one step of SGD, and writes what it computes: `make networks` compares it
//! with PyTorch.
//!
//! `exported_step NETWORK.pt2 BATCH.safetensors RESULT.safetensors`: the batch has `images` (`[B, 3, H, W]`, float32,
//! as the network takes them) and `labels` (`[B]`, int64). The result has, in float32:
//!
//! - `logits.evaluation` (`[B, K]`), before the step; `logits.training` (`[B, K]`), and `map` (`[B, C, H, W]`) in
//!   evaluation if the network has a feature map, and `regions` (`[B, 4, K]`), the logits of its quarters, row by row;
//! - `gradient.KEY` of each parameter, of the mean cross entropy;
//! - `after.KEY` of every tensor of the state dict with floating-point numbers, after a step with learning rate 0.1.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use distillery_core::checkpoint::Checkpoint;
use distillery_core::spec::OptimizerSpec;
use distillery_trainer::device;
use distillery_trainer::error::{Error, Result};
use distillery_trainer::models::{Network, exported, state_dict};
use distillery_trainer::run::optim::Optimizer;
use tch::{Device, Kind, Reduction, Tensor, no_grad};

const LEARNING_RATE: f32 = 0.1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [network, batch, result] = arguments.as_slice() else {
        eprintln!("usage: exported_step NETWORK.pt2 BATCH.safetensors RESULT.safetensors");
        return ExitCode::FAILURE;
    };
    device::idle_threads_sleep();
    device::prepare(device::cores());
    match run(Path::new(network), Path::new(batch), Path::new(result)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(network: &Path, batch: &Path, result: &Path) -> Result<()> {
    let mut network = exported::build(network, &exported::open(network)?.0)?;
    network.place(Device::Cpu, Kind::Float);
    let batch = Checkpoint::open(batch).map_err(|error| Error::user(error.to_string()))?;
    let (images, labels) = (tensor(&batch, "images")?, tensor(&batch, "labels")?.to_kind(Kind::Int64));
    let mut made = Vec::new();
    no_grad(|| evaluate(&network, &images, &mut made));
    let logits = network.logits(&images, true);
    made.push(("logits.training".to_owned(), logits.detach()));
    logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0).backward();
    let trained = || network.weights().iter().filter(|weight| weight.trained);
    for weight in trained() {
        let gradient = weight.tensor.grad();
        let gradient = if gradient.defined() { gradient } else { weight.tensor.detach().zeros_like() };
        made.push((format!("gradient.{}", weight.name), gradient));
    }
    let named = trained().map(|weight| (weight.name.clone(), weight.tensor.shallow_clone())).collect();
    let sgd = OptimizerSpec::Sgd { learning_rate: 0.1, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    Optimizer::new(&sgd, named).step(&Tensor::from(LEARNING_RATE));
    for weight in network.weights().iter().filter(|weight| weight.tensor.kind() == Kind::Float) {
        made.push((format!("after.{}", weight.name), weight.tensor.detach()));
    }
    let made: Vec<(String, Tensor)> =
        made.into_iter().map(|(name, tensor)| (name, tensor.detach().contiguous().to_kind(Kind::Float))).collect();
    state_dict::write(result, &made, &BTreeMap::new())
}

fn evaluate(network: &Network, images: &Tensor, made: &mut Vec<(String, Tensor)>) {
    let features = network.features(images, false);
    made.push(("logits.evaluation".to_owned(), network.classify_map(&features, false)));
    if network.has_map() && features.size()[2].min(features.size()[3]) >= 2 {
        let regions = network.regions(&features, &[2], false);
        made.push(("map".to_owned(), features));
        made.push(("regions".to_owned(), regions.local));
    }
}

fn tensor(batch: &Checkpoint, name: &str) -> Result<Tensor> {
    let missing = || Error::user(format!("the batch has no {name}"));
    let stored = batch.tensors().iter().find(|tensor| tensor.name() == name).ok_or_else(missing)?;
    let values = batch.floats(stored).map_err(|error| Error::user(error.to_string()))?;
    let shape: Vec<i64> = stored.shape().iter().map(|&size| size as i64).collect();
    Ok(Tensor::from_slice(&values).reshape(shape))
}
