//! `init`: writes a first job, once the server has checked it.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::error::{Error, Exit};
use super::server::ApiClient;
use super::text::{member, message};
use super::{submit, upload};
use crate::cli::{ConstraintArgs, InitArgs, UploadFacts};
use crate::private_file::shell_word;
use crate::text::quoted;

/// Default number of epochs of a first job: enough to see whether a pair works, and a short wait.
const EPOCHS: u32 = 30;

/// The document, in the order in which people read it.
#[derive(Debug, Serialize)]
struct FirstJob {
    name: String,
    teacher: Value,
    student: Value,
    dataset: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    distillation: Option<DistillationDraft>,
    training: TrainingDraft,
}

#[derive(Debug, Serialize)]
struct DistillationDraft {
    method: Value,
    scales: Value,
    temperature: Value,
}

#[derive(Debug, Default, Serialize)]
struct TrainingDraft {
    epochs: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    augmentation: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<Value>,
}

/// A teacher as a job names it, and its network.
struct ChosenTeacher {
    /// The document's member `teacher`.
    document: Value,
    /// `None` for an exported network.
    architecture: Option<String>,
}

/// Writes a job for a data set and a teacher.
///
/// # Errors
/// The output exists, there is no such data set or teacher, no student can be chosen, or the server finds a fault in
/// the job. Nothing is written then.
pub async fn init(server: &ApiClient, args: &InitArgs) -> Result<Exit, Error> {
    if !args.force && args.output.symlink_metadata().is_ok() {
        return Err(Error::Local(anyhow::anyhow!(
            "{} exists: `--force` replaces it, `--output` writes another file",
            args.output.display()
        )));
    }
    check_dataset(server, &args.dataset).await?;
    let teacher = teacher(server, &args.teacher, args.connection.json).await?;
    let student = student(server, args.student.as_deref(), &teacher).await?;
    let named = |document: &Value| member(document, "/architecture");
    let name = match (teacher.architecture.as_deref(), named(&student)) {
        (Some(teacher), student) if !student.is_empty() => format!("{teacher} to {student} on {}", args.dataset),
        _ => format!("a first job on {}", args.dataset),
    };
    let mut job = FirstJob {
        name,
        teacher: teacher.document,
        student,
        dataset: json!({"name": args.dataset}),
        distillation: None,
        training: TrainingDraft { epochs: EPOCHS, ..TrainingDraft::default() },
    };
    let document = serde_json::to_vec(&job)?;
    let checked = submit::check(server, document, &[], &ConstraintArgs::default()).await;
    let dry_run = checked.map_err(|error| match error {
        Error::Refused { .. } => error.context("nothing was written, because the server finds a fault in this job"),
        other => other,
    })?;
    let spec = &dry_run["spec"];
    let document = if args.full {
        serde_json::to_string_pretty(spec)?
    } else {
        let (distillation, training) = (&spec["distillation"], &spec["training"]);
        let of = |object: &Value, key: &str| object[key].clone();
        job.distillation = Some(DistillationDraft {
            method: of(distillation, "method"),
            scales: of(distillation, "scales"),
            temperature: of(distillation, "temperature"),
        });
        let some = |key: &str| training.get(key).cloned();
        job.training.batch_size = some("batch_size");
        job.training.augmentation = some("augmentation");
        job.training.seed = some("seed");
        serde_json::to_string_pretty(&job)?
    };
    write(&args.output, &document, args.force)?;
    if args.connection.json {
        writeln!(io::stdout(), "{}", json!({"path": args.output, "dry_run": dry_run}))?;
    } else {
        writeln!(io::stdout(), "{}", args.output.display())?;
        eprintln!("{}", submit::estimate(&dry_run));
        let output = shell_word(&args.output.to_string_lossy());
        eprintln!("`distillery submit {output} --watch` posts it; docs/jobs.md describes every field");
    }
    Ok(Exit::Success)
}

/// Writes the file whole or not at all.
fn write(path: &Path, document: &str, replaces: bool) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = path.display();
    // Those of any new file: the umask applies to them.
    let permissions = Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().prefix(".job-").permissions(permissions).tempfile_in(parent);
    let mut file: NamedTempFile = file.with_context(|| format!("cannot write {shown}"))?;
    writeln!(file, "{document}")?;
    let written = if replaces { file.persist(path) } else { file.persist_noclobber(path) };
    written.with_context(|| format!("cannot write {shown}"))?;
    Ok(())
}

async fn check_dataset(server: &ApiClient, name: &str) -> Result<(), Error> {
    let list = server.get(&["v1", "datasets"], &[]).await?;
    let has_name = |entry: &&Value| entry["name"] == name;
    let entries = |key: &str| list[key].as_array().cloned().unwrap_or_default();
    let (datasets, unusable) = (entries("data"), entries("unusable"));
    if datasets.iter().any(|dataset| has_name(&dataset)) {
        return Ok(());
    }
    let reason = match unusable.iter().find(has_name) {
        Some(found) => {
            format!("the server cannot use its data set {name}: {}", message(found, "/reason"), name = quoted(name))
        }
        None => format!("the server has no data set {name}", name = quoted(name)),
    };
    let names = datasets.iter().map(|dataset| member(dataset, "/name")).collect::<Vec<_>>().join(", ");
    let others = if names.is_empty() {
        "it has none: put one into its --datasets-dir, or upload one (PUT /v1/datasets/{name})".to_owned()
    } else {
        format!("it has {names}")
    };
    Err(missing(format!("{reason}; {others}")))
}

