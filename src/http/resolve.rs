//! Holds a specification against the world: the data sets, checkpoints and jobs that it names. Every fault is reported,
//! with its place; what follows from the world is filled in.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json as Jsonb;
use utoipa::ToSchema;

use super::AppState;
use super::dataset_facts::{self, DatasetFacts};
use super::error::ApiError;
use super::estimate::{ImageCounts, Memory, Time};
use super::extract::fault;
use crate::architecture::{self, Architecture, Layout, Shapes};
use crate::db;
use crate::db::checkpoints::{self, Fit, Guess, UploadedCheckpoint};
use crate::db::jobs::waiting::{self, Lack, Needs, Prospects, WaitReason};
use crate::db::jobs::{DeviceKind, Status};
use crate::spec::{self, DatasetName, Fault, JobSpec, Request, TeacherRequest};
use crate::text::counted;

/// A specification that can run.
#[derive(Debug)]
pub struct Resolved {
    /// With the teacher's architecture filled in.
    pub spec: JobSpec,
    /// The data set.
    dataset: DatasetFacts,
    /// The [fingerprint](crate::dataset::fingerprint) of the server's copy of the data set, which workers compare with
    /// theirs; `None` if it cannot be read.
    pub fingerprint: Option<String>,
    /// The workers that run now.
    prospects: Prospects,
    /// Why it will wait for a worker with enough devices.
    waits: Option<String>,
    /// Notes of the reader of its checkpoints.
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
    let (mut checked, location) = (None, &request.dataset.location);
    let mut notes = Vec::new();
    if let Some(name) =
        location.name.clone().filter(|_| !faults.iter().any(|fault| fault.pointer.starts_with("/dataset")))
    {
        let dataset = request.dataset.clone().at(DatasetName { name });
        checked = dataset_facts::check(state, &dataset, faults).await?;
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
            let fingerprint = dataset_facts::fingerprint(state, &spec.dataset.location.name).await?;
            let needs = Needs {
                devices: i32::try_from(devices).unwrap_or(i32::MAX),
                dataset: &spec.dataset.location.name,
                fingerprint: fingerprint.as_deref(),
            };
            let prospects = waiting::prospects(&state.pool, needs).await?;
            let too_few = devices > 1 && prospects.most_devices.unsigned_abs() < devices;
            let waits = prospects.lack.as_ref().filter(|_| too_few).map(Lack::warning);
            Ok(Resolved { spec, dataset, fingerprint, prospects, waits, notes })
        }
        (Ok(_), None) => Err(anyhow::anyhow!("a data set without faults has no classes").into()),
        (Err(faults), _) => Err(ApiError::faults(faults)),
    }
}

/// An uploaded checkpoint that a specification names.
struct GivenCheckpoint<'a> {
    pointer: &'a str,
    id: &'a str,
    architecture: &'static Architecture,
}

impl GivenCheckpoint<'_> {
    /// Checks that it exists and is of the network. Returns the notes of its reader.
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
    let own = counted(fit.num_classes, "class", "classes");
    Some(if known.name == network.name { mismatch } else { format!("{mismatch} with {own}") })
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
    let theirs = dataset_facts::check(state, &spec.dataset, &mut Vec::new()).await?.map(|dataset| dataset.classes);
    if let (Some(theirs), Some(ours)) = (theirs, classes)
        && let Some(detail) =
            architecture::class_mismatch(&format!("the student of job {id}"), theirs, "this job's data set", ours)
    {
        faults.push(fault("/teacher/job", detail));
    }
    Ok(())
}

impl Resolved {
    /// The warnings that the job's history begins with. A dry run has more: the trainer will say the others.
    pub fn warnings(&self) -> Vec<String> {
        self.notes.iter().chain(&self.waits).cloned().collect()
    }

    /// The workers once they have looked at a data set that is new; `None` if that changes nothing.
    async fn later_prospects(&self, state: &AppState) -> Result<Option<Prospects>, ApiError> {
        let name = &self.spec.dataset.location.name;
        let lacks = |prospects: &Prospects| matches!(prospects.lack, Some(Lack { reason: WaitReason::Dataset, .. }));
        if !lacks(&self.prospects) || !dataset_facts::is_new(state, name).await {
            return Ok(None);
        }
        if let Err(error) = db::listen::wake_workers(&state.pool).await {
            tracing::debug!(%error, "cannot wake the workers");
            return Ok(None);
        }
        let devices = i32::try_from(self.spec.training.devices).unwrap_or(i32::MAX);
        for _ in 0..CHECKS {
            tokio::time::sleep(BETWEEN_CHECKS).await;
            let needs = Needs { devices, dataset: name, fingerprint: self.fingerprint.as_deref() };
            let prospects = waiting::prospects(&state.pool, needs).await?;
            if !lacks(&prospects) {
                return Ok(Some(prospects));
            }
        }
        Ok(None)
    }

    /// What comes of it, estimated.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn dry_run(self, state: &AppState) -> Result<DryRun, ApiError> {
        let prospects = self.later_prospects(state).await?;
        let Self { spec, dataset, prospects: earlier, waits, notes: of_checkpoints, .. } = self;
        let prospects = prospects.unwrap_or(earlier);
        // For dry runs only: a job says what it waits for as long as it waits.
        let no_worker = prospects.lack.as_ref().filter(|_| waits.is_none()).map(Lack::warning);
        let DatasetFacts { classes, train_images, eval_images, notes: of_dataset } = dataset;
        let images = ImageCounts { train: train_images, eval: eval_images };
        let time = estimate_time(state, &spec, classes, images, &prospects).await?;
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
            .chain(spec::oversized_batch(&spec.training, train_images))
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

/// How often a dry run checks whether a worker has found a data set that is new.
const CHECKS: u32 = 10;
const BETWEEN_CHECKS: Duration = Duration::from_millis(100);

/// Jobs that an estimate of the time looks at.
const MEASURED_JOBS: i64 = 100;

/// The time on the devices of the workers that could run a job: on a GPU where there are both, and on any device that
/// jobs were measured on where there is no such worker.
async fn estimate_time(
    state: &AppState,
    spec: &JobSpec,
    classes: u32,
    images: ImageCounts,
    prospects: &Prospects,
) -> Result<Option<Time>, ApiError> {
    let any = [DeviceKind::Cuda, DeviceKind::Cpu];
    for kind in if prospects.kinds.is_empty() { any.as_slice() } else { prospects.kinds.as_slice() } {
        let measured = db::jobs::measured(&state.pool, *kind, MEASURED_JOBS).await?;
        if let Some(time) = Time::estimate(spec, classes, images, *kind, &measured) {
            return Ok(Some(time));
        }
    }
    Ok(None)
}

/// A warning if the server's disk, where its own workers train, has less space than needed, in bytes.
fn check_disk(directory: &Path, needed: u64) -> Option<String> {
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
