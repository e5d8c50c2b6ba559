//! The subcommands of `distillery-trainer`: each reads files, calls the rest, and turns errors into messages.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::data::normalisation::Normalisation;
use crate::data::{Loader, Shard};
use crate::device;
use crate::error::{Error, Result};
use crate::launch;
use crate::local_spec;
use crate::models::{self, state_dict};
use crate::output_file::{self, CommandInputs};
use crate::preprocessing::EvaluationPreprocessing;
use crate::ranks::Ranks;
use crate::run::classes::{ClassCounts, ClassTally, balanced_accuracy, macro_f1};
use crate::run::evaluate::{self, EvaluationSize, Seen};
use crate::settings::{Ending, Settings};
use crate::subject::Subject;
use crate::verify;
use crate::worker_link::control::Control;
use crate::worker_link::report::{Human, Ndjson, Report};
use distillery_core::architecture;
use distillery_core::checkpoint::{self, Checkpoint, Soundness};
use distillery_core::dataset::{Dataset, DatasetOptions, MeanStd};
use distillery_core::exported;
use distillery_core::protocol::{EXIT_STOPPED, ErrorClass, Evaluation, Event, files, probe_answer};
use distillery_core::spec::TrainingPlan;
use distillery_core::tell;
use distillery_core::trainer_flags::{ComputeArgs, ConvertArgs, EvaluateArgs, InspectArgs, TrainArgs, VerifyArgs};

/// `distillery-trainer train`.
#[must_use]
pub fn train(args: &TrainArgs) -> ExitCode {
    let mut report = report(args.events);
    let result = catching_panics(|| train_by(args, &mut *report));
    exit_code(result, &mut *report)
}

fn report(as_events: bool) -> Box<dyn Report> {
    if as_events { Box::new(Ndjson) } else { Box::new(Human::default()) }
}

/// Reports a failure.
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
        control.follow_standard_input();
    } else {
        control
            .pause_on_signals()
            .map_err(|error| Error::internal(format!("signal handlers cannot be installed: {error}")))?;
    }
    let spec = local_spec::read(args)?;
    spare_inputs(args, &spec)?;
    let settings = Settings {
        output: args.output.clone(),
        device: args.compute.device.clone(),
        all_devices: None,
        shard: Shard::WHOLE,
        threads: threads(&args.compute),
        cuda_graphs: !args.no_cuda_graphs,
        own_kernels: args.own_kernels,
        samples: !args.no_samples,
        data_memory: data_memory(&args.compute),
        // A user's own disk is the user's; a worker's trainer reads what others uploaded.
        follow_links: args.follow_links || !args.supervised,
        cache_dir: args.cache_dir.clone(),
        cache_limit: args.cache_mib.saturating_mul(1 << 20),
        cache_scales: args.cache_scales.clone(),
        pause_after: args.pause_after,
        attempt: args.attempt,
    };
    settings.prepare(spec.training.devices);
    let events = args.events;
    let lost = move |failure| self::report(events).event(&Event::Failed(failure));
    launch::train(&spec, &settings, &control, report, lost)
}

/// Checks that the run will not write over what it reads.
fn spare_inputs(args: &TrainArgs, spec: &TrainingPlan) -> Result<()> {
    let names = [
        files::BEFORE_LAST_EPOCH,
        files::BEST_STUDENT,
        files::CHECKPOINT,
        files::CLASSES,
        files::LAST_STUDENT,
        files::MANIFEST,
        files::METRICS,
        files::PREDICTIONS,
        files::PREDICTION_REPORT,
        files::REGIONS,
        files::SAMPLES,
    ];
    let (teacher, student) = (spec.teacher.as_ref(), &spec.student);
    let inputs = [
        ("the specification", Some(args.spec.as_path())),
        ("the teacher's checkpoint", teacher.map(|teacher| teacher.checkpoint.as_path())),
        ("the teacher's network", teacher.and_then(|teacher| teacher.network.as_deref())),
        ("the student's checkpoint", student.checkpoint.as_deref()),
        ("the student's network", student.network.as_deref()),
    ];
    let inputs: Vec<_> = inputs.into_iter().filter_map(|(name, path)| Some((name, path?))).collect();
    let inputs = CommandInputs { files: &inputs, dataset: Some(&spec.dataset.location.path) };
    output_file::check_directory(&args.output, &names, inputs)
}

/// `distillery-trainer rank`: one more process of a run that `train` started.
#[must_use]
pub fn rank() -> ExitCode {
    exit_code(catching_panics(launch::follow), &mut Ndjson)
}

