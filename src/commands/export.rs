//! `distillery export`: writes a student in another format, and checks that it computes the same.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use distillery_core::export::bundle::{self, BundledFile};
use distillery_core::export::int8::{self, Ranges};
use distillery_core::export::onnx::{self, Numbers, Options};
use distillery_core::export::samples::tensors;
use distillery_core::export::{
    EXIT_REFUSED, ExportFormat, ExportReport, LogitComparison, Parity, Runtime, Samples, Student, StudentSource,
    TOLERANCE, write_pt2,
};
use distillery_core::file_kind::{irregular, is_same_file};
use rustix::process::{Resource, Rlimit, setrlimit};
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use crate::cli::ExportArgs;
use crate::onnx_runtime::OnnxRuntime;

/// Images that are run at a time.
const BATCH: usize = 16;
/// Most images that int8 is calibrated on. Their number must not depend on the machine, nor must the file.
const CALIBRATION: usize = 256;
/// How long logits are compared. What then remains is left out, and the report says how many images were compared.
const COMPARING: Duration = Duration::from_secs(120);

/// # Errors
/// The student cannot be written in this format, its logits differ too much in ONNX Runtime, or a file cannot be read
/// or written. No file is written then.
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    limit_memory(args.memory_mib)?;
    spare_inputs(args)?;
    check_preprocess(args)?;
    let student = Student::open(&args.student, args.network.as_deref())?;
    let parent = args.output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".export-").tempdir_in(parent);
    let scratch = scratch.with_context(|| format!("cannot write to {}", parent.display()))?;
    let export = Export { args, student, check: CheckMethod::prepare(args)?, scratch };
    let (file, report) = export.write(args.format)?;
    let report = serde_json::to_string_pretty(&report)?;
    if let Some(path) = &args.report {
        std::fs::write(path, format!("{report}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    file.as_file().sync_all()?;
    file.persist(&args.output).with_context(|| format!("cannot write {}", args.output.display()))?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

/// Checks that nothing is written over what is read, or over what is no regular file.
fn spare_inputs(args: &ExportArgs) -> anyhow::Result<()> {
    let inputs = [
        ("the student", Some(&args.student)),
        ("the exported network", args.network.as_ref()),
        ("the file of samples", args.samples.as_ref()),
        ("the manifest", args.manifest.as_ref()),
    ];
    for output in std::iter::once(&args.output).chain(&args.report) {
        let is_input = |(_, input): &(&str, Option<&PathBuf>)| input.is_some_and(|input| is_same_file(input, output));
        if let Some((name, _)) = inputs.iter().find(|input| is_input(input)) {
            bail!("{} is {name} itself: name another file", output.display());
        }
    }
    // A broken link leads to no file.
    let found = std::fs::metadata(&args.output).or_else(|_| std::fs::symlink_metadata(&args.output));
    if let Some(kind) = found.ok().and_then(|facts| irregular(facts.file_type())) {
        bail!("{} is {kind}, not a regular file: name another file", args.output.display());
    }
    Ok(())
}

/// Bounds what this process allocates, so that a large student fails here rather than ends other processes of the
/// machine.
pub(super) fn limit_memory(mebibytes: Option<u64>) -> anyhow::Result<()> {
    let Some(mebibytes) = mebibytes else { return Ok(()) };
    let bytes = Some(mebibytes.saturating_mul(1 << 20));
    setrlimit(Resource::Data, Rlimit { current: bytes, maximum: bytes })
        .context("cannot limit the memory of the export")
}

/// Checks that something that is written has a graph to normalise in.
fn check_preprocess(args: &ExportArgs) -> anyhow::Result<()> {
    let is_possible = match args.format {
        ExportFormat::Bundle => args.with.is_empty() || args.with.iter().any(|format| format.is_onnx()),
        format => format.is_onnx(),
    };
    if args.preprocess && !is_possible {
        return refused("--preprocess is for onnx and int8: none of them is written");
    }
    Ok(())
}

/// The exit status for an error of [`run`].
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_refused =
        error.downcast_ref::<distillery_core::export::Error>().is_some_and(distillery_core::export::Error::is_users);
    if is_refused { EXIT_REFUSED.into() } else { ExitCode::FAILURE }
}

/// An error that the student is the reason of.
fn refused<T>(message: impl Into<String>) -> anyhow::Result<T> {
    Err(distillery_core::export::Error::Refused(message.into()).into())
}

/// What checks exported students, or why nothing does.
enum CheckMethod {
    With(Box<(OnnxRuntime, PathBuf)>),
    Not(String),
}

impl CheckMethod {
    fn prepare(args: &ExportArgs) -> anyhow::Result<Self> {
        let is_needed = match args.format {
            ExportFormat::Onnx | ExportFormat::Int8 | ExportFormat::Bundle => true,
            ExportFormat::Safetensors | ExportFormat::Pt2 => false,
        };
        let Some(samples) = args.samples.clone().filter(|_| is_needed) else {
            let reason = if is_needed {
                "no samples were given to compare logits on (--samples)"
            } else {
                "the file has the student's own weights, and ONNX Runtime does not read it"
            };
            return Ok(Self::Not(reason.to_owned()));
        };
        match OnnxRuntime::load(&args.onnxruntime) {
            Ok(runtime) => Ok(Self::With(Box::new((runtime, samples)))),
            Err(error) => Ok(Self::Not(format!("{error:#}"))),
        }
    }
}

struct Export<'a> {
    args: &'a ExportArgs,
    student: Student,
    check: CheckMethod,
    /// For files that are not wanted.
    scratch: TempDir,
}

impl Export<'_> {
    fn file(&self) -> anyhow::Result<NamedTempFile> {
        // As for any new file, before the umask.
        let permissions = Permissions::from_mode(0o666);
        Ok(tempfile::Builder::new().permissions(permissions).tempfile_in(self.scratch.path())?)
    }

    fn write(&self, format: ExportFormat) -> anyhow::Result<(NamedTempFile, ExportReport)> {
        match format {
            ExportFormat::Safetensors => {
                let file = self.file()?;
                self.student.write_safetensors(file.path())?;
                // The writer replaces the file by rename.
                let file = NamedTempFile::from_parts(File::open(file.path())?, file.into_temp_path());
                self.unchecked(format, file)
            }
            ExportFormat::Pt2 => {
                let file = self.file()?;
                write_pt2(&self.student, BufWriter::new(file.as_file()))?;
                self.unchecked(format, file)
            }
            ExportFormat::Onnx => self.onnx(),
            ExportFormat::Int8 => self.int8(),
            ExportFormat::Bundle => self.bundle(),
        }
    }

    fn model(&self, numbers: Numbers<'_>) -> anyhow::Result<NamedTempFile> {
        let file = self.file()?;
        let options = Options { preprocess: self.args.preprocess, numbers, ..Options::default() };
        onnx::write(&self.student, &options, &mut BufWriter::new(file.as_file()))?;
        Ok(file)
    }

    fn onnx(&self) -> anyhow::Result<(NamedTempFile, ExportReport)> {
        let file = self.model(Numbers::Float32)?;
        self.checked(ExportFormat::Onnx, file, Some(TOLERANCE))
    }

    fn int8(&self) -> anyhow::Result<(NamedTempFile, ExportReport)> {
        let ranges = self.calibrate()?;
        let file = self.model(Numbers::Int8(&ranges))?;
        self.checked(ExportFormat::Int8, file, None)
    }

    /// Runs the student in float32 on training images, and notes the range of each activation.
    fn calibrate(&self) -> anyhow::Result<Ranges> {
        let CheckMethod::With(check) = &self.check else {
            let CheckMethod::Not(reason) = &self.check else { unreachable!("there are two") };
            return refused(format!("int8 needs ONNX Runtime and training images to calibrate on: {reason}"));
        };
        let (runtime, samples) = &**check;
        let samples = self.samples(samples)?;
        let watched = int8::watched(&self.student);
        let file = self.model(Numbers::Observed(&watched))?;
        let mut model = runtime.open(file.path())?;
        let mut ranges = Ranges::default();
        let mut images = 0;
        for batch in samples.calibration(BATCH).take(CALIBRATION / BATCH) {
            let (batch, shape) = batch?;
            let outputs = model.run(&batch, shape)?;
            let find =
                |name: &str| outputs.iter().find(|(found, _)| found == name).and_then(|(_, values)| values.first());
            for &value in &watched {
                let [low, high] = int8::outputs(value).map(|name| find(&name).copied());
                let (Some(low), Some(high)) = (low, high) else {
                    bail!("ONNX Runtime gives no range of value {value}")
                };
                ranges.observe(value, low, high)?;
            }
            images += shape[0];
        }
        if images == 0 {
            return refused("int8 needs training images to calibrate on, and the samples have none (calibration)");
        }
        Ok(ranges)
    }

    fn samples(&self, path: &Path) -> anyhow::Result<Samples> {
        let logits = if self.args.last { tensors::LAST_LOGITS } else { tensors::LOGITS };
        let mut samples = Samples::open(path, &self.student, logits)?;
        if self.args.preprocess {
            samples.denormalise(&self.student.preprocessing())?;
        }
        Ok(samples)
    }

    /// `None` if the samples do not have the student's logits.
    fn compare(
        &self,
        runtime: &OnnxRuntime,
        samples: &Path,
        file: &Path,
        tolerance: Option<f64>,
    ) -> anyhow::Result<Option<Parity>> {
        let samples = self.samples(samples)?;
        if !samples.has_logits() {
            return Ok(None);
        }
        let mut model = runtime.open(file)?;
        let mut comparison = LogitComparison::default();
        let begun = Instant::now();
        for batch in samples.batches(BATCH) {
            let batch = batch?;
            comparison.add(&batch, &model.logits(&batch.images, batch.shape)?)?;
            if begun.elapsed() > COMPARING {
                break;
            }
        }
        Ok(Some(Parity { available: samples.images(), ..comparison.parity(tolerance) }))
    }

    fn checked(
        &self,
        format: ExportFormat,
        file: NamedTempFile,
        tolerance: Option<f64>,
    ) -> anyhow::Result<(NamedTempFile, ExportReport)> {
        let mut report = report(format, file.path())?;
        report.opset = Some(onnx::OPSET);
        match &self.check {
            CheckMethod::Not(reason) => report.not_checked = Some(reason.clone()),
            CheckMethod::With(check) => {
                let (runtime, samples) = &**check;
                let Some(parity) = self.compare(runtime, samples, file.path(), tolerance)? else {
                    report.not_checked =
                        Some("the samples have no logits of the student after the last epoch".to_owned());
                    return Ok((file, report));
                };
                if !parity.holds() {
                    let Runtime { name, version } = runtime.facts();
                    return refused(format!(
                        "it does not compute what the student does: in {name} {version}, the logits of {} images differ by up \
                         to {} times the largest, and {TOLERANCE} is accepted; the file was not written",
                        parity.images, parity.relative_difference
                    ));
                }
                report.runtime = Some(runtime.facts());
                report.parity = Some(parity);
            }
        }
        Ok((file, report))
    }

    fn unchecked(&self, format: ExportFormat, file: NamedTempFile) -> anyhow::Result<(NamedTempFile, ExportReport)> {
        let mut report = report(format, file.path())?;
        report.not_checked =
            Some("the file has the student's own weights, and ONNX Runtime does not read it".to_owned());
        Ok((file, report))
    }

    fn bundle(&self) -> anyhow::Result<(NamedTempFile, ExportReport)> {
        let mut formats = self.args.with.clone();
        if formats.is_empty() {
            formats = vec![ExportFormat::Safetensors, ExportFormat::Onnx];
            formats.extend(matches!(self.student.source(), StudentSource::Exported(_)).then_some(ExportFormat::Pt2));
        }
        if formats.contains(&ExportFormat::Bundle) {
            return refused("a bundle cannot contain a bundle");
        }
        let mut parts = Vec::new();
        for format in formats {
            let (file, report) = self.write(format)?;
            let text = self.file()?;
            serde_json::to_writer_pretty(text.as_file(), &report)?;
            let normalises = self.args.preprocess && format.is_onnx();
            parts.push((format!("student{}", format.suffix()), file, normalises));
            parts.push((format!("export-{}.json", format.name()), text, false));
        }
        let manifest = self.args.manifest.as_ref().map(|path| manifest(path)).transpose()?;
        let files = parts
            .iter()
            .map(|(name, file, normalises)| BundledFile { name, path: file.path(), normalises: *normalises })
            .collect();
        let network = self.args.network.as_ref().and_then(|path| path.file_name());
        let network = network.map(|name| name.to_string_lossy().into_owned());
        let stem = self.args.student.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let contents = bundle::Contents {
            name: self.args.title.as_deref().or(stem.as_deref()).unwrap_or("student"),
            files,
            manifest: manifest.as_ref().map(|(manifest, _)| manifest),
            teacher: self.args.teacher_name.as_deref(),
            network: self.args.network_name.as_deref().or(network.as_deref()),
            manifest_sha256: manifest.as_ref().map(|(_, sha256)| sha256.as_str()),
        };
        let file = self.file()?;
        bundle::write(&self.student, &contents, BufWriter::new(file.as_file()))?;
        let mut report = report(ExportFormat::Bundle, file.path())?;
        report.not_checked = Some("each format in the bundle has a report of its own there".to_owned());
        Ok((file, report))
    }
}

/// A manifest and its SHA-256.
fn manifest(path: &Path) -> anyhow::Result<(serde_json::Value, String)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest = serde_json::from_slice(&bytes).with_context(|| format!("{} is no manifest", path.display()))?;
    Ok((manifest, hex::encode(Sha256::digest(&bytes))))
}

/// The report on a file that was not checked yet.
fn report(format: ExportFormat, path: &Path) -> anyhow::Result<ExportReport> {
    let mut hash = Sha256::new();
    let size_bytes = std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(ExportReport {
        format: format.name().to_owned(),
        opset: None,
        size_bytes,
        sha256: hex::encode(hash.finalize()),
        runtime: None,
        not_checked: None,
        parity: None,
    })
}
