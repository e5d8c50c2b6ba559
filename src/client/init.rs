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
use crate::ids;
use crate::private_file::shell_word;
use crate::text::{counted, quoted};
use distillery_core::tell;

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
    /// Number of its parameters, if the server knows it.
    parameters: Option<u64>,
    /// Number of its classes, if the server knows it.
    classes: Option<u64>,
    /// Side of its images in pixels, of an exported network.
    side: Option<u64>,
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
    let dataset = dataset(server, &args.dataset).await?;
    let teacher = teacher(server, &args.teacher, args.connection.json).await?;
    check_classes(&teacher, &dataset)?;
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
        tell!("{}", submit::estimate(&dry_run));
        let output = shell_word(&args.output.to_string_lossy());
        tell!("`distillery submit {output} --watch` posts it; docs/jobs.md describes every field");
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

/// The server's data set of this name.
async fn dataset(server: &ApiClient, name: &str) -> Result<Value, Error> {
    let list = server.get(&["v1", "datasets"], &[]).await?;
    let has_name = |entry: &&Value| entry["name"] == name;
    let entries = |key: &str| list[key].as_array().cloned().unwrap_or_default();
    let (datasets, unusable) = (entries("data"), entries("unusable"));
    if let Some(found) = datasets.iter().find(has_name) {
        return Ok(found.clone());
    }
    let reason = match unusable.iter().find(has_name) {
        Some(found) => {
            format!("the server cannot use its data set {name}: {}", message(found, "/reason"), name = quoted(name))
        }
        None => format!("the server has no data set {name}", name = quoted(name)),
    };
    let names = datasets.iter().map(|dataset| member(dataset, "/name")).collect::<Vec<_>>().join(", ");
    let others = if names.is_empty() {
        "it has none: put one into its --datasets-dir, or upload one (`distillery upload DIRECTORY`)".to_owned()
    } else {
        format!("it has {names}")
    };
    Err(missing(format!("{reason}; {others}")))
}

/// Refuses a teacher with another number of classes, before a student is looked for.
fn check_classes(teacher: &ChosenTeacher, dataset: &Value) -> Result<(), Error> {
    let (Some(own), Some(of_images)) = (teacher.classes, dataset["classes"].as_u64()) else { return Ok(()) };
    if own == of_images {
        return Ok(());
    }
    let [own, of_images] = [own, of_images].map(|classes| counted(classes, "class", "classes"));
    let detail = format!(
        "the teacher has {own}, and the data set {} has {of_images}: name a data set with the teacher's classes, or \
         train a teacher on this one first (\"distillation\": {{\"method\": \"none\"}})",
        member(dataset, "/name")
    );
    Err(Error::Refused { status: 422, detail, faults: Vec::new() })
}

/// The error for something that the server does not have.
fn missing(detail: String) -> Error {
    Error::Refused { status: 404, detail, faults: Vec::new() }
}

