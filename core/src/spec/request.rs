//! A document as far as it can be read: every default filled in, and every fault noted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::defaults::Kinship;
use super::distillation::distillation;
use super::field::Document;
use super::images::{dataset, normalisation};
use super::reader::{Faults, ObjectReader};
use super::recipe::training;
use super::requested::{DatasetLocation, Defaults, StudentRequest, TeacherRequest};
use super::{
    DatasetName, DatasetSpec, DescribedNetwork, DistillationSpec, Fault, FoundNetwork, FoundNetworks, JobSpec, Method,
    StudentHead, StudentSpec, TeacherSource, TeacherSpec, TrainingSpec, fields,
};
use crate::architecture::Architecture;

/// What a document asks for. Whoever has further checks to make adds their faults; [`Request::complete`] tells all.
#[derive(Debug, Clone)]
pub struct Request {
    /// In the order of the document's fields.
    pub faults: Vec<Fault>,
    pub name: String,
    /// `None` if the document names no teacher.
    pub teacher: Option<TeacherRequest>,
    pub student: StudentRequest,
    pub dataset: DatasetSpec<DatasetLocation>,
    pub distillation: DistillationSpec,
    pub training: TrainingSpec,
    pub priority: i32,
    pub max_attempts: u32,
    pub labels: BTreeMap<String, String>,
    pub defaults: Defaults,
}

impl Request {
    /// Reads the body of `POST /v1/jobs`. Defaults that depend on networks that it does not name are those of unknown
    /// ones.
    #[must_use]
    pub fn read(document: &Value) -> Self {
        Self::read_with(document, &FoundNetworks::default())
    }

    /// Reads the body of `POST /v1/jobs` once it is known which networks its checkpoints hold.
    #[must_use]
    pub fn read_with(document: &Value, networks: &FoundNetworks) -> Self {
        Self::read_as(document, Document::Job, networks)
    }

    pub(super) fn read_as(document: &Value, kind: Document, networks: &FoundNetworks) -> Self {
        let faults = Faults::default();
        let request = job(ObjectReader::new(&faults, &fields::JOB, document, kind), networks);
        let mut faults = RefCell::into_inner(faults);
        if !document.is_object() {
            // That everything is missing from it says nothing more.
            faults.truncate(1);
        }
        Self { faults, ..request }
    }

    /// The job, once its networks are known.
    ///
    /// # Errors
    /// All faults.
    pub fn complete(self) -> Result<JobSpec, Vec<Fault>> {
        let Self { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels, .. } = self;
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let teacher = teacher.map(TeacherRequest::complete).transpose()?;
        let StudentRequest { architecture, exported, checkpoint, head, .. } = student;
        let architecture = name_of("/student/architecture", architecture, exported.as_ref())?;
        let student = StudentSpec { architecture, checkpoint, head };
        let data = DatasetName { name: known("/dataset/name", dataset.location.name.clone())? };
        let dataset = dataset.at(data);
        Ok(JobSpec { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels })
    }
}

impl TeacherRequest {
    /// How a teacher's images are normalised of which neither the document nor a file says it.
    fn unknown_normalisation(&self) -> Option<String> {
        let Self { exported: Some(network), network: None, job: None, mean: None, .. } = self else { return None };
        Some(format!(
            "the images of the teacher {} are normalised like the student's, since an exported network does not name a \
             mean and a standard deviation: set teacher.mean and teacher.std to those that it was trained with \
             (mostly [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225] for weights from ImageNet)",
            network.name
        ))
    }

    fn complete(self) -> Result<TeacherSpec, Vec<Fault>> {
        let source = match self.job {
            Some(job) => TeacherSource::Job(job),
            None => TeacherSource::Checkpoint(known("/teacher/checkpoint", self.checkpoint)?),
        };
        let architecture = name_of("/teacher/architecture", self.architecture, self.exported.as_ref())?;
        let Self { mean, std, classes, min_top1, .. } = self;
        Ok(TeacherSpec { architecture, source, mean, std, classes, min_top1 })
    }
}

/// The architecture's name; `None` for an exported network.
fn name_of(
    pointer: &str,
    architecture: Option<&'static Architecture>,
    exported: Option<&DescribedNetwork>,
) -> Result<Option<String>, Vec<Fault>> {
    match (architecture, exported) {
        (None, Some(_)) => Ok(None),
        (architecture, _) => Ok(Some(known(pointer, architecture)?.name.to_owned())),
    }
}

/// What reading a document without faults has found; else a fault.
pub(super) fn known<T>(pointer: &str, value: Option<T>) -> Result<T, Vec<Fault>> {
    value.ok_or_else(|| vec![Fault { pointer: pointer.to_owned(), detail: "is required".to_owned() }])
}

