//! A document as far as it can be read: every default filled in, and every fault noted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::defaults::{published_learning_rate, published_milestones, usual_augmentation};
use super::field::Document;
use super::reader::{Faults, ObjectReader};
use super::{
    Augmentation, DatasetName, DatasetSpec, DistillationSpec, EvalCrop, Fault, JobSpec, Method, OptimizerSpec,
    ScheduleSpec, StudentSpec, TeacherCache, TeacherSource, TeacherSpec, TrainingSpec, Weights, fields,
};
use crate::architecture::Architecture;
use crate::text::counted;

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
}

/// The teacher as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct TeacherRequest {
    /// `None` if it is faulty, or if only the job tells it.
    pub architecture: Option<&'static Architecture>,
    pub checkpoint: Option<String>,
    pub job: Option<String>,
    pub mean: Option<[f64; 3]>,
    pub std: Option<[f64; 3]>,
    pub min_top1: Option<f64>,
}

/// The student as far as it could be read.
#[derive(Debug, Clone)]
pub struct StudentRequest {
    pub architecture: Option<&'static Architecture>,
    pub checkpoint: Option<String>,
}

/// Where the data set is, as far as it could be read.
#[derive(Debug, Clone)]
pub struct DatasetLocation {
    pub name: Option<String>,
    pub path: Option<PathBuf>,
}

impl Request {
    /// Reads the body of `POST /v1/jobs`.
    #[must_use]
    pub fn read(document: &Value) -> Self {
        Self::read_as(document, Document::Job)
    }

    pub(super) fn read_as(document: &Value, kind: Document) -> Self {
        let faults = Faults::default();
        let request = job(ObjectReader::new(&faults, &fields::JOB, document, kind));
        let mut faults = RefCell::into_inner(faults);
        if !document.is_object() {
            // That everything is missing from it says nothing more.
            faults.truncate(1);
        }
        Self { faults, ..request }
    }

    /// The job, once the teacher's architecture is known.
    ///
    /// # Errors
    /// All faults.
    pub fn complete(self) -> Result<JobSpec, Vec<Fault>> {
        let Self { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels, faults } =
            self;
        if !faults.is_empty() {
            return Err(faults);
        }
        let teacher = teacher.map(TeacherRequest::complete).transpose()?;
        let StudentRequest { architecture, checkpoint } = student;
        let student =
            StudentSpec { architecture: known("/student/architecture", architecture)?.name.into(), checkpoint };
        let data = DatasetName { name: known("/dataset/name", dataset.location.name.clone())? };
        let dataset = dataset.at(data);
        Ok(JobSpec { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels })
    }
}

impl TeacherRequest {
    fn complete(self) -> Result<TeacherSpec, Vec<Fault>> {
        let source = match self.job {
            Some(job) => TeacherSource::Job(job),
            None => TeacherSource::Checkpoint(known("/teacher/checkpoint", self.checkpoint)?),
        };
        let architecture = known("/teacher/architecture", self.architecture)?.name.into();
        Ok(TeacherSpec { architecture, source, mean: self.mean, std: self.std, min_top1: self.min_top1 })
    }
}

/// What reading a document without faults has found; else a fault.
pub(super) fn known<T>(pointer: &str, value: Option<T>) -> Result<T, Vec<Fault>> {
    value.ok_or_else(|| vec![Fault { pointer: pointer.to_owned(), detail: "is required".to_owned() }])
}

fn job(mut reader: ObjectReader<'_>) -> Request {
    let name = reader.optional("name");
    let distillation = distillation(reader.object("distillation"));
    let method = distillation.method;
    reader.method = method;
    let teacher = teacher(&reader);
    let student = student(reader.object("student"));
    let dataset = dataset(reader.object("dataset"), student.architecture);
    let training = training(reader.object("training"), student.architecture, dataset.image_size);
    let name = name.unwrap_or_else(|| default_name(method, teacher.as_ref(), &student));
    let (priority, max_attempts) = (reader.get("priority"), reader.get("max_attempts"));
    let labels = reader.get("labels");
    reader.finish();
    let faults = Vec::new();
    Request { faults, name, teacher, student, dataset, distillation, training, priority, max_attempts, labels }
}

fn default_name(method: Method, teacher: Option<&TeacherRequest>, student: &StudentRequest) -> String {
    let student = student.architecture.map_or("", |student| student.name);
    match (method, teacher.and_then(|teacher| teacher.architecture)) {
        (Method::None, _) => student.to_owned(),
        (method, Some(teacher)) => format!("{} to {student} by {}", teacher.name, method.name()),
        (method, None) => format!("{student} by {}", method.name()),
    }
}

