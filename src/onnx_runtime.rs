//! ONNX Runtime, loaded where it is there, to check exported students with a program that is not ours.
//!
//! Only `distillery export` and `distillery measure` load it. The server starts these commands as processes, so that it
//! stays small and a fault in the library ends nothing else.

use std::path::Path;

use anyhow::Context;
use distillery_core::export::{Runtime, onnx};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;

/// Exit status of `distillery measure` where ONNX Runtime is not there.
pub const EXIT_NO_RUNTIME: u8 = 5;

/// Most threads that run a student.
const MOST_THREADS: usize = 4;

/// The library, loaded. One for each process.
#[derive(Debug)]
pub struct OnnxRuntime {
    environment: Environment,
    version: String,
}

impl OnnxRuntime {
    /// Loads the library from a path, or by a name that the dynamic linker finds.
    ///
    /// # Errors
    /// There is none, or it is too old: a sentence that says what to do.
    pub fn load(library: &Path) -> anyhow::Result<Self> {
        let built = || -> anyhow::Result<Environment> {
            Ok(ort::init_from(library)?.with_name("distillery").with_telemetry(false).build()?)
        };
        let environment = built().map_err(|error| {
            anyhow::anyhow!(
                "ONNX Runtime is not here ({error:#}): install it (pip install onnxruntime, where distillery itself \
                 came from pip) or name its library, libonnxruntime.so, with --onnxruntime or DISTILLERY_ONNXRUNTIME, \
                 and start this program again"
            )
        })?;
        Ok(Self { environment, version: version(library) })
    }

    /// Name and version, for the report.
    #[must_use]
    pub fn facts(&self) -> Runtime {
        Runtime { name: "ONNX Runtime".to_owned(), version: self.version.clone() }
    }

    /// Reads an ONNX file.
    ///
    /// # Errors
    /// ONNX Runtime does not accept the file.
    pub fn open(&self, model: &Path) -> anyhow::Result<Model> {
        // Each thread takes memory, and a server has other work.
        self.open_with(model, std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS))
    }

    /// Reads an ONNX file, to run it with this number of threads.
    ///
    /// # Errors
    /// ONNX Runtime does not accept the file.
    pub fn open_with(&self, model: &Path, threads: usize) -> anyhow::Result<Model> {
        let builder = Session::builder(&self.environment)?;
        let mut builder = builder.with_intra_threads(threads).map_err(|error| anyhow::anyhow!("{error}"))?;
        let session = builder.commit_from_file(model).context("ONNX Runtime cannot read the exported student")?;
        Ok(Model(session))
    }
}

/// The model name of the processor that it computes on.
#[must_use]
pub fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let value: String = value.trim().chars().take(100).collect();
        (key.trim() == "model name" && !value.is_empty()).then_some(value)
    };
    text.lines().find_map(named).unwrap_or_else(|| format!("an unnamed CPU ({})", std::env::consts::ARCH))
}

/// The version in the library's file name, as in `libonnxruntime.so.1.23.2`, or else what it says of its build.
fn version(library: &Path) -> String {
    let real = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.rsplit_once(".so.") {
        Some((_, version)) => version.to_owned(),
        None => ort::info().chars().take(200).collect(),
    }
}

/// An exported student that can be run.
#[derive(Debug)]
pub struct Model(Session);

impl Model {
    /// All outputs for images [N, C, H, W] by name.
    ///
    /// # Errors
    /// ONNX Runtime fails.
    pub fn run(&mut self, images: &[f32], shape: [u64; 4]) -> anyhow::Result<Vec<(String, Vec<f32>)>> {
        let shape = shape.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        let input = TensorRef::from_array_view((shape, images))?;
        let outputs = self.0.run(ort::inputs![onnx::INPUT => input]).context("ONNX Runtime cannot run the student")?;
        let floats = |(name, value): (&str, ort::value::ValueRef<'_>)| {
            let (_, elements) = value.try_extract_tensor::<f32>()?;
            anyhow::Ok((name.to_owned(), elements.to_vec()))
        };
        outputs.iter().map(floats).collect()
    }

    /// The logits [N, classes].
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn logits(&mut self, images: &[f32], shape: [u64; 4]) -> anyhow::Result<Vec<f32>> {
        let outputs = self.run(images, shape)?;
        let logits = outputs.into_iter().find(|(name, _)| name == onnx::OUTPUT);
        Ok(logits.context("the exported student has no logits")?.1)
    }
}
