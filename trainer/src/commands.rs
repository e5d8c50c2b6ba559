//! What `distillery-trainer` does for each subcommand: reads files, calls the rest, turns errors into messages.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::data::normalisation::Normalisation;
use crate::data::{self, Framing, Loader, Share};
use crate::error::{Error, Result};
use crate::launch;
use crate::models::weights;
use crate::ranks::Ranks;
use crate::run::evaluate::{self, Seen};
use crate::run::{Ending, Settings};
use crate::worker_link::control::Control;
use crate::worker_link::report::{Human, Ndjson, Report};
use crate::{device, models, verify};
use clap::ValueEnum;
use distillery::architecture;
use distillery::checkpoint;
use distillery::dataset::{Dataset, Options};
use distillery::protocol::{EXIT_STOPPED, Event};
use distillery::spec::{self, JobSpec, Mode};
use distillery::trainer_flags::{ComputeArgs, ConvertArgs, Crop, EvaluateArgs, TrainArgs, VerifyArgs};

/// `distillery-trainer train`.
#[must_use]
pub fn train(args: &TrainArgs) -> ExitCode {
    let mut report: Box<dyn Report> = if args.events { Box::new(Ndjson) } else { Box::new(Human::default()) };
    let result = guarded(|| train_by(args, &mut *report));
    exit_code(result, &mut *report)
}

/// The status of a program that trains; a failure is reported.
fn exit_code(result: Result<Ending>, report: &mut dyn Report) -> ExitCode {
    match result {
        Ok(Ending::Finished) => ExitCode::SUCCESS,
        Ok(Ending::Stopped) => ExitCode::from(EXIT_STOPPED),
        Err(error) => {
            report.event(&Event::Failed(error.into()));
            ExitCode::FAILURE
        }
    }
}

fn train_by(args: &TrainArgs, report: &mut dyn Report) -> Result<Ending> {
    let control = Control::default();
    if args.supervised {
        control.supervised();
    } else {
        control.pause_on_signals().map_err(|error| Error::internal(format!("no signal handlers: {error}")))?;
    }
    let spec = read_spec(&args.spec)?;
    let settings = Settings {
        output: args.output.clone(),
        device: args.compute.device.clone(),
        all_devices: None,
        share: Share::WHOLE,
        threads: threads(&args.compute),
        cuda_graphs: !args.no_cuda_graphs,
        data_memory: data_memory(&args.compute),
        cache_dir: args.cache_dir.clone(),
        cache_limit: args.cache_mib.saturating_mul(1 << 20),
        attempt: args.attempt,
    };
    settings.prepare(spec.training.devices);
    let events = args.events;
    let lost = move |failure| {
        let mut report: Box<dyn Report> = if events { Box::new(Ndjson) } else { Box::new(Human::default()) };
        report.event(&Event::Failed(failure));
    };
    launch::train(&spec, &settings, &control, report, lost)
}

/// `distillery-trainer rank`: another rank of a run, told by its standard input which.
#[must_use]
pub fn rank() -> ExitCode {
    exit_code(guarded(launch::follow), &mut Ndjson)
}

/// The specification, or all its faults, one a line.
fn read_spec(path: &Path) -> Result<JobSpec> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::user(format!("{}: {error}", path.display())))?;
    let document: Value =
        serde_json::from_str(&text).map_err(|error| Error::user(format!("{} is not JSON: {error}", path.display())))?;
    spec::parse(&document, Mode::Local).map_err(|faults| {
        let lines = faults.iter().map(|fault| format!("\n  {}: {}", fault.pointer, fault.detail));
        Error::user(format!("{} cannot be used:{}", path.display(), lines.collect::<String>()))
    })
}

fn threads(args: &ComputeArgs) -> usize {
    args.threads.map_or_else(device::cores, usize::from)
}

