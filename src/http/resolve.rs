//! Holds a specification against the world: the data sets, checkpoints and jobs that it names. Every fault is reported,
//! with its place; what follows from the world is filled in.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json as Jsonb;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::estimate::{ImageCounts, Memory, Time};
use super::extract::fault;
use crate::architecture::{self, Architecture, Layout, Shapes};
use crate::dataset::{self, Dataset, DatasetOptions, Discovered, SelectedImages, SelectionError};
use crate::db;
use crate::db::checkpoints::{self, Fit, Guess, UploadedCheckpoint};
use crate::db::jobs::Status;
use crate::db::workers;
use crate::spec::{self, DatasetName, DatasetSpec, Fault, JobSpec, Request, TeacherRequest};

/// What a job needs to know of its data set.
#[derive(Debug, Clone)]
pub struct DatasetFacts {
    classes: u32,
    train_images: u64,
    eval_images: u64,
    /// What was decided, guessed or passed over, and what is probably not intended.
    notes: Vec<String>,
}

/// A specification that can run.
#[derive(Debug)]
pub struct Resolved {
    /// With the teacher's architecture filled in.
    pub spec: JobSpec,
    /// The data set.
    dataset: DatasetFacts,
    /// Why it will wait, as far as that is known now.
    pub waits: Option<String>,
    /// What its checkpoints' reader has to say.
    notes: Vec<String>,
}

/// What a job would be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// The specification with every default filled in.
    pub spec: JobSpec,
    /// Classes of the data set.
    pub classes: u32,
    /// Number of images to train on.
    pub train_images: u64,
    /// Number of images to evaluate on.
    pub eval_images: u64,
    /// The network to learn from.
    pub teacher: Option<NetworkFacts>,
    /// The network to train.
    pub student: NetworkFacts,
    /// What will work, but perhaps not as intended.
    pub warnings: Vec<String>,
    /// Memory of the device.
    pub memory: Memory,
    /// Time of training; null before a job has been measured.
    pub time: Option<Time>,
}

/// A network at the job's image size and number of classes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NetworkFacts {
    /// A name of `GET /v1/architectures`.
    pub architecture: String,
    /// Trained parameters.
    pub parameters: u64,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Channels, height and width of the final feature map.
    pub feature_map: [u32; 3],
}

/// Reads a specification and checks what it names.
///
/// # Errors
/// All faults, or what kept this from finding out.
pub async fn resolve(state: &AppState, document: &Value) -> Result<Resolved, ApiError> {
    let mut request = Request::read(document);
    let faults = &mut request.faults;
    // A data set whose description is faulty is looked for once that is mended.
    let (mut checked, place) = (None, &request.dataset.place);
    let mut notes = Vec::new();
    if let Some(name) = place.name.clone().filter(|_| !faults.iter().any(|fault| fault.pointer.starts_with("/dataset")))
    {
        let dataset = request.dataset.clone().at(DatasetName { name });
        checked = check_dataset(state, &dataset, faults).await?;
    }
    let classes = checked.as_ref().map(|dataset| dataset.classes);
    if let Some(teacher) = &mut request.teacher {
        if let (Some(id), Some(architecture)) = (&teacher.checkpoint, teacher.architecture) {
            let given = GivenCheckpoint { pointer: "/teacher/checkpoint", id, architecture };
            notes.extend(given.check(state, classes, faults).await?);
        }
        check_teacher_job(state, teacher, classes, faults).await?;
    }
    if let (Some(id), Some(architecture)) = (&request.student.checkpoint, request.student.architecture) {
        let given = GivenCheckpoint { pointer: "/student/checkpoint", id, architecture };
        notes.extend(given.check(state, classes, faults).await?);
    }
    let devices = request.training.devices;
    match (request.complete(), checked) {
        (Ok(spec), Some(dataset)) => {
            let waits = check_workers(state, devices).await?;
            Ok(Resolved { spec, dataset, waits, notes })
        }
        (Ok(_), None) => Err(anyhow::anyhow!("a data set without faults has no classes").into()),
        (Err(faults), _) => Err(ApiError::faults(faults)),
    }
}

