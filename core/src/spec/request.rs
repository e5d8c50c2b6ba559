//! A document as far as it can be read: every default filled in, and every fault noted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::field::Document;
use super::reader::{Faults, ObjectReader};
use super::{
    Augmentation, DatasetName, DatasetSpec, DistillationSpec, EvalCrop, ExportedNetwork, Fault, JobSpec, Method,
    Network, Networks, OptimizerSpec, ScheduleSpec, StudentHead, StudentSpec, TeacherCache, TeacherSource, TeacherSpec,
    TrainingSpec, Weights, fields,
};
use crate::architecture::Architecture;

/// Images up to this side are augmented like CIFAR's by default: Tiny ImageNet's size.
const LARGEST_SMALL_IMAGE: u32 = 64;

/// What a document asks for. Whoever has further checks to make adds their faults; [`Request::complete`] tells all.
#[derive(Debug, Clone)]
pub struct Request {
    /// In the order of the document's fields.
    pub faults: Vec<Fault>,
    pub name: String,
    /// None where the document has none.
    pub teacher: Option<TeacherRequest>,
    pub student: StudentRequest,
    pub dataset: DatasetSpec<DatasetPlace>,
    pub distillation: DistillationSpec,
    pub training: TrainingSpec,
    pub priority: i32,
    pub max_attempts: u32,
    pub labels: BTreeMap<String, String>,
    /// Defaults that follow from exported networks, as sentences without a full stop.
    pub choices: Vec<String>,
}

/// The teacher as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct TeacherRequest {
    /// `None` if it is faulty, known from the checkpoint or the job only, or an exported network's.
    pub architecture: Option<&'static Architecture>,
    /// `None` unless it is known to be an exported network.
    pub exported: Option<ExportedNetwork>,
    pub checkpoint: Option<String>,
    /// The file of an exported network whose weights the checkpoint has.
    pub network: Option<PathBuf>,
    pub job: Option<String>,
    pub mean: Option<[f64; 3]>,
    pub std: Option<[f64; 3]>,
    pub min_top1: Option<f64>,
}

/// The student as far as it could be read.
#[derive(Debug, Clone)]
pub struct StudentRequest {
    /// As a teacher's.
    pub architecture: Option<&'static Architecture>,
    /// As a teacher's.
    pub exported: Option<ExportedNetwork>,
    pub checkpoint: Option<String>,
    /// As a teacher's.
    pub network: Option<PathBuf>,
    pub head: Option<StudentHead>,
}

/// Where the data set is, as far as it could be read.
#[derive(Debug, Clone)]
pub struct DatasetPlace {
    pub name: Option<String>,
    pub path: Option<PathBuf>,
}

impl Request {
    /// Reads the body of `POST /v1/jobs`. Defaults that depend on networks that it does not name are those of unknown ones.
    #[must_use]
    pub fn read(document: &Value) -> Self {
        Self::read_with(document, &Networks::default())
    }

    /// Reads the body of `POST /v1/jobs` once it is known which networks its checkpoints hold.
    #[must_use]
    pub fn read_with(document: &Value, networks: &Networks) -> Self {
        Self::read_as(document, Document::Job, networks)
    }

    pub(super) fn read_as(document: &Value, kind: Document, networks: &Networks) -> Self {
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
        let data = DatasetName { name: known("/dataset/name", dataset.place.name.clone())? };
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
        let architecture = name_of("/teacher/architecture", self.architecture, self.exported.as_ref())?;
        Ok(TeacherSpec { architecture, source, mean: self.mean, std: self.std, min_top1: self.min_top1 })
    }
}