/// `distillery-trainer probe`: says whether a job could run on each of these devices.
#[must_use]
pub fn probe(devices: &str) -> ExitCode {
    let probed = catching_panics(|| devices.split(',').try_for_each(compute_on));
    match probed {
        Ok(()) => {
            // Without its reader, the worker, nobody has the answer.
            let written = writeln!(io::stdout(), "{}", probe_answer(devices));
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            tell!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Opens a device and adds some numbers there.
fn compute_on(name: &str) -> Result<()> {
    const COUNT: i64 = 8;
    let device = device::open(name)?;
    let sum = Tensor::f_ones([COUNT], (Kind::Float, device))?.f_sum(Kind::Float)?;
    let sum = sum.f_double_value(&[])?;
    if sum == COUNT as f64 { Ok(()) } else { Err(Error::internal(format!("{name} adds {COUNT} ones to {sum}"))) }
}

fn threads(args: &ComputeArgs) -> usize {
    args.threads.map_or_else(device::cores, usize::from)
}

fn data_memory(args: &ComputeArgs) -> u64 {
    args.data_memory_mib.saturating_mul(1 << 20)
}

/// `distillery-trainer verify`. Succeeds if the repetition gives the same students.
#[must_use]
pub fn verify(args: &VerifyArgs) -> ExitCode {
    match catching_panics(|| verify::verify(args)) {
        Ok(verdict) => {
            let printed = print(Ok(&verdict));
            if verdict.matches { printed } else { ExitCode::FAILURE }
        }
        Err(error) => print::<Value>(Err(error)),
    }
}

/// Turns libtorch's panics into errors and keeps their backtraces from standard error.
fn catching_panics<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (sender, locations) = std::sync::mpsc::channel();
    let owner = std::thread::current().id();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == owner {
            let _ = sender.send(info.location().map(ToString::to_string));
        } else {
            usual(info);
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(work));
    drop(std::panic::take_hook());
    result.unwrap_or_else(|payload| {
        let error = Error::from_panic(&*payload);
        if error.class == ErrorClass::Internal
            && let Some(Some(location)) = locations.try_iter().last()
        {
            tracing::error!(location, "this is a bug");
        }
        Err(error)
    })
}

/// `distillery-trainer evaluate`.
#[must_use]
pub fn evaluate(args: &EvaluateArgs) -> ExitCode {
    print(catching_panics(|| evaluate_by(args)))
}

fn evaluate_by(args: &EvaluateArgs) -> Result<Value> {
    args.logits.as_deref().map_or(Ok(()), |output| spare_evaluated(args, output))?;
    device::prepare(threads(&args.compute));
    let device = device::open(&args.compute.device)?;
    let mut subject = Subject::open(args)?;
    for note in &subject.notes {
        tracing::warn!("{}: {note}", args.checkpoint.display());
    }
    let (image_column, label_column) = (args.image_column.clone(), args.label_column.clone());
    let dataset = Dataset::open(&args.dataset, &DatasetOptions { image_column, label_column, follow_links: true })?;
    for note in dataset.notes() {
        tracing::warn!("{note}");
    }
    state_dict::check_classes(
        "checkpoint",
        &args.checkpoint,
        subject.network.classes(),
        (args.dataset.as_path(), dataset.classes().count),
    )?;
    let preprocessing = EvaluationPreprocessing::choose(args, &subject)?;
    for note in &preprocessing.notes {
        tracing::warn!("{note}");
    }
    let open = |split: &str| preprocessing.open(&dataset, split, data_memory(&args.compute), device);
    let loader = open(&dataset.eval_split(args.split.as_deref())?)?;
    let MeanStd { mean, std } = match preprocessing.normalisation {
        Some(given) => given,
        None => open(&dataset.train_split(None)?)?.mean_std(),
    };
    let network = &mut subject.network;
    network.place(device, Kind::Float);
    let normalisation = Normalisation::new(mean, std, device);
    let begun = Instant::now();
    let (tally, mut logits) = (ClassTally::new(network.classes(), device), Vec::new());
    let keep = |seen: Seen<'_>| {
        tally.add(&seen);
        if args.logits.is_some() {
            logits.push(seen.logits.to_device(Device::Cpu));
        }
    };
    let size = EvaluationSize::default();
    let evaluation = evaluate::evaluate(network, &loader, &normalisation, &Ranks::single(), &size, || true, keep)?
        .ok_or_else(|| Error::internal("the evaluation stopped without a request"))?;
    for warning in size.warnings() {
        tracing::warn!("{warning}");
    }
    if !evaluation.loss.is_finite() {
        return Err(Error::user(format!(
            "the outputs of checkpoint {} are not finite: use another one",
            args.checkpoint.display()
        )));
    }
    let seconds = begun.elapsed().as_secs_f64();
    warn_of_corrupt(&loader);
    if let Some(path) = &args.logits {
        state_dict::write(path, &[("logits".to_owned(), Tensor::cat(&logits, 0))], &BTreeMap::new())?;
    }
    let classes = tally.read(&Ranks::single())?;
    Ok(evaluated(&evaluation, &classes, seconds, &[subject.notes.as_slice(), preprocessing.notes.as_slice()].concat()))
}

fn warn_of_corrupt(loader: &Loader) {
    if loader.corrupt_count() > 0 {
        let named = loader.corrupt().join("; ");
        tracing::warn!(images = loader.corrupt_count(), named, "unreadable images were left out");
    }
}

/// Checks that the logits will not be written over what they are computed from.
fn spare_evaluated(args: &EvaluateArgs, output: &Path) -> Result<()> {
    let network = args.network.as_deref().map(|path| ("the exported network", path));
    let files: Vec<_> = network.into_iter().chain([("the checkpoint", args.checkpoint.as_path())]).collect();
    output_file::check(output, CommandInputs { files: &files, dataset: Some(&args.dataset) })
}

fn evaluated(evaluation: &Evaluation, classes: &[ClassCounts], seconds: f64, notes: &[String]) -> Value {
    json!({
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "balanced_accuracy": balanced_accuracy(classes),
        "f1": macro_f1(classes),
        "images": evaluation.images,
        "images_per_second": evaluation.images as f64 / seconds,
        "notes": notes,
    })
}

/// `distillery-trainer convert`.
#[must_use]
pub fn convert(args: &ConvertArgs) -> ExitCode {
    print(convert_by(args))
}

fn convert_by(args: &ConvertArgs) -> Result<Value> {
    let ConvertArgs { input, output, state_dict } = args;
    output_file::check(output, CommandInputs { files: &[("the checkpoint", input.as_path())], dataset: None })?;
    if exported::is_exported(input) {
        models::exported::refuse_state_dict(input, state_dict.as_deref())?;
        let (file, doubt) = models::exported::open(input)?;
        let written = models::exported::write_state_dict(input, &file, output)?;
        let notes: Vec<String> = doubt.into_iter().collect();
        let mut converted = described(&written, &notes);
        converted["format"] = json!(file.description().format);
        return Ok(converted);
    }
    let unreadable = |error: checkpoint::Error| state_dict::unreadable(input, &error);
    let read = Checkpoint::open_state_dict(input, state_dict.as_deref()).map_err(unreadable)?;
    let mut notes = read.notes().to_vec();
    match read.soundness_as_it_fits().map_err(unreadable)? {
        Soundness::Sound => {}
        Soundness::Doubtful(doubt) => notes.push(doubt),
        Soundness::Unsound(unsound) => {
            return Err(Error::user(format!("checkpoint {} {unsound}", input.display())));
        }
    }
    read.convert(output).map_err(|error| match error {
        checkpoint::Error::Io(error) => Error::storage(output)(error),
        error => state_dict::unreadable(input, &error),
    })?;
    Ok(described(&read, &notes))
}

fn described(checkpoint: &Checkpoint, notes: &[String]) -> Value {
    let fits = architecture::fits(&checkpoint.shapes());
    json!({
        "notes": notes,
        "format": checkpoint.format().name(),
        "tensors": checkpoint.tensors().len(),
        "parameters": checkpoint.parameters(),
        "fits": fits.iter().map(|fit| fit.architecture.name).collect::<Vec<_>>(),
    })
}

/// `distillery-trainer inspect`.
#[must_use]
pub fn inspect(args: &InspectArgs) -> ExitCode {
    print(inspect_by(args))
}

fn inspect_by(args: &InspectArgs) -> Result<Value> {
    let path = &args.input;
    if exported::is_exported(path) {
        models::exported::refuse_state_dict(path, args.state_dict.as_deref())?;
        let (file, doubt) = models::exported::open(path)?;
        let mut description = json!(file.description());
        description["warnings"] = file.description().warnings.iter().cloned().chain(doubt).collect();
        return Ok(description);
    }
    let unreadable = |error: checkpoint::Error| state_dict::unreadable(path, &error);
    let read = Checkpoint::open_state_dict(path, args.state_dict.as_deref()).map_err(unreadable)?;
    let mut notes = read.notes().to_vec();
    match read.soundness_as_it_fits().map_err(unreadable)? {
        Soundness::Sound => {}
        Soundness::Doubtful(doubt) => notes.push(doubt),
        Soundness::Unsound(unsound) => notes.push(format!("the checkpoint {unsound}")),
    }
    Ok(described(&read, &notes))
}

/// Prints a result to standard output, or an error to standard error.
fn print<T: Serialize>(result: Result<T>) -> ExitCode {
    let written = result.and_then(|value| {
        let text = serde_json::to_string_pretty(&value).expect("results are JSON");
        writeln!(io::stdout(), "{text}").map_err(|error| Error::internal(format!("standard output: {error}")))
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may read that either.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}
