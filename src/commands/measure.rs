//! `distillery measure`: how long a student takes on this CPU.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use distillery_core::architecture::{self, Init};
use distillery_core::checkpoint::{self, Dtype, NewTensor};
use distillery_core::export::{EXIT_REFUSED, Error, Student, onnx};
use distillery_core::exported::{ExportedNetwork, TensorRole};
use tempfile::TempDir;

use super::export::limit_memory;
use crate::cli::MeasureArgs;
use crate::db::latencies::{BatchLatency, Latency};
use crate::onnx_runtime::{self, EXIT_NO_RUNTIME, Model, OnnxRuntime};

/// Fewest runs of a batch after the first.
const LEAST_RUNS: usize = 3;
/// Most runs of a batch.
const MOST_RUNS: usize = 200;
/// Value of every element of the images. Time does not depend on it, as long as no number becomes denormal.
const PIXEL: f32 = 0.25;
/// Value of every weight that would be random.
const WEIGHT: f32 = 0.01;

/// Measures, and prints the result as JSON.
///
/// # Errors
/// ONNX Runtime is not there, or the student cannot be run in it.
pub fn run(args: &MeasureArgs) -> anyhow::Result<()> {
    limit_memory(args.memory_mib)?;
    // First, because nothing else is of use without it.
    let runtime = OnnxRuntime::load(&args.onnxruntime).map_err(NoRuntime)?;
    let scratch = tempfile::Builder::new().prefix("measure-").tempdir().context("cannot write temporary files")?;
    let student = open(args, &scratch)?;
    let file = scratch.path().join("student.onnx");
    let output = File::create(&file).context("cannot write temporary files")?;
    onnx::write(&student, &onnx::Options::default(), &mut BufWriter::new(output))?;
    let load = load();
    let mut model = runtime.open_with(&file, 1)?;
    let (mut batches, mut notes) = (Vec::new(), Vec::new());
    for &batch in &args.batch {
        match measure(&mut model, student.input(), batch, Duration::from_secs(args.seconds)) {
            Ok(latency) => batches.push(latency),
            Err(error) => notes.push(format!("{batch} images at a time cannot be measured: {error:#}")),
        }
    }
    if batches.is_empty() {
        return Err(Error::Refused(notes.join("; ")).into());
    }
    let facts = runtime.facts();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let latency = Latency {
        cpu: onnx_runtime::cpu(),
        runtime: format!("{} {}", facts.name, facts.version),
        load,
        processors: u32::try_from(processors).unwrap_or(u32::MAX),
        batches,
        notes,
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&latency)?)?;
    Ok(())
}

/// The error if ONNX Runtime is missing.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}. Latencies are measured with it")]
struct NoRuntime(anyhow::Error);

/// The exit status for an error of [`run`].
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<NoRuntime>() {
        return EXIT_NO_RUNTIME.into();
    }
    let is_refused = error.downcast_ref::<Error>().is_some_and(Error::is_users);
    if is_refused { EXIT_REFUSED.into() } else { ExitCode::FAILURE }
}

/// The student, or an untrained network with files in `scratch`.
fn open(args: &MeasureArgs, scratch: &TempDir) -> anyhow::Result<Student> {
    let weights = scratch.path().join("untrained.safetensors");
    match (&args.student, &args.network, &args.architecture) {
        (Some(student), network, _) => Ok(Student::open(student, network.as_deref())?),
        (None, Some(network), _) => {
            write_own_weights(network, &weights)?;
            Ok(Student::open(&weights, Some(network.as_path()))?)
        }
        (None, None, Some(name)) => {
            write_constant_weights(name, args.num_classes.unwrap_or(1), args.image_size, &weights)?;
            Ok(Student::open(&weights, None)?)
        }
        (None, None, None) => anyhow::bail!("name a student, a network or an architecture"),
    }
}

/// Writes the state dict of an exported network.
fn write_own_weights(network: &Path, path: &Path) -> Result<(), Error> {
    let network = ExportedNetwork::open(network)?;
    let state = || network.tensors().iter().filter(|stored| stored.role != TensorRole::Constant);
    let bytes = state().map(|stored| network.bytes(stored)).collect::<Result<Vec<_>, _>>()?;
    let tensors: Vec<_> = state()
        .zip(&bytes)
        .map(|(stored, bytes)| NewTensor {
            name: stored.tensor.name(),
            dtype: stored.tensor.dtype(),
            shape: stored.tensor.shape(),
            bytes,
        })
        .collect();
    Ok(checkpoint::write(path, &tensors, &BTreeMap::new())?)
}

/// Writes weights of an architecture. Random ones would take the same time.
fn write_constant_weights(name: &str, classes: u32, side: Option<u32>, path: &Path) -> anyhow::Result<()> {
    let network = architecture::named(name)?;
    let layout = network.layout_at(classes, side.unwrap_or(network.input_side));
    let elements = |shape: &[u64]| usize::try_from(shape.iter().product::<u64>()).unwrap_or(usize::MAX);
    let bytes: Vec<Vec<u8>> = layout
        .entries
        .iter()
        .map(|entry| {
            let value = if let Init::Const(value) = entry.init { value } else { WEIGHT };
            value.to_le_bytes().repeat(elements(&entry.shape))
        })
        .collect();
    let tensors: Vec<_> = layout
        .entries
        .iter()
        .zip(&bytes)
        .map(|(entry, bytes)| NewTensor { name: &entry.key, dtype: Dtype::F32, shape: &entry.shape, bytes })
        .collect();
    let mut metadata = BTreeMap::from([("architecture".to_owned(), network.name.to_owned())]);
    metadata.extend(side.map(|side| ("image_size".to_owned(), side.to_string())));
    Ok(checkpoint::write(path, &tensors, &metadata)?)
}

/// Runs a batch again and again.
fn measure(model: &mut Model, image: [u64; 3], batch: u32, time: Duration) -> anyhow::Result<BatchLatency> {
    let [channels, height, width] = image;
    let shape = [u64::from(batch), channels, height, width];
    let images = vec![PIXEL; usize::try_from(shape.iter().product::<u64>())?];
    // The first run makes room, and chooses kernels.
    model.logits(&images, shape)?;
    let begun = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < LEAST_RUNS || (begun.elapsed() < time && runs.len() < MOST_RUNS) {
        let start = Instant::now();
        model.logits(&images, shape)?;
        runs.push(start.elapsed().as_secs_f64() * 1e3);
    }
    runs.sort_by(f64::total_cmp);
    Ok(BatchLatency {
        batch,
        median_ms: median(&runs),
        fastest_ms: runs[0],
        runs: u32::try_from(runs.len()).unwrap_or(u32::MAX),
    })
}

/// The median of at least one value, in ascending order.
fn median(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The machine's load average over the last minute; 0 if it is unknown.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < 1e-12);
    }
}