/// The architecture's name; `None` for an exported network.
fn name_of(
    pointer: &str,
    architecture: Option<&'static Architecture>,
    exported: Option<&ExportedNetwork>,
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

fn job(mut reader: ObjectReader<'_>, networks: &Networks) -> Request {
    let name = reader.optional("name");
    let mut choices = Vec::new();
    let distillation = distillation(reader.object("distillation"), networks, &mut choices);
    let method = distillation.method;
    reader.method = method;
    let teacher = teacher(&reader, networks.teacher.as_ref());
    let student = student(reader.object("student"), networks.student.as_ref());
    let native = networks.side().or(student.architecture.map(|architecture| architecture.input_side));
    let (dataset, is_size_given) = dataset(reader.object("dataset"), native);
    let training = training(reader.object("training"), &student, dataset.image_size, &mut choices);
    networks.faults(method, dataset.image_size, is_size_given).into_iter().for_each(|fault| reader.add(fault));
    let name = name.unwrap_or_else(|| default_name(method, teacher.as_ref(), &student));
    let (priority, max_attempts) = (reader.get("priority"), reader.get("max_attempts"));
    let labels = reader.get("labels");
    reader.finish();
    let faults = Vec::new();
    Request { faults, name, teacher, student, dataset, distillation, training, priority, max_attempts, labels, choices }
}

fn default_name(method: Method, teacher: Option<&TeacherRequest>, student: &StudentRequest) -> String {
    let name = |architecture: Option<&'static Architecture>, exported: Option<&ExportedNetwork>| {
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

fn teacher(job: &ObjectReader<'_>, found: Option<&Network>) -> Option<TeacherRequest> {
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
    let min_top1 = reader.optional("min_top1");
    reader.finish();
    Some(TeacherRequest { architecture, exported, checkpoint, network, job, mean, std, min_top1 })
}

/// The network that the document names, or else the one that was found.
fn architecture(
    reader: &ObjectReader<'_>,
    found: Option<&Network>,
) -> (Option<&'static Architecture>, Option<ExportedNetwork>) {
    let given = reader.optional("architecture");
    let found = found.filter(|_| !reader.is_given("architecture"));
    (given.or_else(|| found?.architecture()), found.and_then(Network::exported).cloned())
}

/// The file of an exported network whose weights the checkpoint has.
fn network_file(reader: &ObjectReader<'_>) -> Option<PathBuf> {
    let network = if reader.knows("network") { reader.optional("network") } else { None };
    if network.is_some() && reader.is_given("architecture") {
        reader.fault("network", "is an exported network, which has no architecture: leave out one of them");
    }
    network
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

fn student(reader: ObjectReader<'_>, found: Option<&Network>) -> StudentRequest {
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
        && let Some(network) = &exported
        && network.description.head.classifier.is_none()
    {
        let detail = format!(
            "the classifier of {} cannot be replaced, because its logits are not those of a linear layer or a 1×1 \
             convolution: replace it in PyTorch, and export the network again",
            network.name
        );
        reader.fault("head", detail);
    }
    reader.finish();
    StudentRequest { architecture, exported, checkpoint, network, head }
}

/// `native` is the side in pixels for which the networks were made. Returns whether the document has another, too.
fn dataset(reader: ObjectReader<'_>, native: Option<u32>) -> (DatasetSpec<DatasetPlace>, bool) {
    let path = if reader.knows("path") { reader.optional("path") } else { None };
    let (mean, std) = normalisation(&reader);
    if reader.is_given("eval_split") && reader.is_given("eval_fraction") {
        reader.fault("eval_fraction", "give either eval_split or eval_fraction, not both");
    }
    let given: Option<u32> = reader.optional("image_size");
    let image_size = given.or(native).unwrap_or(32);
    let (eval_crop, eval_resize) = eval_framing(&reader, image_size);
    let dataset = DatasetSpec {
        place: DatasetPlace { name: reader.optional("name"), path },
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
    (dataset, given.is_some())
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

fn distillation(mut reader: ObjectReader<'_>, networks: &Networks, choices: &mut Vec<String>) -> DistillationSpec {
    let method = reader.get("method");
    reader.method = method;
    let mut scales = scales(&reader);
    if !reader.is_given("scales")
        && let Some(cut) = networks.cut(&scales)
    {
        choices.push(format!(
            "distillation.scales is {cut:?}: the other published ones are finer than the feature map of an exported network"
        ));
        scales = cut;
    }
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
        let detail = format!("has {} entries for {scales} scales: give one per scale", given.len());
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

fn training(
    reader: ObjectReader<'_>,
    student: &StudentRequest,
    image_size: u32,
    choices: &mut Vec<String>,
) -> TrainingSpec {
    let epochs = reader.get("epochs");
    let (batch_size, devices) = (reader.get("batch_size"), reader.get("devices"));
    if devices > batch_size {
        let detail = format!(
            "{devices} devices cannot share batches of {batch_size} images: lower devices, or raise batch_size"
        );
        reader.fault("devices", detail);
    }
    let augmentation = reader.optional("augmentation").unwrap_or_else(|| usual_augmentation(image_size));
    let is_clipped = reader.is_given("clip_grad_norm") || !reader.has("clip_grad_norm");
    let training = TrainingSpec {
        epochs,
        batch_size,
        devices,
        optimizer: optimizer(&reader, student, choices),
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

fn optimizer(training: &ObjectReader<'_>, student: &StudentRequest, choices: &mut Vec<String>) -> OptimizerSpec {
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
        if let (None, Some(exported)) = (given, &student.exported) {
            choices.push(format!(
                "training.optimizer.learning_rate is {learning_rate}, a cautious default: the published recipes have none for \
                 {}",
                exported.name
            ));
        }
        OptimizerSpec::Sgd { learning_rate, momentum, weight_decay, nesterov }
    };
    reader.finish();
    optimizer
}

/// CIFAR's for small images. On larger ones a crop by 4 pixels changes next to nothing, so they get ImageNet's.
fn usual_augmentation(image_size: u32) -> Augmentation {
    if image_size <= LARGEST_SMALL_IMAGE { Augmentation::CropFlip } else { Augmentation::ResizedCropFlip }
}

/// The published CIFAR-100 recipe: 0.01 for the light students, 0.05 for the others. An exported network may be light or
/// trained already.
fn published_learning_rate(student: &StudentRequest) -> f64 {
    if student.exported.is_some() {
        return 0.01;
    }
    let name = student.architecture.map_or("", |student| student.name);
    if name.starts_with("shufflenet") || name.starts_with("mobilenet") { 0.01 } else { 0.05 }
}

fn schedule(training: &ObjectReader<'_>, epochs: u32) -> ScheduleSpec {
    let (kind, reader) = training.variant("schedule");
    let schedule = match kind {
        "cosine" => {
            let warmup_epochs = reader.get("warmup_epochs");
            if warmup_epochs >= epochs && warmup_epochs > 0 {
                reader.fault("warmup_epochs", format!("must be less than the {epochs} epochs"));
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

/// 62.5, 75 and 87.5 % of the epochs: 150, 180, 210 of 240.
fn published_milestones(epochs: u32) -> Vec<u32> {
    let mut milestones: Vec<u32> =
        [5, 6, 7].iter().map(|eighths| (epochs * eighths + 4) / 8).filter(|&epoch| epoch > 0).collect();
    milestones.dedup();
    milestones
}
