//! Checks a specification against what exists: the data sets, checkpoints and jobs that it names. Every fault is
//! reported with its place, and what follows from them is filled in.

use std::path::Path;
use std::time::Duration;

use distillery_core::export::samples;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::AppState;
use super::constraints::Qualification;
use super::dataset_facts::{self, DatasetFacts};
use super::datasets::Located;
use super::error::ApiError;
use super::estimate::{Costs, ImageCounts, Memory, Time};
use super::extract::fault;
use super::job_network::{JobNetwork, NetworkFacts};
use super::measurements::Measurements;
use super::networks::{self, NetworkFindings};
use super::statistics::{self, Looks, Told};
use crate::class_order::{self, ClassOrder};
use crate::db;
use crate::db::datasets::StoredDataset;
use crate::db::jobs::NetworkNames;
use crate::db::jobs::waiting::{self, Lack, Needs, Prospects, WaitReason};
use crate::db::latencies::NetworkKey;
use crate::spec::{self, DatasetName, Defaults, DescribedNetwork, Fault, JobSpec, Request, TrainingSpec};

/// A specification that can run.
#[derive(Debug)]
pub struct Resolved {
    /// With the architectures filled in.
    pub spec: JobSpec,
    /// The networks without an architecture.
    exported: ExportedNetworks,
    /// The data set.
    dataset: DatasetFacts,
    /// The [fingerprint](crate::dataset::fingerprint) of the server's copy of the data set, which workers compare with
    /// theirs; `None` if it cannot be read.
    pub fingerprint: Option<String>,
    /// The data set, if it was uploaded.
    pub uploaded: Option<StoredDataset>,
    /// The data set and the version of its files, if there are no statistics of its images yet.
    unexamined: Option<(Located, String)>,
    /// The workers that run now.
    prospects: Prospects,
    /// Why it will wait for a worker with enough devices.
    waits: Option<String>,
    /// Notes of the reader of its checkpoints, and which defaults may not be as meant.
    notes: Vec<String>,
    /// Which defaults follow from exported networks, and what a recipe sets.
    chosen: Vec<String>,
    /// Notes on defaults that are published for such a pair of networks or such settings.
    published: Vec<String>,
    /// That the student gets a new classifier. The trainer says it in the job's history.
    new_classifier: Option<String>,
}

/// The exported networks of a job.
#[derive(Debug)]
struct ExportedNetworks {
    teacher: Option<DescribedNetwork>,
    student: Option<DescribedNetwork>,
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
    /// Whether the student can meet the constraints of the request; null without constraints.
    pub qualification: Option<Qualification>,
}