/// A warning where no worker runs at all. It is for dry runs: a job says as long as it waits what it waits for.
async fn check_any_worker(state: &AppState, devices: u32) -> Result<Option<String>, ApiError> {
    let most = workers::most_devices(&state.pool).await?;
    let message = "no worker is running: the job waits until one is started (distillery worker, or distillery serve \
                   with --workers)";
    Ok((most == 0 && devices == 1).then(|| message.to_owned()))
}

/// A warning where no worker has that many devices.
async fn check_workers(state: &AppState, devices: u32) -> Result<Option<String>, ApiError> {
    let most = workers::most_devices(&state.pool).await?.unsigned_abs();
    if devices == 1 {
        return Ok(None);
    }
    let there = match most {
        0 => "there is no worker now".to_owned(),
        1 => "every worker has one now".to_owned(),
        _ => format!("the largest worker has {most} now"),
    };
    Ok((most < devices).then(|| {
        format!(
            "training.devices is {devices}, and {there}: the job waits until a worker with so many is started \
             (distillery worker --device cuda:0,cuda:1,…), or lower training.devices"
        )
    }))
}

/// The facts of the data set, if the job can use it.
async fn check_dataset(
    state: &AppState,
    spec: &DatasetSpec,
    faults: &mut Vec<Fault>,
) -> Result<Option<DatasetFacts>, ApiError> {
    let directory = state.datasets.directory().clone();
    let (wanted, follow_links) = (spec.clone(), state.settings.follow_links);
    // A data set that is gone, or was put in place anew, is looked at again at once.
    let changed =
        tokio::fs::metadata(directory.join(&spec.place.name)).await.and_then(|metadata| metadata.modified()).ok();
    let asked = format!("{changed:?} {}", serde_json::to_string(spec).map_err(anyhow::Error::from)?);
    match &*state.looks.find(asked, move || open(&directory, &wanted, follow_links)).await? {
        Ok(facts) => Ok(Some(facts.clone())),
        Err((_, dataset::Error::Missing { .. })) => {
            let found = state.datasets.list().await?;
            let there_are = name_all(&found);
            let name = &spec.place.name;
            faults.push(fault("/dataset/name", format!("there is no data set {name:?}; {there_are}")));
            Ok(None)
        }
        Err((pointer, error)) if error.is_users() => {
            // Where the server keeps its data sets is nobody's business.
            faults.push(fault(pointer, error.relative_to(state.datasets.directory())));
            Ok(None)
        }
        Err((_, error)) => Err(ApiError::Internal(anyhow::anyhow!("{error}"))),
    }
}

/// What is wrong with a data set, and the place of the specification that it concerns.
pub type WrongDataset = (&'static str, dataset::Error);

fn open(directory: &std::path::Path, spec: &DatasetSpec, follow_links: bool) -> Result<DatasetFacts, WrongDataset> {
    let at = |pointer| move |error| (pointer, error);
    let columns = match (&spec.image_column, &spec.label_column) {
        (Some(_), _) => "/dataset/image_column",
        (None, Some(_)) => "/dataset/label_column",
        (None, None) => "/dataset/name",
    };
    let path = dataset::resolve(directory, &spec.place.name).map_err(at("/dataset/name"))?;
    let (image_column, label_column) = (spec.image_column.clone(), spec.label_column.clone());
    let dataset = Dataset::open(&path, &DatasetOptions { image_column, label_column, follow_links }).map_err(
        |error| match error {
            dataset::Error::Column { .. } => (columns, error),
            other => ("/dataset/name", other),
        },
    )?;
    // What a worker would refuse, too: it reads the same labels.
    let selection = dataset.select(spec.selection()).map_err(|SelectionError { field, error }| match field {
        Some("train_split") => ("/dataset/train_split", error),
        Some("eval_split") => ("/dataset/eval_split", error),
        Some("eval_fraction") => ("/dataset/eval_fraction", error),
        _ => ("/dataset/name", error),
    })?;
    let count = |images: &SelectedImages| images.labels.len() as u64;
    Ok(DatasetFacts {
        classes: dataset.classes().count,
        train_images: count(&selection.train),
        eval_images: count(&selection.eval),
        notes: selection.warnings.into_iter().chain(selection.notes).collect(),
    })
}

fn name_all(found: &Discovered) -> String {
    let names: Vec<_> = found.datasets.iter().map(|dataset| dataset.name.as_str()).collect();
    if names.is_empty() {
        return "the server's --datasets-dir holds none".to_owned();
    }
    format!("there are {}", names.join(", "))
}

/// An uploaded checkpoint that a specification names.
struct GivenCheckpoint<'a> {
    pointer: &'a str,
    id: &'a str,
    architecture: &'static Architecture,
}