fn teacher(job: &ObjectReader<'_>) -> Option<TeacherRequest> {
    let is_given = job.is_given("teacher");
    let reader = is_given.then(|| job.object("teacher"));
    match (job.method, is_given) {
        (Method::None, true) => job.fault(
            "teacher",
            "method \"none\" is plain training and takes no teacher: leave it out, or choose a distillation method",
        ),
        (Method::None, false) | (_, true) => {}
        (method, false) => job.fault(
            "teacher",
            format!("is required by method {:?}; use method \"none\" to train without a teacher", method.name()),
        ),
    }
    let reader = reader?;
    let architecture = reader.optional("architecture");
    let (checkpoint, job) = (reader.optional("checkpoint"), reader.optional("job"));
    match (reader.is_given("checkpoint"), reader.is_given("job")) {
        (true, true) => reader.fault("job", "give either checkpoint or job, not both"),
        (false, false) => {
            reader.fault("checkpoint", "is required, unless job names a job whose student is the teacher");
        }
        (true, false) if !reader.is_given("architecture") => reader.fault("architecture", "is required"),
        _ => {}
    }
    let (mean, std) = normalisation(&reader);
    let min_top1 = reader.optional("min_top1");
    reader.finish();
    Some(TeacherRequest { architecture, checkpoint, job, mean, std, min_top1 })
}

/// `mean` and `std`: both or neither.
fn normalisation(reader: &ObjectReader<'_>) -> (Option<[f64; 3]>, Option<[f64; 3]>) {
    match (reader.is_given("mean"), reader.is_given("std")) {
        (true, false) => reader.fault("std", "is required together with mean"),
        (false, true) => reader.fault("mean", "is required together with std"),
        _ => {}
    }
    (reader.optional("mean"), reader.optional("std"))
}

fn student(reader: ObjectReader<'_>) -> StudentRequest {
    let student =
        StudentRequest { architecture: reader.optional("architecture"), checkpoint: reader.optional("checkpoint") };
    reader.finish();
    student
}

fn dataset(reader: ObjectReader<'_>, student: Option<&Architecture>) -> DatasetSpec<DatasetLocation> {
    let path = if reader.knows("path") { reader.optional("path") } else { None };
    let (mean, std) = normalisation(&reader);
    if reader.is_given("eval_split") && reader.is_given("eval_fraction") {
        reader.fault("eval_fraction", "give either eval_split or eval_fraction, not both");
    }
    let native = || student.map_or(32, |architecture| architecture.input_side);
    let image_size = reader.optional("image_size").unwrap_or_else(native);
    let (eval_crop, eval_resize) = eval_framing(&reader, image_size);
    let dataset = DatasetSpec {
        location: DatasetLocation { name: reader.optional("name"), path },
        train_split: reader.optional("train_split"),
        eval_split: reader.optional("eval_split"),
        eval_fraction: reader.optional("eval_fraction"),
        image_column: reader.optional("image_column"),
        label_column: reader.optional("label_column"),
        image_size,
        mean,
        std,
        eval_crop,
        eval_resize,
        limit: reader.optional("limit"),
    };
    reader.finish();
    dataset
}

/// `eval_crop` and `eval_resize`, which only the centre has.
fn eval_framing(reader: &ObjectReader<'_>, image_size: u32) -> (Option<EvalCrop>, Option<u32>) {
    let (crop, resize): (Option<EvalCrop>, Option<u32>) =
        (reader.optional("eval_crop"), reader.optional("eval_resize"));
    match resize {
        Some(_) if crop == Some(EvalCrop::Whole) => {
            reader.fault("eval_resize", "is used with eval_crop \"centre\" only: leave out one of them");
        }
        Some(resize) if resize < image_size => {
            let detail = format!("must be at least image_size, {image_size}: the centre of that size is taken");
            reader.fault("eval_resize", detail);
        }
        _ => {}
    }
    (crop, resize)
}

fn distillation(mut reader: ObjectReader<'_>) -> DistillationSpec {
    let method = reader.get("method");
    reader.method = method;
    let scales = scales(&reader);
    let distillation = DistillationSpec {
        method,
        scale_weights: scale_weights(&reader, scales.len()),
        scales,
        weights: weights(reader.object("weights")),
        grouping: reader.optional("grouping"),
        temperature: reader.optional("temperature"),
        alpha: reader.optional("alpha"),
        beta: reader.optional("beta"),
        gamma: reader.optional("gamma"),
        warmup_epochs: reader.optional("warmup_epochs"),
        exclude_target: reader.optional("exclude_target"),
    };
    reader.finish();
    distillation
}

fn scales(reader: &ObjectReader<'_>) -> Vec<u32> {
    let scales: Vec<u32> = reader.optional("scales").unwrap_or_default();
    if scales.is_empty() && reader.method.base().is_some() {
        reader.fault("scales", "must name at least one scale, such as [1, 2, 4]");
    }
    ascend(reader, "scales", &scales);
    let name = reader.method.name();
    if reader.method.base().is_some() && !reader.method.is_scale_decoupled() && scales != [1] {
        reader.fault("scales", format!("method {name:?} has scale 1 only; use \"sdd_{name}\" for more"));
    }
    scales
}