/// `distillery-trainer verify`: success where the same students come out.
#[must_use]
pub fn verify(args: &VerifyArgs) -> ExitCode {
    match guarded(|| verify::verify(args)) {
        Ok(verdict) => {
            println!("{}", serde_json::to_string_pretty(&verdict).expect("a verdict is JSON"));
            if verdict.matches { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn data_memory(args: &ComputeArgs) -> u64 {
    args.data_memory_mib.saturating_mul(1 << 20)
}

/// Runs with libtorch's panics as errors, and without their backtraces on standard error.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (tell, told) = std::sync::mpsc::channel();
    let owner = std::thread::current().id();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == owner {
            let _ = tell.send(info.location().map(ToString::to_string));
        } else {
            usual(info);
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(work));
    drop(std::panic::take_hook());
    result.unwrap_or_else(|payload| {
        let mut error = Error::from_panic(&*payload);
        if error.class == distillery::protocol::ErrorClass::Internal
            && let Some(Some(location)) = told.try_iter().last()
        {
            error.message = format!("{} (at {location})", error.message);
        }
        Err(error)
    })
}

/// `distillery-trainer evaluate`.
#[must_use]
pub fn evaluate(args: &EvaluateArgs) -> ExitCode {
    print(guarded(|| evaluate_by(args)))
}

fn evaluate_by(args: &EvaluateArgs) -> Result<Value> {
    device::prepare(threads(&args.compute));
    let device = device::open(&args.compute.device)?;
    let known = || architecture::all().iter().map(|known| known.name).collect::<Vec<_>>().join(", ");
    let found = architecture::find(&args.architecture)
        .ok_or_else(|| Error::user(format!("unknown architecture {:?}; known: {}", args.architecture, known())))?;
    let (checkpoint, classes) = weights::open(&args.checkpoint, found)?;
    let options = Options { image_column: args.image_column.clone(), label_column: args.label_column.clone() };
    let dataset = Dataset::open(&args.dataset, &options)?;
    if classes != dataset.classes().count {
        return Err(Error::user(format!(
            "checkpoint {} tells {classes} classes apart, and data set {} has {}: they must be the same",
            args.checkpoint.display(),
            args.dataset.display(),
            dataset.classes().count
        )));
    }
    let stored_side = || checkpoint.metadata().get("image_size")?.parse().ok().filter(|side| (8..=1024).contains(side));
    let side = args.image_size.or_else(stored_side).unwrap_or(found.input_side);
    let stored_crop = || Crop::from_str(checkpoint.metadata().get("eval_crop")?, true).ok();
    let framing = match args.crop.or_else(stored_crop) {
        Some(Crop::Centre) => Framing::Centre,
        Some(Crop::Whole) | None => Framing::Whole,
    };
    let open = |split: &str| {
        let images = dataset.split(split)?.into();
        let memory_limit = data_memory(&args.compute);
        let (share, limit) = (Share::WHOLE, None);
        let options = data::Options { side, framing, limit, batch_size: 1, share, seed: 0, memory_limit, device };
        Ok::<_, Error>(Loader::open(images, options)?)
    };
    let split = dataset.eval_split(args.split.as_deref())?;
    let loader = open(&split)?;
    let of_checkpoint = |key: &str| serde_json::from_str(checkpoint.metadata().get(key)?).ok();
    let (mean, std) = match (args.mean.or_else(|| of_checkpoint("mean")), args.std.or_else(|| of_checkpoint("std"))) {
        (Some(mean), Some(std)) => (mean, std),
        _ => open(&dataset.train_split(None)?)?.mean_std(),
    };
    let mut network = models::build(found, classes, 0);
    weights::load(&network, &checkpoint, &args.checkpoint)?;
    network.place(device, Kind::Float);
    let normalisation = Normalisation::new(mean, std, device);
    let begun = Instant::now();
    let mut kept = Vec::new();
    let keep = |seen: Seen<'_>| {
        if args.logits.is_some() {
            kept.push(seen.logits.to_device(Device::Cpu));
        }
    };
    let evaluation = evaluate::evaluate(&network, &loader, &normalisation, &Ranks::alone(), || true, keep)?
        .ok_or_else(|| Error::internal("an evaluation that nobody stopped was stopped"))?;
    let images_per_second = evaluation.images as f64 / begun.elapsed().as_secs_f64();
    if loader.corrupt_count() > 0 {
        let named = loader.corrupt().join("; ");
        tracing::warn!(images = loader.corrupt_count(), named, "left out, as they cannot be read");
    }
    if let Some(path) = &args.logits {
        let logits = Tensor::cat(&kept, 0);
        weights::write(path, &[("logits".to_owned(), logits)], &std::collections::BTreeMap::new())?;
    }
    Ok(json!({
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "images": evaluation.images,
        "images_per_second": images_per_second,
    }))
}

/// `distillery-trainer convert`.
#[must_use]
pub fn convert(args: &ConvertArgs) -> ExitCode {
    let converted = checkpoint::convert(&args.input, &args.output);
    print(converted.map_err(|error| weights::unreadable(&args.input, &error)).map(|read| {
        json!({
            "format": read.format().name(),
            "tensors": read.tensors().len(),
            "parameters": read.parameters(),
            "fits": architecture::fits(&read.shapes()).iter().map(|fit| fit.architecture.name).collect::<Vec<_>>(),
        })
    }))
}

/// A result on standard output, or an error on standard error.
fn print(result: Result<Value>) -> ExitCode {
    match result {
        Ok(value) => {
            println!("{value:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