impl GivenCheckpoint<'_> {
    /// Checks that it exists and is of the network. Returns what its reader has to say.
    async fn check(
        &self,
        state: &AppState,
        classes: Option<u32>,
        faults: &mut Vec<Fault>,
    ) -> Result<Vec<String>, ApiError> {
        let Self { pointer, id, architecture } = *self;
        match checkpoints::get(&state.pool, id).await? {
            None => {
                faults.push(fault(pointer, format!("there is no checkpoint {id}: upload it with PUT /v1/checkpoints")));
                Ok(Vec::new())
            }
            Some(checkpoint) => {
                let mismatch = mismatch(&checkpoint, architecture, classes);
                faults.extend(mismatch.map(|mismatch| fault(pointer, format!("checkpoint {id} {mismatch}"))));
                Ok(checkpoint.notes.iter().map(|note| format!("checkpoint {id}: {note}")).collect())
            }
        }
    }
}

/// What keeps a stored checkpoint from being of the network. Its tensors are not at hand, but what fits an architecture
/// has exactly that one's.
fn mismatch(checkpoint: &UploadedCheckpoint, network: &Architecture, classes: Option<u32>) -> Option<String> {
    let fits = &checkpoint.fits.0;
    let is_fit =
        |fit: &Fit| fit.architecture == network.name && classes.is_none_or(|classes| classes == fit.num_classes);
    if fits.iter().any(is_fit) {
        return None;
    }
    let Some((fit, known)) = fits.iter().find_map(|fit| Some((fit, architecture::find(&fit.architecture)?))) else {
        return Some(fits_nothing(checkpoint, network));
    };
    let mismatch = architecture::mismatch(network, &shapes_of(known, fit), classes)?;
    // The sentence ends with what it fits.
    Some(if known.name == network.name { mismatch } else { format!("{mismatch} with {} classes", fit.num_classes) })
}

/// Why a checkpoint that fits no network is not one, as far as that was found out when it was uploaded.
fn fits_nothing(checkpoint: &UploadedCheckpoint, network: &Architecture) -> String {
    let notes: String = checkpoint.notes.iter().map(|note| format!("; {note}")).collect();
    let name = network.name;
    let why = match &checkpoint.guess {
        Some(Jsonb(Guess { architecture, difference: Some(difference), .. })) if architecture == name => {
            format!("{difference}; it fits no known architecture")
        }
        Some(Jsonb(Guess { architecture, difference: Some(difference), .. })) => {
            format!("it fits no known architecture; {architecture} is the nearest, but {difference}")
        }
        _ => "it fits no known architecture".to_owned(),
    };
    format!("does not fit {name}: {why}{notes}")
}

fn shapes_of(architecture: &Architecture, fit: &Fit) -> Shapes {
    let entries = architecture.layout(fit.num_classes).entries;
    entries.into_iter().map(|entry| (entry.key, entry.shape)).collect()
}