/// Reads a specification and checks what it names.
///
/// # Errors
/// All faults, or what kept this from finding out.
pub async fn resolve(state: &AppState, document: &Value) -> Result<Resolved, ApiError> {
    let first = Request::read(document);
    // A data set whose description is faulty is looked up once that is corrected.
    let (mut checked, mut of_dataset) = (None, Vec::new());
    let is_of_dataset = |fault: &Fault| fault.pointer.starts_with("/dataset");
    if let Some(name) = first.dataset.location.name.clone().filter(|_| !first.faults.iter().any(is_of_dataset)) {
        let dataset = first.dataset.clone().at(DatasetName { name });
        checked = dataset_facts::check(state, &dataset, &mut of_dataset).await?;
    }
    let classes = checked.as_ref().map(|(dataset, _)| dataset.classes);
    let NetworkFindings { networks, faults: of_networks, mut notes, new_classifier } =
        networks::find(state, &first, classes).await?;
    // Again, with the defaults that follow from the networks.
    let mut request = Request::read_with(document, &networks);
    request.faults.extend(of_dataset.into_iter().chain(of_networks));
    request.faults.extend(wrong_class_weights(&request.training, classes));
    request.faults.extend(wrong_teacher_classes(&request, checked.as_ref().map(|(dataset, _)| dataset)));
    let Defaults { doubtful, noted: chosen, published } = std::mem::take(&mut request.defaults);
    notes.extend(doubtful);
    let exported = ExportedNetworks {
        teacher: request.teacher.as_ref().and_then(|teacher| teacher.exported.clone()),
        student: request.student.exported.clone(),
    };
    let devices = request.training.devices;
    match (request.complete(), checked) {
        (Ok(mut spec), Some((dataset, located))) => {
            notes.extend(located.note());
            let uploaded = located.uploaded().map(|upload| upload.stored.clone());
            let fingerprint = pin(state, &mut spec, uploaded.as_ref()).await?;
            let (found, unexamined) = found_in_images(state, (&spec, &dataset), &located, fingerprint.as_deref());
            notes.extend(found);
            let needs = Needs {
                spec_version: spec.version(),
                devices: i32::try_from(devices).unwrap_or(i32::MAX),
                dataset: &spec.dataset.location.name,
                dataset_bytes: uploaded.as_ref().map(|stored| stored.unpacked_bytes),
                fingerprint: fingerprint.as_deref(),
            };
            let prospects = waiting::prospects(&state.pool, needs).await?;
            let too_few = devices > 1 && prospects.most_devices.unsigned_abs() < devices;
            let waits = prospects.lack.as_ref().filter(|_| too_few).map(Lack::warning);
            Ok(Resolved {
                spec,
                exported,
                dataset,
                fingerprint,
                uploaded,
                unexamined: unexamined.map(|version| (located, version)),
                prospects,
                waits,
                notes,
                chosen,
                published,
                new_classifier,
            })
        }
        (Ok(_), None) => Err(anyhow::anyhow!("a data set without faults has no classes").into()),
        (Err(faults), _) => Err(ApiError::faults(faults)),
    }
}

/// What the statistics of the data set say of the images that a job uses; if they are still to be made, the version of
/// the files.
fn found_in_images(
    state: &AppState,
    (spec, dataset): (&JobSpec, &DatasetFacts),
    located: &Located,
    fingerprint: Option<&str>,
) -> (Vec<String>, Option<String>) {
    // They are of the images of the default column.
    let version = fingerprint.filter(|_| spec.dataset.image_column.is_none()).map(|print| located.version(print));
    let statistics = version.as_ref().and_then(|version| statistics::known(state, located, version));
    match statistics {
        Some(statistics) => (statistics.warnings_of_job(&dataset.used), None),
        None => (Vec::new(), version),
    }
}

/// The fault if there is not one weight for each class of the data set.
fn wrong_class_weights(training: &TrainingSpec, classes: Option<u32>) -> Option<Fault> {
    let detail = training.class_weights.as_ref()?.check(classes? as usize).err()?;
    Some(fault("/training/class_weights", detail))
}

/// That the classes that the teacher is said to have are not those of the data set.
fn wrong_teacher_classes(request: &Request, dataset: Option<&DatasetFacts>) -> Option<Fault> {
    let (given, dataset) = (request.teacher.as_ref()?.classes.as_ref()?, dataset?);
    let names = class_order::names_or_numbers(dataset.class_names.as_deref(), dataset.classes);
    let why = ClassOrder::by_name(given, &names).err()?;
    Some(fault(
        "/teacher/classes",
        format!("{why}. It lists the data set's classes in the order of the teacher's outputs"),
    ))
}

/// Pins a job to the present version of an uploaded data set, so that a later upload of the name does not change what
/// it trains on. Returns the data set's fingerprint.
async fn pin(
    state: &AppState,
    spec: &mut JobSpec,
    uploaded: Option<&StoredDataset>,
) -> Result<Option<String>, ApiError> {
    match uploaded {
        Some(stored) => {
            spec.dataset.location.name.clone_from(&stored.id);
            Ok(Some(stored.fingerprint.clone()))
        }
        None => dataset_facts::fingerprint(state, &spec.dataset.location.name).await,
    }
}