fn ascend(reader: &ObjectReader<'_>, field: &str, list: &[u32]) {
    for (index, pair) in list.windows(2).enumerate() {
        if pair[1] <= pair[0] {
            let detail = format!("{field} must ascend: {} follows {}", pair[1], pair[0]);
            reader.fault(&format!("{field}/{}", index + 1), detail);
        }
    }
}

fn scale_weights(reader: &ObjectReader<'_>, scales: usize) -> Vec<f64> {
    let given: Option<Vec<f64>> = reader.optional("scale_weights");
    if let Some(given) = &given
        && given.len() != scales
    {
        let entries = counted(given.len() as u64, "entry", "entries");
        let detail = format!("has {entries} for {}: give one per scale", counted(scales as u64, "scale", "scales"));
        reader.fault("scale_weights", detail);
    }
    given.unwrap_or_else(|| vec![1.0; scales])
}

fn weights(reader: ObjectReader<'_>) -> Weights {
    let weights = Weights {
        cross_entropy: reader.get("cross_entropy"),
        distillation: reader.get("distillation"),
        consistent: reader.get("consistent"),
        complementary: reader.get("complementary"),
    };
    if weights.cross_entropy == 0.0 && weights.distillation == 0.0 {
        reader.fault_here("cross_entropy and distillation are both 0: nothing would be learned");
    }
    reader.finish();
    weights
}

fn training(reader: ObjectReader<'_>, student: Option<&Architecture>, image_size: u32) -> TrainingSpec {
    let epochs = reader.get("epochs");
    let (batch_size, devices) = (reader.get("batch_size"), reader.get("devices"));
    if devices > batch_size {
        let detail = format!(
            "{} cannot share batches of {}: lower devices, or raise batch_size",
            counted(devices, "device", "devices"),
            counted(batch_size, "image", "images")
        );
        reader.fault("devices", detail);
    }
    let augmentation = reader.optional("augmentation").unwrap_or_else(|| usual_augmentation(image_size));
    let is_clipped = reader.is_given("clip_grad_norm") || !reader.has("clip_grad_norm");
    let training = TrainingSpec {
        epochs,
        batch_size,
        devices,
        optimizer: optimizer(&reader, student),
        schedule: schedule(&reader, epochs),
        augmentation,
        teacher_cache: teacher_cache(&reader, augmentation),
        clip_grad_norm: is_clipped.then(|| reader.get("clip_grad_norm")),
        precision: reader.get("precision"),
        seed: reader.get("seed"),
        checkpoint_every_epochs: reader.get("checkpoint_every_epochs"),
        eval_every_epochs: reader.get("eval_every_epochs"),
    };
    reader.finish();
    training
}

fn teacher_cache(training: &ObjectReader<'_>, augmentation: Augmentation) -> Option<TeacherCache> {
    let given: Option<TeacherCache> = training.optional("teacher_cache");
    training.method.base()?;
    if let Some(objection) = given.and_then(|given| given.objection(augmentation)) {
        training.fault("teacher_cache", objection);
    }
    Some(given.unwrap_or_else(|| TeacherCache::usual(augmentation)))
}

fn optimizer(training: &ObjectReader<'_>, student: Option<&Architecture>) -> OptimizerSpec {
    let (kind, reader) = training.variant("optimizer");
    let weight_decay = reader.get("weight_decay");
    let optimizer = if kind == "adamw" {
        OptimizerSpec::Adamw {
            learning_rate: reader.get("learning_rate"),
            beta1: reader.get("beta1"),
            beta2: reader.get("beta2"),
            weight_decay,
        }
    } else {
        let (momentum, nesterov) = (reader.get("momentum"), reader.get("nesterov"));
        if nesterov && momentum == 0.0 {
            reader.fault("nesterov", "needs a momentum above 0");
        }
        let given = reader.optional("learning_rate");
        let learning_rate = given.unwrap_or_else(|| published_learning_rate(student));
        OptimizerSpec::Sgd { learning_rate, momentum, weight_decay, nesterov }
    };
    reader.finish();
    optimizer
}

fn schedule(training: &ObjectReader<'_>, epochs: u32) -> ScheduleSpec {
    let (kind, reader) = training.variant("schedule");
    let schedule = match kind {
        "cosine" => {
            let warmup_epochs = reader.get("warmup_epochs");
            if warmup_epochs >= epochs && warmup_epochs > 0 {
                reader.fault("warmup_epochs", format!("must be less than training.epochs, {epochs}"));
            }
            ScheduleSpec::Cosine { warmup_epochs }
        }
        "constant" => ScheduleSpec::Constant,
        _ => {
            let given: Option<Vec<u32>> = reader.optional("milestones");
            ascend(&reader, "milestones", given.as_deref().unwrap_or_default());
            let milestones = given.unwrap_or_else(|| published_milestones(epochs));
            ScheduleSpec::Multistep { milestones, gamma: reader.get("gamma") }
        }
    };
    reader.finish();
    schedule
}