/// Whether the job whose student is to be the teacher can be that; its architecture is filled in.
async fn check_teacher_job(
    state: &AppState,
    teacher: &mut TeacherRequest,
    classes: Option<u32>,
    faults: &mut Vec<Fault>,
) -> Result<(), ApiError> {
    let Some(id) = teacher.job.clone() else { return Ok(()) };
    let Some(job) = db::jobs::get(&state.pool, &id).await? else {
        faults.push(fault("/teacher/job", format!("there is no job {id}")));
        return Ok(());
    };
    if matches!(job.status, Status::Failed | Status::Cancelled) {
        let detail = format!("job {id} is {}: it has no student to learn from", job.status.name());
        faults.push(fault("/teacher/job", detail));
    }
    let read = JobSpec::from_stored(&job.spec).and_then(|spec| {
        let student = architecture::named(&spec.student.architecture).map_err(|error| error.to_string())?;
        Ok((spec, student))
    });
    let (spec, student) = match read {
        Ok(read) => read,
        Err(reason) => {
            let detail = format!("this version of the server cannot read the specification of job {id}: {reason}");
            faults.push(fault("/teacher/job", detail));
            return Ok(());
        }
    };
    match teacher.architecture.map(|given| given.name) {
        Some(given) if given != student.name => {
            let detail = format!("the student of job {id} is a {}, not a {given}: leave this out", student.name);
            faults.push(fault("/teacher/architecture", detail));
        }
        _ => teacher.architecture = Some(student),
    }
    // Faults of a data set that the other job uses are not faults of this one.
    let theirs = check_dataset(state, &spec.dataset, &mut Vec::new()).await?.map(|dataset| dataset.classes);
    if let (Some(theirs), Some(ours)) = (theirs, classes)
        && let Some(detail) =
            architecture::class_mismatch(&format!("the student of job {id}"), theirs, "this job's data set", ours)
    {
        faults.push(fault("/teacher/job", detail));
    }
    Ok(())
}

impl Resolved {
    /// What comes of it, estimated.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn dry_run(self, state: &AppState) -> Result<DryRun, ApiError> {
        let measured = db::jobs::measured(&state.pool, MEASURED_JOBS).await?;
        let no_worker = check_any_worker(state, self.spec.training.devices).await?;
        let Self { spec, dataset, waits, notes: of_checkpoints } = self;
        let DatasetFacts { classes, train_images, eval_images, notes: of_dataset } = dataset;
        let images = ImageCounts { train: train_images, eval: eval_images };
        let time = Time::estimate(&spec, classes, images, &measured);
        let find = |name: &str| architecture::find(name).expect("the specification names known architectures");
        let side = spec.dataset.image_size;
        let student = find(&spec.student.architecture);
        let teacher = spec.teacher.as_ref().map(|teacher| find(&teacher.architecture));
        let fine = |network, role| spec.distillation.fine_scales(network, role, side);
        let layout = |network: &Architecture| network.layout_at(classes, side);
        let (student_layout, teacher_layout) = (layout(student), teacher.map(layout));
        let warnings = fine(student, "student")
            .chain(teacher.into_iter().flat_map(|teacher| fine(teacher, "teacher")))
            .chain(spec::doubts(&spec.distillation, &spec.training))
            .chain(of_dataset)
            .chain(of_checkpoints)
            .chain(no_worker)
            .chain(waits)
            .chain(check_disk(&state.settings.spool_dir, spec.training.disk_bytes(student_layout.parameters)))
            .collect();
        let student = NetworkFacts::new(student.name, &student_layout);
        let teacher =
            teacher.zip(teacher_layout.as_ref()).map(|(teacher, layout)| NetworkFacts::new(teacher.name, layout));
        let memory = Memory::estimate(&spec, &student_layout, teacher_layout.as_ref());
        Ok(DryRun { spec, classes, train_images, eval_images, teacher, student, warnings, memory, time })
    }
}

/// Jobs that an estimate of the time looks at.
const MEASURED_JOBS: i64 = 100;

/// A warning if the server's disk, where its own workers train, has less space than needed, in bytes.
fn check_disk(directory: &std::path::Path, needed: u64) -> Option<String> {
    let existing = directory.ancestors().find(|directory| directory.exists())?;
    let found = rustix::fs::statvfs(existing).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    (free < needed).then(|| {
        format!(
            "the server's disk has {} MiB of free space, and the job needs about {} MiB for its checkpoints and students",
            free >> 20,
            needed.div_ceil(1 << 20)
        )
    })
}

impl NetworkFacts {
    fn new(architecture: &str, layout: &Layout) -> Self {
        Self {
            architecture: architecture.to_owned(),
            parameters: layout.parameters,
            macs: layout.macs,
            feature_map: layout.feature_map,
        }
    }
}