async fn teacher(server: &ApiClient, named: &str, is_quiet: bool) -> Result<ChosenTeacher, Error> {
    if ids::JOB.fits(named) && !Path::new(named).exists() {
        let job = server.job(named).await?;
        let architecture = job.pointer("/spec/student/architecture").and_then(Value::as_str).map(str::to_owned);
        let parameters = job.pointer("/student_facts/parameters").and_then(Value::as_u64);
        return Ok(ChosenTeacher {
            document: json!({"job": named}),
            architecture,
            parameters,
            classes: None,
            side: None,
        });
    }
    let checkpoint = if ids::CHECKPOINT.fits(named) && !Path::new(named).exists() {
        server.get(&["v1", "checkpoints", named], &[]).await?
    } else {
        let facts = UploadFacts { name: None, architecture: None, num_classes: None, state_dict: None };
        let checkpoint = upload::checkpoint::file(server, Path::new(named), &facts, is_quiet).await?;
        if !is_quiet {
            tell!("the teacher is {} on the server", member(&checkpoint, "/id"));
            upload::checkpoint::describe(&checkpoint);
        }
        checkpoint
    };
    let id = member(&checkpoint, "/id");
    let network = &checkpoint["network"];
    if network.is_object() {
        return Ok(ChosenTeacher {
            document: json!({"checkpoint": id}),
            architecture: None,
            parameters: network["parameters"].as_u64(),
            classes: network["classes"].as_u64(),
            side: network.pointer("/input/2").and_then(Value::as_u64),
        });
    }
    let architecture = match checkpoint["architecture"].as_str() {
        Some(architecture) => architecture.to_owned(),
        None => only_fit(&checkpoint, &id)?,
    };
    let mut fits = checkpoint["fits"].as_array().into_iter().flatten();
    let fit = fits.find(|fit| fit["architecture"] == architecture);
    Ok(ChosenTeacher {
        document: json!({"architecture": architecture, "checkpoint": id}),
        parameters: checkpoint["parameters"].as_u64(),
        classes: fit.map_or(&checkpoint["num_classes"], |fit| &fit["num_classes"]).as_u64(),
        side: None,
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
        let key = if ids::CHECKPOINT.fits(named) { "checkpoint" } else { "architecture" };
        return Ok(json!({ key: named }));
    }
    let list = server.get(&["v1", "architectures"], &[]).await?;
    let networks = list["data"].as_array().cloned().unwrap_or_default();
    if let Some(chosen) = smaller(&networks, teacher) {
        let (chosen, parameters) = (member(chosen, "/name"), &chosen["parameters"]);
        tell!("the student is {chosen} with {parameters} parameters, because --student names none");
        return Ok(json!({ "architecture": chosen }));
    }
    let names = networks.iter().map(|network| member(network, "/name")).collect::<Vec<_>>().join(", ");
    let why = match parameters(&networks, teacher) {
        Some(parameters) => {
            format!("no network of the server is smaller than the teacher, which has {parameters} parameters")
        }
        None => "the server does not know the teacher's size yet".to_owned(),
    };
    Err(missing(format!(
        "{why}: name the student with --student, the id of an exported network (docs/networks.md) or one of {names}"
    )))
}

fn find_teacher<'a>(networks: &'a [Value], teacher: &ChosenTeacher) -> Option<&'a Value> {
    let name = teacher.architecture.as_deref()?;
    networks.iter().find(|network| network["name"] == name)
}

/// The teacher's number of parameters.
fn parameters(networks: &[Value], teacher: &ChosenTeacher) -> Option<u64> {
    let known = find_teacher(networks, teacher).and_then(|network| network["parameters"].as_u64());
    known.or(teacher.parameters)
}

/// The largest network with at most half of the teacher's parameters, or else with fewer: of the same family if it has
/// one, then of the same width, then for images of the same size.
fn smaller<'a>(networks: &'a [Value], teacher: &ChosenTeacher) -> Option<&'a Value> {
    let of_teacher = find_teacher(networks, teacher);
    let whole = parameters(networks, teacher)?;
    let side = of_teacher.and_then(|network| network["input_side"].as_u64()).or(teacher.side);
    let size = |network: &Value| network["parameters"].as_u64().unwrap_or(u64::MAX);
    let is_alike = |network: &Value, member: &str| of_teacher.is_some_and(|other| other[member] == network[member]);
    let fits = networks.iter().filter(|network| size(network) < whole);
    fits.max_by_key(|network| {
        let is_half = size(network) <= whole / 2;
        let is_family = is_alike(network, "family");
        let is_as_wide = is_family && is_alike(network, "feature_map_channels");
        let has_same_side = network["input_side"].as_u64() == side;
        (is_half, is_family, is_as_wide, has_same_side, size(network))
    })
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
        let of = |architecture: Option<&str>, parameters: Option<u64>| {
            let architecture = architecture.map(str::to_owned);
            let teacher = ChosenTeacher { document: Value::Null, architecture, parameters, classes: None, side: None };
            smaller(&networks, &teacher).map(|network| member(network, "/name"))
        };
        assert_eq!(of(Some("wide_large"), None).as_deref(), Some("wide_small"));
        assert_eq!(of(Some("wide_small"), None).as_deref(), Some("narrow_small"));
        assert_eq!(of(Some("narrow_small"), None), None);
        assert_eq!(of(Some("other"), None).as_deref(), Some("wide_small"), "no smaller one of its family");
        assert_eq!(of(None, Some(90)).as_deref(), Some("other"), "an exported network has no family");
        assert_eq!(of(None, Some(19)).as_deref(), Some("narrow_small"), "more than half as large, and smaller");
        assert_eq!(of(None, Some(10)), None);
        assert_eq!(of(None, None), None);
    }
}