impl Resolved {
    /// What lists call networks without an architecture.
    pub fn network_names(&self) -> NetworkNames<'_> {
        let ExportedNetworks { teacher, student } = &self.exported;
        NetworkNames {
            teacher: teacher.as_ref().map(|network| network.name.as_str()),
            student: student.as_ref().map(|network| network.name.as_str()),
        }
    }

    /// The student's network as far as its speed is concerned, and its number of classes.
    pub fn student_network(&self) -> (NetworkKey, u32) {
        let student = &self.spec.student;
        let network = NetworkKey {
            architecture: student.architecture.clone(),
            checkpoint: student.checkpoint.clone().filter(|_| student.architecture.is_none()),
            image_size: self.spec.dataset.image_size,
            parameters: self.costs().student.parameters,
        };
        (network, self.dataset.classes)
    }

    /// The warnings that the job's history begins with. A dry run has more: the trainer will say the others.
    pub fn warnings(&self) -> Vec<String> {
        self.notes.iter().chain(&self.waits).cloned().collect()
    }

    /// The other lines that the job's history begins with, which need no action.
    pub fn chosen(&self) -> &[String] {
        &self.chosen
    }

    /// Why no worker that runs now could take it; `None` if one could.
    pub fn lack(&self) -> Option<String> {
        self.prospects.lack.as_ref().map(Lack::warning)
    }

    /// The workers once they have looked at a data set that is new; `None` if that changes nothing.
    async fn later_prospects(&self, state: &AppState) -> Result<Option<Prospects>, ApiError> {
        let name = &self.spec.dataset.location.name;
        let lacks = |prospects: &Prospects| matches!(prospects.lack, Some(Lack { reason: WaitReason::Dataset, .. }));
        if self.uploaded.is_some() || !lacks(&self.prospects) || !dataset_facts::is_new(state, name).await {
            return Ok(None);
        }
        if let Err(error) = db::listen::wake_workers(&state.pool).await {
            tracing::debug!(%error, "cannot wake the workers");
            return Ok(None);
        }
        let devices = i32::try_from(self.spec.training.devices).unwrap_or(i32::MAX);
        for _ in 0..CHECKS {
            tokio::time::sleep(BETWEEN_CHECKS).await;
            let spec_version = self.spec.version();
            let fingerprint = self.fingerprint.as_deref();
            let needs = Needs { spec_version, devices, dataset: name, dataset_bytes: None, fingerprint };
            let prospects = waiting::prospects(&state.pool, needs).await?;
            if !lacks(&prospects) {
                return Ok(Some(prospects));
            }
        }
        Ok(None)
    }

    /// What is found in the images of a data set at which nobody has looked yet, or why that is not known. Only dry
    /// runs look: their users decide by the answer.
    pub async fn look_at_images(&self, state: &AppState, looks: &mut Looks) -> Vec<String> {
        let Some((located, version)) = &self.unexamined else { return Vec::new() };
        let found = statistics::soon(state, located, version, looks.until);
        let (why, yet) = match looks.of(version, found).await {
            Told::Known(statistics) => return statistics.warnings_of_job(&self.dataset.used),
            Told::Unknown { why, is_passing } => (why, if *is_passing { " yet" } else { "" }),
        };
        let name = &self.spec.dataset.location.name;
        vec![format!(
            "it is not known{yet} whether images are in two splits or cannot be decoded: {why} (GET \
             /v1/datasets/{name})"
        )]
    }

    /// What comes of it, estimated.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn dry_run(self, state: &AppState) -> Result<DryRun, ApiError> {
        let later = self.later_prospects(state).await?;
        let prospects = later.as_ref().unwrap_or(&self.prospects);
        // For dry runs only: a job says what it waits for as long as it waits.
        let no_worker = prospects.lack.as_ref().filter(|_| self.waits.is_none()).map(Lack::warning);
        let (memory, time) = self.estimate_on(state, prospects, &mut Measurements::default()).await?;
        let disk_bytes = self.spec.training.disk_bytes(self.costs().student.parameters) + self.sample_bytes();
        let waits = no_worker.into_iter().chain(self.waits.clone());
        let found = self.look_at_images(state, &mut Looks::from_now()).await;
        let warnings = self.doubts().into_iter().chain(found).chain(self.remarks());
        let warnings = warnings.chain(waits).chain(check_disk(&state.settings.spool_dir, disk_bytes)).collect();
        let (classes, side) = (self.dataset.classes, self.spec.dataset.image_size);
        let (student, teacher) = self.networks();
        let (student, teacher) = (student.facts(classes, side), teacher.map(|teacher| teacher.facts(classes, side)));
        let DatasetFacts { train_images, eval_images, .. } = self.dataset;
        let (spec, qualification) = (self.spec, None);
        Ok(DryRun { spec, classes, train_images, eval_images, teacher, student, warnings, memory, time, qualification })
    }

    /// Memory, and time on the workers that run now.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn estimate(
        &self,
        state: &AppState,
        measurements: &mut Measurements,
    ) -> Result<(Memory, Option<Time>), ApiError> {
        self.estimate_on(state, &self.prospects, measurements).await
    }

    async fn estimate_on(
        &self,
        state: &AppState,
        prospects: &Prospects,
        measurements: &mut Measurements,
    ) -> Result<(Memory, Option<Time>), ApiError> {
        let (costs, DatasetFacts { classes, train_images, eval_images, .. }) = (self.costs(), &self.dataset);
        let images = ImageCounts { train: *train_images, eval: *eval_images };
        let time = measurements.time(state, &self.spec, (*classes, costs, images), prospects).await?;
        Ok((Memory::estimate(&self.spec, costs), time))
    }

    /// What will work, but perhaps not as intended, whatever workers there are.
    pub fn doubts(&self) -> Vec<String> {
        let Self { spec, dataset, notes, .. } = self;
        let (student, teacher) = self.networks();
        let side = spec.dataset.image_size;
        let of_teacher = teacher.iter().flat_map(|teacher| teacher.fine_scales(&spec.distillation, "teacher", side));
        student
            .fine_scales(&spec.distillation, "student", side)
            .into_iter()
            .chain(of_teacher)
            .chain(spec::doubts(&spec.distillation, &spec.training))
            .chain(dataset.warnings.iter().cloned())
            .chain(spec::of_images(&spec.training, dataset.train_images))
            .chain(notes.iter().cloned())
            .collect()
    }

    /// What was decided where the specification leaves it open, which needs no action. Only dry runs have all of it.
    pub fn remarks(&self) -> Vec<String> {
        let Self { dataset, chosen, published, new_classifier, .. } = self;
        dataset.notes.iter().chain(chosen).chain(published).chain(new_classifier).cloned().collect()
    }

    fn networks(&self) -> (JobNetwork<'_>, Option<JobNetwork<'_>>) {
        let Self { spec, exported: ExportedNetworks { teacher, student }, .. } = self;
        let student = JobNetwork::new(spec.student.architecture.as_deref(), student.as_ref());
        let of_teacher = spec.teacher.as_ref();
        (student, of_teacher.map(|spec| JobNetwork::new(spec.architecture.as_deref(), teacher.as_ref())))
    }

    fn sample_bytes(&self) -> u64 {
        let DatasetFacts { train_images, eval_images, classes, .. } = self.dataset;
        samples::file_bytes(self.spec.dataset.image_size, train_images, eval_images, classes)
    }

    fn costs(&self) -> Costs {
        let (student, teacher) = self.networks();
        let (classes, side) = (self.dataset.classes, self.spec.dataset.image_size);
        Costs { student: student.cost(classes, side), teacher: teacher.map(|teacher| teacher.cost(classes, side)) }
    }
}

/// How often a dry run checks whether a worker has found a data set that is new.
const CHECKS: u32 = 10;
const BETWEEN_CHECKS: Duration = Duration::from_millis(100);

/// A warning if the server's disk, where its own workers train, has less space than needed, in bytes.
fn check_disk(directory: &Path, needed: u64) -> Option<String> {
    let existing = directory.ancestors().find(|directory| directory.exists())?;
    let found = rustix::fs::statvfs(existing).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    (free < needed).then(|| {
        format!(
            "the server's disk has {} MiB of free space, and the job needs about {} MiB for its checkpoints and students, \
             with the images that exports are checked with",
            free >> 20,
            needed.div_ceil(1 << 20)
        )
    })
}
