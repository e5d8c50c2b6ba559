//! Reads the specification of `distillery train`: the document of `POST /v1/jobs`, whose names and ids the command line
//! turns into files of this machine.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use distillery_core::checkpoint::{self, Checkpoint};
use distillery_core::dataset;
use distillery_core::exported::{self, ExportedNetwork};
use distillery_core::spec::{self, Fault, FoundNetwork, FoundNetworks, TrainingPlan};
use distillery_core::text::{json as json_of, without_mark};
use distillery_core::trainer_flags::TrainArgs;

/// Reads a specification, with the files that the command line names.
///
/// # Errors
/// The file cannot be read, or the document has faults, which are listed one per line.
pub fn read(args: &TrainArgs) -> Result<TrainingPlan> {
    let path = &args.spec;
    let text = std::fs::read_to_string(path).map_err(|error| Error::user(format!("{}: {error}", path.display())))?;
    let mut document = json_of(without_mark(text.as_bytes())).map_err(|error| {
        let what = if error.is_data() { "cannot be used" } else { "is not JSON" };
        Error::user(format!("{} {what}: {error}", path.display()))
    })?;
    let mut faults = localise(&mut document, args)?;
    let mut find = |role| {
        network_of(&document, role).unwrap_or_else(|fault| {
            faults.push(fault);
            None
        })
    };
    let networks = FoundNetworks { teacher: find("teacher"), student: find("student") };
    match TrainingPlan::parse_with(&document, &networks) {
        Ok(plan) if faults.is_empty() => return Ok(plan),
        Ok(_) => {}
        Err(found) => {
            // What has just been explained is not explained again.
            let is_new = |fault: &Fault| !faults.iter().any(|known| known.pointer == fault.pointer);
            let new: Vec<_> = found.into_iter().filter(is_new).collect();
            faults.extend(new);
        }
    }
    let lines = faults.iter().map(|fault| format!("\n  {}: {}", fault.pointer, fault.detail));
    Err(Error::user(format!("{} cannot be used:{}", path.display(), lines.collect::<String>())))
}

/// Replaces names and ids by the command line's files. Returns a fault for each that it does not name.
fn localise(document: &mut Value, args: &TrainArgs) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    if let Some(dataset) = document.get_mut("dataset").filter(|dataset| dataset.is_object()) {
        faults.extend(localise_dataset(dataset, args));
    }
    for (role, given) in [("teacher", &args.teacher), ("student", &args.student)] {
        let Some(network) = document.get_mut(role).filter(|network| network.is_object()) else { continue };
        if let Some(file) = given {
            network["checkpoint"] = text(file)?;
            if let Some(members) = network.as_object_mut() {
                members.remove("job");
            }
        }
        if let (Some(file), "teacher") = (&args.teacher_network, role) {
            network["network"] = text(file)?;
        }
        faults.extend(remote(network, role));
    }
    Ok(faults)
}

fn localise_dataset(dataset: &mut Value, args: &TrainArgs) -> Option<Fault> {
    let fault = |pointer: &str, detail: String| Some(Fault { pointer: pointer.to_owned(), detail });
    if let Some(directory) = &args.dataset {
        match text(directory) {
            Ok(path) => dataset["path"] = path,
            Err(error) => return fault("/dataset/path", error.message),
        }
    }
    if dataset.get("path").is_some_and(|path| !path.is_null()) {
        return None;
    }
    let name = dataset.get("name").and_then(Value::as_str)?.to_owned();
    let Some(directory) = &args.datasets_dir else {
        return fault(
            "/dataset/path",
            format!(
                "is required where there is no server: give the directory of {name} with --dataset, or the directory \
                     above it with --datasets-dir"
            ),
        );
    };
    match dataset::resolve(directory, &name).map_err(Error::from).and_then(|path| text(&path)) {
        Ok(path) => dataset["path"] = path,
        Err(error) => return fault("/dataset/name", error.message),
    }
    None
}

/// An id or a job, which only a server knows.
fn remote(network: &Value, role: &str) -> Option<Fault> {
    let given = |field: &str| network.get(field).and_then(Value::as_str);
    let (field, detail) = match (given("checkpoint"), given("job")) {
        (Some(id), _) if id.starts_with("ckpt_") && !Path::new(id).exists() => (
            "checkpoint",
            format!("{id} is the id of an uploaded checkpoint, which only a server knows: give the file"),
        ),
        (None, Some(job)) if role == "teacher" => {
            ("job", format!("only a server knows {job}: give the file of its student"))
        }
        _ => return None,
    };
    Some(Fault { pointer: format!("/{role}/{field}"), detail: format!("{detail} with --{role}") })
}

/// The network of a checkpoint for which the document names no architecture.
fn network_of(document: &Value, role: &str) -> std::result::Result<Option<FoundNetwork>, Fault> {
    let network = &document[role];
    let given = |field: &str| network.get(field).and_then(Value::as_str);
    // A job that no file stands for has been explained.
    let Some(checkpoint) = given("checkpoint").filter(|_| given("architecture").is_none()) else { return Ok(None) };
    let fault = |field: &str, detail: String| Fault { pointer: format!("/{role}/{field}"), detail };
    let (field, path) = given("network").map_or(("checkpoint", checkpoint), |network| ("network", network));
    let path = Path::new(path);
    if field == "network" || exported::is_exported(path) {
        let file = ExportedNetwork::open(path).map_err(|error| fault(field, format!("{}: {error}", path.display())))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let description = file.description().clone();
        return Ok(Some(FoundNetwork::Exported(Box::new(spec::DescribedNetwork { name, description }))));
    }
    let file = match Checkpoint::open(path) {
        Ok(file) => file,
        // Reported when it is loaded: another attempt may succeed.
        Err(checkpoint::Error::Io(_)) => return Ok(None),
        Err(error) => return Err(fault(field, format!("{}: {error}", path.display()))),
    };
    match file.certain_architecture() {
        Ok(architecture) => Ok(Some(FoundNetwork::Known(architecture))),
        Err(why) => Err(fault("architecture", format!("is required: {} {why}", path.display()))),
    }
}

fn text(path: &Path) -> Result<Value> {
    let text = path.to_str().ok_or_else(|| Error::user(format!("{}: the path is not valid text", path.display())))?;
    Ok(json!(text))
}
