//! Repeats a run, or its last epoch, and compares the students with its manifest, byte for byte.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::data::Shard;
use crate::data::hash;
use crate::error::{Error, Result};
use crate::launch;
use crate::run::attempt::AttemptRecord;
use crate::run::manifest::{self, Manifest, Versions};
use crate::settings::{Ending, Settings};
use crate::worker_link::control::Control;
use crate::worker_link::report::Silent;
use distillery_core::dataset::{Dataset, DatasetOptions};
use distillery_core::exported;
use distillery_core::protocol::{Failure, files};
use distillery_core::spec::TrainingPlan;
use distillery_core::tell;
use distillery_core::trainer_flags::VerifyArgs;

/// Bytes of the teacher's logits that a repetition keeps in memory. They only save time.
const VERIFY_CACHE: u64 = 4 << 30;

#[derive(Debug, Serialize)]
pub struct Repetition {
    /// Whether both students are the same, bit for bit, and so are their files beside the manifest, if there are any.
    pub matches: bool,
    /// `last epoch` or `whole run`.
    pub repeated: &'static str,
    /// The best student.
    pub best: RepeatedStudent,
    /// The student after the last epoch.
    pub last: RepeatedStudent,
    /// Files beside the manifest that are not the students that it names.
    pub altered: Vec<String>,
    /// Differences from the run that can explain different bytes.
    pub differences: Vec<String>,
}

/// SHA-256 of a student, in hexadecimal.
#[derive(Debug, Serialize)]
pub struct RepeatedStudent {
    pub manifest: String,
    pub repeated: String,
}

/// Repeats the run of a manifest in a temporary directory.
///
/// # Errors
/// The manifest, the data or a checkpoint is missing or is not the one that the manifest names, or training fails.
pub fn verify(args: &VerifyArgs) -> Result<Repetition> {
    let manifest = read(&args.manifest)?;
    let spec = with_local_paths(&manifest, args);
    check_inputs(&manifest, &spec)?;
    let attempt = manifest.trained().next_back().ok_or_else(|| {
        Error::user("the manifest lists no attempt that trained, so no run has written it: name another one")
    })?;
    let directory = tempfile::tempdir().map_err(Error::storage(&std::env::temp_dir()))?;
    let output = directory.path();
    let full = args.full || spec.training.epochs == 1;
    if !full {
        copy_kept_state(&args.manifest, output)?;
    }
    let settings = settings(args, attempt, output);
    settings.prepare(spec.training.devices);
    let control = Control::default();
    control
        .pause_on_signals()
        .map_err(|error| Error::internal(format!("signal handlers cannot be installed: {error}")))?;
    let lost = |failure: Failure| tell!("error: {}", failure.message);
    if let Ending::Stopped = launch::train(&spec, &settings, &control, &mut Silent, lost)? {
        return Err(Error::user("interrupted before the end: nothing was compared"));
    }
    let found = read(&output.join(files::MANIFEST))?;
    let compared = |manifest: &manifest::StudentEntry, found: &manifest::StudentEntry| RepeatedStudent {
        manifest: manifest.student.sha256.clone(),
        repeated: found.student.sha256.clone(),
    };
    let altered = altered(&args.manifest, &manifest)?;
    let (best, last) = (compared(&manifest.best, &found.best), compared(&manifest.last, &found.last));
    Ok(Repetition {
        matches: best.manifest == best.repeated && last.manifest == last.repeated && altered.is_empty(),
        repeated: if full { "whole run" } else { "last epoch" },
        best,
        last,
        altered,
        differences: differences(&manifest, &found),
    })
}

/// Puts the checkpoint before the last epoch, which lies beside the manifest, where a run resumes from.
fn copy_kept_state(manifest: &Path, output: &Path) -> Result<()> {
    let kept = manifest.with_file_name(files::BEFORE_LAST_EPOCH);
    let state = output.join(files::CHECKPOINT);
    std::fs::create_dir_all(state.parent().expect("it is in a directory")).map_err(Error::storage(&state))?;
    std::fs::copy(&kept, &state).map_err(|error| {
        Error::user(format!(
            "{}: {error}. The checkpoint before the last epoch belongs next to the manifest; without it, repeat the \
             whole run with --full",
            kept.display()
        ))
    })?;
    Ok(())
}

/// The settings of the repetition: those of the attempt that trained the last epoch, unless the command line says
/// otherwise.
fn settings(args: &VerifyArgs, attempt: &AttemptRecord, output: &Path) -> Settings {
    Settings {
        output: output.to_owned(),
        device: args.device.clone().unwrap_or_else(|| attempt.device.clone()),
        all_devices: None,
        shard: Shard::WHOLE,
        threads: args.threads.map_or(attempt.threads as usize, usize::from),
        data_memory: attempt.data_memory,
        follow_links: true,
        cuda_graphs: true,
        own_kernels: attempt.loss_kernel || attempt.norm_kernels,
        samples: false,
        // The repetition must not use results of an earlier run.
        cache_dir: None,
        cache_limit: VERIFY_CACHE,
        cache_scales: Vec::new(),
        pause_after: None,
        attempt: 1,
    }
}