fn job(mut reader: ObjectReader<'_>, networks: &FoundNetworks) -> Request {
    let name = reader.optional("name");
    // The method decides which fields all the others are read for.
    let mut of_distillation = reader.object("distillation");
    let method = of_distillation.get("method");
    (reader.method, of_distillation.method) = (method, method);
    let knows_method = !reader.has_fault(&["distillation"]);
    (reader.knows_method, of_distillation.knows_method) = (knows_method, knows_method);
    let is_default = !of_distillation.is_given("method");
    (reader.is_method_default, of_distillation.is_method_default) = (is_default, is_default);
    let teacher = teacher(&reader, networks.teacher.as_ref());
    let mut defaults = Defaults::default();
    defaults.doubtful.extend(teacher.as_ref().and_then(TeacherRequest::unknown_normalisation));
    let student = student(reader.object("student"), networks.student.as_ref());
    let native = networks.side().or(student.architecture.map(|architecture| architecture.input_side));
    let (dataset, is_size_given) = dataset(reader.object("dataset"), native);
    let kinship = Kinship::of(teacher.as_ref(), &student);
    let distillation = distillation(of_distillation, kinship, networks, &mut defaults);
    let training = training(reader.object("training"), &student, dataset.image_size, &mut defaults);
    defaults.doubtful.extend(networks.small_batches(&training));
    if knows_method {
        networks.faults(method, dataset.image_size, is_size_given).into_iter().for_each(|fault| reader.add(fault));
    }
    let name = name.unwrap_or_else(|| default_name(method, teacher.as_ref(), &student));
    let (priority, max_attempts) = (reader.get("priority"), reader.get("max_attempts"));
    let labels = reader.get("labels");
    reader.finish();
    let faults = Vec::new();
    Request {
        faults,
        name,
        teacher,
        student,
        dataset,
        distillation,
        training,
        priority,
        max_attempts,
        labels,
        defaults,
    }
}

fn default_name(method: Method, teacher: Option<&TeacherRequest>, student: &StudentRequest) -> String {
    let name = |architecture: Option<&'static Architecture>, exported: Option<&DescribedNetwork>| {
        let of_file = || exported.map(|network| network.name.clone());
        architecture.map(|architecture| architecture.name.to_owned()).or_else(of_file)
    };
    let student = name(student.architecture, student.exported.as_ref()).unwrap_or_default();
    let teacher = teacher.and_then(|teacher| name(teacher.architecture, teacher.exported.as_ref()));
    let name = match (method, teacher) {
        (Method::None, _) => student,
        (method, Some(teacher)) => format!("{teacher} to {student} by {}", method.name()),
        (method, None) => format!("{student} by {}", method.name()),
    };
    // Names of uploads may be as long as those of jobs.
    name.chars().take(fields::LONGEST_JOB_NAME).collect()
}

fn teacher(job: &ObjectReader<'_>, found: Option<&FoundNetwork>) -> Option<TeacherRequest> {
    let is_given = job.is_given("teacher");
    let reader = is_given.then(|| job.object("teacher"));
    match (job.method, is_given) {
        (Method::None, true) => job.fault(
            "teacher",
            "method \"none\" is plain training and takes no teacher: leave it out, or choose a distillation method",
        ),
        (Method::None, false) | (_, true) => {}
        (_, false) if !job.knows_method => {}
        (method, false) => job.fault(
            "teacher",
            format!(
                "is required by {}; use method \"none\" to train without a teacher",
                method.words(job.is_method_default)
            ),
        ),
    }
    let reader = reader?;
    let (architecture, exported) = architecture(&reader, found);
    let (checkpoint, job) = (reader.optional("checkpoint"), reader.optional("job"));
    match (reader.is_given("checkpoint"), reader.is_given("job")) {
        (true, true) => reader.fault("job", "give either checkpoint or job, not both"),
        (false, false) => {
            reader.fault("checkpoint", "is required, unless job names a job whose student is the teacher");
        }
        _ => {}
    }
    let network = network_file(&reader);
    let (mean, std) = normalisation(&reader);
    let (classes, min_top1) = (reader.optional("classes"), reader.optional("min_top1"));
    reader.finish();
    Some(TeacherRequest { architecture, exported, checkpoint, network, job, mean, std, classes, min_top1 })
}

/// The network that the document names, or else the one that was found.
fn architecture(
    reader: &ObjectReader<'_>,
    found: Option<&FoundNetwork>,
) -> (Option<&'static Architecture>, Option<DescribedNetwork>) {
    let given = reader.optional("architecture");
    let found = found.filter(|_| !reader.is_given("architecture"));
    (given.or_else(|| found?.architecture()), found.and_then(FoundNetwork::exported).cloned())
}

/// The file of an exported network whose weights the checkpoint has.
fn network_file(reader: &ObjectReader<'_>) -> Option<PathBuf> {
    let network = if reader.knows("network") { reader.optional("network") } else { None };
    if network.is_some() && reader.is_given("architecture") {
        reader.fault("network", "is an exported network, which has no architecture: leave out one of them");
    }
    network
}

fn student(reader: ObjectReader<'_>, found: Option<&FoundNetwork>) -> StudentRequest {
    let (architecture, exported) = architecture(&reader, found);
    if !reader.is_given("architecture") && !reader.is_given("checkpoint") {
        reader.fault(
            "architecture",
            "is required: a name of GET /v1/architectures; or give checkpoint alone, to train an exported network",
        );
    }
    let (checkpoint, network) = (reader.optional("checkpoint"), network_file(&reader));
    let head = reader.optional("head");
    if head.is_some() && !reader.is_given("checkpoint") {
        reader.fault("head", "is used with checkpoint only: without one, every weight of the student is new");
    }
    if head == Some(StudentHead::New)
        && let Some(detail) = exported.as_ref().and_then(DescribedNetwork::without_new_classifier)
    {
        reader.fault("head", detail);
    }
    reader.finish();
    StudentRequest { architecture, exported, checkpoint, network, head }
}
