//! Holds a specification against the world: the data sets, checkpoints and jobs that it names. Every fault is reported,
//! with its place; what follows from the world is filled in.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::extract::fault;
use crate::architecture::{self, Architecture, Layout, Shapes};
use crate::dataset::{self, Dataset, DatasetOptions, Discovered, SelectedImages, SelectionError};
use crate::db;
use crate::db::checkpoints::{self, Fit, UploadedCheckpoint};
use crate::db::jobs::Status;
use crate::db::workers;
use crate::spec::{DatasetName, DatasetSpec, Fault, JobSpec, OptimizerSpec, Request, TeacherRequest};

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
    /// What there is to say of the devices that it asks for.
    pub waits_for_devices: Option<String>,
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

/// A rough estimate of the memory that training takes on each device.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Memory {
    /// Weights, gradients and the optimiser's state of the student, and the teacher's weights.
    pub weights_bytes: u64,
    /// What a batch leaves behind in both networks until the step is done.
    pub activations_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// How it was computed.
    pub method: String,
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
    if let Some(name) = place.name.clone().filter(|_| !faults.iter().any(|fault| fault.pointer.starts_with("/dataset")))
    {
        let dataset = request.dataset.clone().at(DatasetName { name });
        checked = check_dataset(state, &dataset, faults).await?;
    }
    let classes = checked.as_ref().map(|dataset| dataset.classes);
    if let Some(teacher) = &mut request.teacher {
        if let (Some(id), Some(architecture)) = (&teacher.checkpoint, teacher.architecture) {
            let given = GivenCheckpoint { pointer: "/teacher/checkpoint", id, architecture };
            given.check(state, classes, faults).await?;
        }
        check_teacher_job(state, teacher, classes, faults).await?;
    }
    if let (Some(id), Some(architecture)) = (&request.student.checkpoint, request.student.architecture) {
        let given = GivenCheckpoint { pointer: "/student/checkpoint", id, architecture };
        given.check(state, classes, faults).await?;
    }
    let devices = request.training.devices;
    match (request.complete(), checked) {
        (Ok(spec), Some(dataset)) => {
            let waits_for_devices = check_workers(state, devices).await?;
            Ok(Resolved { spec, dataset, waits_for_devices })
        }
        (Ok(_), None) => Err(anyhow::anyhow!("a data set without faults has no classes").into()),
        (Err(faults), _) => Err(ApiError::faults(faults)),
    }
}

/// A warning where no worker has that many devices.
async fn check_workers(state: &AppState, devices: u32) -> Result<Option<String>, ApiError> {
    if devices == 1 {
        return Ok(None);
    }
    let most = workers::most_devices(&state.pool).await?.unsigned_abs();
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
    let looked = tokio::task::spawn_blocking(move || open(&directory, &wanted, follow_links))
        .await
        .map_err(anyhow::Error::from)?;
    match looked {
        Ok(facts) => Ok(Some(facts)),
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
        Err((_, error)) => Err(ApiError::Internal(error.into())),
    }
}

fn open(
    directory: &std::path::Path,
    spec: &DatasetSpec,
    follow_links: bool,
) -> Result<DatasetFacts, (&'static str, dataset::Error)> {
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
    /// Whether it exists and is of the network.
    async fn check(&self, state: &AppState, classes: Option<u32>, faults: &mut Vec<Fault>) -> Result<(), ApiError> {
        let Self { pointer, id, architecture } = *self;
        match checkpoints::get(&state.pool, id).await? {
            None => {
                faults.push(fault(pointer, format!("there is no checkpoint {id}: upload it with PUT /v1/checkpoints")));
            }
            Some(checkpoint) => {
                let mismatch = mismatch(&checkpoint, architecture, classes);
                faults.extend(mismatch.map(|mismatch| fault(pointer, format!("checkpoint {id} {mismatch}"))));
            }
        }
        Ok(())
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
        return Some(format!("does not fit {}: it fits no known architecture", network.name));
    };
    let mismatch = architecture::mismatch(network, &shapes_of(known, fit), classes)?;
    // The sentence ends with what it fits.
    Some(if known.name == network.name { mismatch } else { format!("{mismatch} with {} classes", fit.num_classes) })
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
    #[must_use]
    pub fn dry_run(self) -> DryRun {
        let Self { spec, dataset, waits_for_devices } = self;
        let DatasetFacts { classes, train_images, eval_images, notes } = dataset;
        let find = |name: &str| architecture::find(name).expect("the specification names known architectures");
        let side = spec.dataset.image_size;
        let student = find(&spec.student.architecture);
        let teacher = spec.teacher.as_ref().map(|teacher| find(&teacher.architecture));
        let fine = |network, role| spec.distillation.fine_scales(network, role, side);
        let warnings = fine(student, "student").chain(teacher.into_iter().flat_map(|teacher| fine(teacher, "teacher")));
        let warnings = warnings.chain(waits_for_devices).chain(notes).collect();
        let layout = |network: &Architecture| network.layout_at(classes, side);
        let (student_layout, teacher_layout) = (layout(student), teacher.map(layout));
        let student = NetworkFacts::new(student.name, &student_layout);
        let teacher =
            teacher.zip(teacher_layout.as_ref()).map(|(teacher, layout)| NetworkFacts::new(teacher.name, layout));
        let memory = Memory::estimate(&spec, &student_layout, teacher_layout.as_ref());
        DryRun { spec, classes, train_images, eval_images, teacher, student, warnings, memory }
    }
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

impl Memory {
    fn estimate(spec: &JobSpec, student: &Layout, teacher: Option<&Layout>) -> Self {
        let states = match spec.training.optimizer {
            OptimizerSpec::Sgd { momentum: 0.0, .. } => 0,
            OptimizerSpec::Sgd { .. } => 1,
            OptimizerSpec::Adamw { .. } => 2,
        };
        let kept_bytes = student.parameters * 4 * (3 + states);
        let weights_bytes = kept_bytes + teacher.map_or(0, |teacher| teacher.parameters * 4);
        let side = spec.dataset.image_size;
        let image = 3 * u64::from(side) * u64::from(side);
        let kept = student.kept_elements() + student.peak_elements();
        let passing = teacher.map_or(0, Layout::peak_elements);
        let images = spec.training.batch_size.div_ceil(spec.training.devices);
        let activations_bytes = u64::from(images) * 4 * (image + kept + passing);
        let total_bytes = weights_bytes + activations_bytes;
        let method = "float32 throughout. weights: the student's four times or more (weights, gradients, the best so \
                      far, one or two states of the optimiser) and the teacher's once. activations: per image of the \
                      batch, the student's maps that its gradients need, and what both networks hold at once on the \
                      way. Without libraries (0.5 GB or more on a GPU) and the allocator's reserve";
        Self { weights_bytes, activations_bytes, total_bytes, method: method.to_owned() }
    }
}