fn read(path: &Path) -> Result<Manifest> {
    if path.is_dir() {
        let (directory, file) = (path.display(), path.join(files::MANIFEST));
        return Err(Error::user(match file.is_file() {
            true => format!("{directory} is a directory: name the manifest in it, {}", file.display()),
            false => format!(
                "{directory} is a directory without a {}: name the one that a finished run left in its output directory",
                files::MANIFEST
            ),
        }));
    }
    let text = std::fs::read(path).map_err(|error| Error::user(format!("{}: {error}", path.display())))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::user(format!("{} is not the manifest of a run: {error}", path.display())))
}

/// The specification with the paths of the command line.
fn with_local_paths(manifest: &Manifest, args: &VerifyArgs) -> TrainingPlan {
    let mut spec = manifest.specification.clone();
    spec.dataset.location.path = args.dataset.clone().unwrap_or(spec.dataset.location.path);
    spec.student.checkpoint = args.student.clone().or(spec.student.checkpoint);
    if let (Some(teacher), Some(given)) = (&mut spec.teacher, &args.teacher) {
        teacher.checkpoint.clone_from(given);
    }
    if let (Some(teacher), Some(given)) = (&mut spec.teacher, &args.teacher_network) {
        teacher.network = Some(given.clone());
    }
    spec.student.network = args.student_network.clone().or(spec.student.network);
    spec
}

/// Compares the files with the hashes of the manifest, before hours are spent on the wrong ones.
fn check_inputs(manifest: &Manifest, spec: &TrainingPlan) -> Result<()> {
    let teacher = manifest.teacher.as_ref().map(|teacher| teacher.sha256.as_str());
    let of_teacher = spec.teacher.as_ref().map(|teacher| teacher.checkpoint.as_path());
    check_file("--teacher", of_teacher, teacher)?;
    check_file("--student", spec.student.checkpoint.as_deref(), manifest.initial_student_sha256.as_deref())?;
    let of_teacher = manifest.teacher.as_ref().and_then(|teacher| teacher.network_sha256.as_deref());
    let network = spec.teacher.as_ref().and_then(|teacher| teacher.network.as_deref());
    check_file("--teacher-network", network, of_teacher)?;
    let network = spec.student.network.as_deref();
    check_file("--student-network", network, manifest.student_network_sha256.as_deref())?;
    let path = &spec.dataset.location.path;
    let options = DatasetOptions {
        image_column: spec.dataset.image_column.clone(),
        label_column: spec.dataset.label_column.clone(),
        follow_links: true,
    };
    let dataset = Dataset::open(path, &options)
        .map_err(|error| Error::user(format!("{error}. Name the data set's directory with --dataset")))?;
    let mut found = BTreeMap::new();
    for split in manifest.data.sha256_of_files.keys() {
        found.insert(split.clone(), dataset.sha256(split).map_err(Error::storage(dataset.path()))?);
    }
    if found != manifest.data.sha256_of_files {
        return Err(Error::user(format!(
            "the files of {} are not those of the run: their SHA-256 is different. Name the right data set \
             with --dataset",
            path.display()
        )));
    }
    Ok(())
}

fn check_file(flag: &str, path: Option<&Path>, sha256: Option<&str>) -> Result<()> {
    let Some(sha256) = sha256 else { return Ok(()) };
    let path = path.unwrap_or(Path::new(""));
    let unreadable = |error: std::io::Error| {
        Error::user(format!("{}: {error}. Name the checkpoint with {flag}; its SHA-256 is {sha256}", path.display()))
    };
    if exported::has_sha256(path, sha256).map_err(unreadable)? {
        return Ok(());
    }
    let found = exported::sha256(path).map_err(unreadable)?;
    Err(Error::user(format!(
        "{} is not the checkpoint of the run: its SHA-256 is {found}, not {sha256}. Name the right one with {flag}",
        path.display()
    )))
}

/// What is wrong with the students beside the manifest. They need not be there.
fn altered(path: &Path, manifest: &Manifest) -> Result<Vec<String>> {
    let mut altered = Vec::new();
    for (name, entry) in [(files::BEST_STUDENT, &manifest.best), (files::LAST_STUDENT, &manifest.last)] {
        let file = path.with_file_name(name);
        match hash::sha256(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::storage(&file)(error)),
            Ok((found, _)) if found == entry.student.sha256 => {}
            Ok((found, _)) => altered.push(format!("{name} has the SHA-256 {found}: it is not the file of the run")),
        }
    }
    Ok(altered)
}

/// What can make the same operations round differently.
fn differences(run: &Manifest, now: &Manifest) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, run: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
        let (run, now) = (run.to_string(), now.to_string());
        if run != now {
            differences.push(format!("{what}: {run} in the run, {now} now"));
        }
    };
    let versions = Versions::current();
    compare("distillery", &run.versions.distillery, &versions.distillery);
    compare("libtorch", &run.versions.libtorch, &versions.libtorch);
    let now = now.attempts.last();
    for attempt in run.trained() {
        let Some(now) = now else { continue };
        compare(&format!("device of attempt {}", attempt.number), &attempt.device, &now.device);
        compare(&format!("precision of attempt {}", attempt.number), &attempt.precision, &now.precision);
        compare(&format!("threads of attempt {}", attempt.number), &attempt.threads, &now.threads);
        let loss = format!("what computes the distillation loss of attempt {}", attempt.number);
        compare(&loss, &attempt.loss_by(), &now.loss_by());
        let norms = format!("what computes the batch norms of attempt {}", attempt.number);
        compare(&norms, &attempt.norms_by(), &now.norms_by());
    }
    differences
}