/// The error for something that the server does not have.
fn missing(detail: String) -> Error {
    Error::Refused { status: 404, detail, faults: Vec::new() }
}

async fn teacher(server: &ApiClient, named: &str, is_quiet: bool) -> Result<ChosenTeacher, Error> {
    if named.starts_with("job_") {
        let job = server.job(named).await?;
        let architecture = job.pointer("/spec/student/architecture").and_then(Value::as_str).map(str::to_owned);
        return Ok(ChosenTeacher { document: json!({"job": named}), architecture });
    }
    let checkpoint = if named.starts_with("ckpt_") && !Path::new(named).exists() {
        server.get(&["v1", "checkpoints", named], &[]).await?
    } else {
        let facts = UploadFacts { name: None, architecture: None, num_classes: None, state_dict: None };
        let checkpoint = upload::file(server, Path::new(named), &facts, is_quiet).await?;
        if !is_quiet {
            eprintln!("the teacher is {} on the server", member(&checkpoint, "/id"));
            upload::describe(&checkpoint);
        }
        checkpoint
    };
    let id = member(&checkpoint, "/id");
    if checkpoint["network"].is_object() {
        return Ok(ChosenTeacher { document: json!({"checkpoint": id}), architecture: None });
    }
    let architecture = match checkpoint["architecture"].as_str() {
        Some(architecture) => architecture.to_owned(),
        None => only_fit(&checkpoint, &id)?,
    };
    Ok(ChosenTeacher {
        document: json!({"architecture": architecture, "checkpoint": id}),
        architecture: Some(architecture),
    })
}

/// The architecture that a checkpoint fits, if there is only one.
fn only_fit(checkpoint: &Value, id: &str) -> Result<String, Error> {
    let fits: Vec<String> =
        checkpoint["fits"].as_array().into_iter().flatten().map(|fit| member(fit, "/architecture")).collect();
    match fits.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(missing(format!(
            "{id} has the weights of no network that the server knows{}: export the network (docs/networks.md) and \
             give its .pt2 as the teacher",
            checkpoint["guess"]["difference"].as_str().map(|text| format!(" ({text})")).unwrap_or_default()
        ))),
        several => Err(missing(format!(
            "{id} fits {}: say which it is with `distillery upload FILE --architecture …`, and give its id",
            several.join(" and ")
        ))),
    }
}

/// The student that the command line names, or else one that is a reasonable first choice.
async fn student(server: &ApiClient, named: Option<&str>, teacher: &ChosenTeacher) -> Result<Value, Error> {
    if let Some(named) = named {
        let key = if named.starts_with("ckpt_") { "checkpoint" } else { "architecture" };
        return Ok(json!({ key: named }));
    }
    let list = server.get(&["v1", "architectures"], &[]).await?;
    let networks = list["data"].as_array().cloned().unwrap_or_default();
    let names = || networks.iter().map(|network| member(network, "/name")).collect::<Vec<_>>().join(", ");
    let Some(of_teacher) = &teacher.architecture else {
        return Err(missing(format!(
            "the teacher is an exported network, of no known family: name the student with --student, an \
             exported network's id or one of {}",
            names()
        )));
    };
    let chosen = smaller(&networks, of_teacher);
    let chosen = chosen.ok_or_else(|| {
        missing(format!(
            "no network of the family of {of_teacher} is half as large: name a student with --student, one of {}",
            names()
        ))
    })?;
    eprintln!("the student is {chosen}, because --student names none");
    Ok(json!({ "architecture": chosen }))
}

/// The largest network of the same family with at most half as many parameters, and of the same width if there is one.
fn smaller(networks: &[Value], than: &str) -> Option<String> {
    let of_teacher = networks.iter().find(|network| network["name"] == than)?;
    let parameters = |network: &Value| network["parameters"].as_u64().unwrap_or(u64::MAX);
    let limit = parameters(of_teacher) / 2;
    let fits = |network: &&Value| network["family"] == of_teacher["family"] && parameters(network) <= limit;
    let is_as_wide = |network: &Value| network["feature_map_channels"] == of_teacher["feature_map_channels"];
    let best = networks.iter().filter(fits).max_by_key(|network| (is_as_wide(network), parameters(network)))?;
    best["name"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_student_is_half_its_teacher_and_as_wide_where_there_is_one() {
        let network = |name: &str, family: &str, parameters: u64, channels: u64| {
            let width = json!(channels);
            json!({"name": name, "family": family, "parameters": parameters, "feature_map_channels": width})
        };
        let networks = [
            network("wide_large", "resnet", 100, 256),
            network("wide_small", "resnet", 20, 256),
            network("narrow", "resnet", 40, 64),
            network("narrow_small", "resnet", 10, 64),
            network("other", "vgg", 45, 256),
        ];
        assert_eq!(smaller(&networks, "wide_large").as_deref(), Some("wide_small"));
        assert_eq!(smaller(&networks, "wide_small").as_deref(), Some("narrow_small"));
        assert_eq!(smaller(&networks, "narrow_small"), None);
        assert_eq!(smaller(&networks, "unknown"), None);
    }
}
