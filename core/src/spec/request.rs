//! JSON to [`JobSpec`]: every fault at once, every default filled in.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::{Faults, Fields, integer_in, number_in};
use super::{
    Augmentation, BaseLoss, DatasetSpec, DistillationSpec, Fault, Grouping, JobSpec, Method, OptimizerSpec, Precision,
    ScheduleSpec, StudentSpec, TeacherSpec, TrainingSpec, Weights, teacher_cache,
};
use crate::architecture::{self, Architecture};

/// Largest accepted scale: 16 × 16 regions.
const FINEST_SCALE: i64 = 16;

/// Most devices of one job.
const MOST_DEVICES: i64 = 64;

/// Side of the largest images that are trained on like CIFAR's where nothing else is said: Tiny ImageNet's.
const LARGEST_SMALL_IMAGE: u32 = 64;

/// Who reads the specification, which decides what a name may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The server: data sets by name, checkpoints by id; a path or a URL is refused.
    Server,
    /// `distillery train`: `dataset.path` and checkpoints are local paths.
    Local,
}

/// Reads a specification.
///
/// # Errors
/// Every fault of the document, in the order of its fields.
pub fn parse(document: &Value, mode: Mode) -> Result<JobSpec, Vec<Fault>> {
    let (spec, faults) = read(document, mode);
    if faults.is_empty() { Ok(spec) } else { Err(faults) }
}

/// Reads what can be read of a specification, with its faults, for a caller who has further checks to make. What is
/// missing or faulty is absent, or has its default, or is an empty name.
#[must_use]
pub fn read(document: &Value, mode: Mode) -> (JobSpec, Vec<Fault>) {
    let faults = Faults::default();
    let spec = job(Fields::new(&faults, String::new(), document), mode);
    (spec, RefCell::into_inner(faults))
}

fn job(mut fields: Fields<'_>, mode: Mode) -> JobSpec {
    let name = fields.string("name", 200);
    let labels = labels(&mut fields);
    let priority = fields.integer("priority", -1000..=1000).unwrap_or(0);
    let max_attempts = fields.integer("max_attempts", 1..=100).unwrap_or(3);
    let distillation = distillation(fields.object("distillation"));
    let has_teacher = fields.value("teacher").is_some();
    let teacher = teacher(fields.object("teacher"), has_teacher, mode);
    match (distillation.method, has_teacher) {
        (Method::None, true) => fields.fault(
            "teacher",
            "method \"none\" is plain training and takes no teacher: leave it out, or choose a distillation method",
        ),
        (Method::None, false) | (_, true) => {}
        (method, false) => fields.fault(
            "teacher",
            format!("is required by method {:?}; use method \"none\" to train without a teacher", method.name()),
        ),
    }
    require(&fields, "student");
    let (student, student_architecture) = student(fields.object("student"), mode);
    require(&fields, "dataset");
    let dataset = dataset(fields.object("dataset"), student_architecture, mode);
    let training = training(fields.object("training"), &student.architecture, dataset.image_size, distillation.method);
    fields.finish();
    let name = name.unwrap_or_else(|| default_name(distillation.method, teacher.as_ref(), &student));
    JobSpec {
        name,
        teacher: teacher.filter(|_| has_teacher),
        student,
        dataset,
        distillation,
        training,
        priority: to(priority),
        max_attempts: to(max_attempts),
        labels,
    }
}

/// An integer that a range check has already bounded.
fn to<T: TryFrom<i64>>(number: i64) -> T {
    T::try_from(number).ok().expect("the range of the field fits its type")
}

fn require(fields: &Fields<'_>, field: &str) {
    if !fields.has(field) {
        fields.fault(field, "is required");
    }
}

fn default_name(method: Method, teacher: Option<&TeacherSpec>, student: &StudentSpec) -> String {
    match (method, teacher.and_then(|teacher| teacher.architecture.as_deref())) {
        (Method::None, _) => student.architecture.clone(),
        (method, Some(teacher)) => format!("{teacher} to {} by {}", student.architecture, method.name()),
        (method, None) => format!("{} by {}", student.architecture, method.name()),
    }
}

fn labels(fields: &mut Fields<'_>) -> BTreeMap<String, String> {
    let members = fields.members("labels");
    if members.len() > 32 {
        fields.fault("labels", format!("has {} entries; at most 32 are allowed", members.len()));
    }
    let mut labels = BTreeMap::new();
    for (key, value) in members {
        match value.as_str() {
            _ if key.is_empty() || key.len() > 63 || key.contains([':', '\0']) => {
                fields.fault("labels", format!("key {key:?} must have 1 to 63 bytes and no colon"));
            }
            Some(value) if value.len() <= 255 && !value.contains('\0') => {
                labels.insert(key.clone(), value.to_owned());
            }
            _ => fields.fault("labels", format!("the value of {key:?} must be a string of at most 255 bytes")),
        }
    }
    labels
}

/// The architecture of that name, or a fault that lists what there is.
fn architecture(fields: &mut Fields<'_>) -> Option<&'static Architecture> {
    let name = fields.string("architecture", 100)?;
    let found = architecture::find(&name);
    if found.is_none() {
        let known: Vec<_> = architecture::all().iter().map(|known| known.name).collect();
        let hint = architecture::suggest(&name).map_or_else(String::new, |near| format!(", did you mean {near}?"));
        fields.fault("architecture", format!("unknown architecture {name:?}{hint}; known: {}", known.join(", ")));
    }
    found
}

/// The id of a checkpoint for the server, a path for the command line.
fn checkpoint(fields: &mut Fields<'_>, mode: Mode) -> Option<String> {
    let checkpoint = fields.string("checkpoint", 4096)?;
    if mode == Mode::Server && !checkpoint.starts_with("ckpt_") {
        fields.fault(
            "checkpoint",
            "expected the id of an uploaded checkpoint (\"ckpt_…\"): upload the file with PUT /v1/checkpoints first",
        );
        return None;
    }
    Some(checkpoint)
}

fn teacher(mut fields: Fields<'_>, present: bool, mode: Mode) -> Option<TeacherSpec> {
    if !present {
        return None;
    }
    let architecture = architecture(&mut fields).map(|found| found.name.to_owned());
    let checkpoint = checkpoint(&mut fields, mode);
    let job = fields.string("job", 100);
    match (fields.has("checkpoint"), fields.has("job")) {
        (true, true) => fields.fault("job", "give either checkpoint or job, not both"),
        (false, false) => {
            fields.fault("checkpoint", "is required, unless job names a job whose student is the teacher");
        }
        (true, false) => require(&fields, "architecture"),
        (false, true) if mode == Mode::Local => fields.fault("job", "only a server knows jobs: give a checkpoint file"),
        (false, true) => {}
    }
    let (mean, std) = normalisation(&mut fields);
    fields.finish();
    Some(TeacherSpec { architecture, checkpoint, job, mean, std })
}

/// `mean` and `std`: both or neither.
fn normalisation(fields: &mut Fields<'_>) -> (Option<[f64; 3]>, Option<[f64; 3]>) {
    let mean = fields.channels("mean", -10.0..=10.0);
    let std = fields.channels("std", 1e-6..=10.0);
    match (fields.has("mean"), fields.has("std")) {
        (true, false) => fields.fault("std", "is required together with mean"),
        (false, true) => fields.fault("mean", "is required together with std"),
        _ => {}
    }
    (mean, std)
}

fn student(mut fields: Fields<'_>, mode: Mode) -> (StudentSpec, Option<&'static Architecture>) {
    if !fields.has("architecture") {
        fields.fault("architecture", "is required: a name of GET /v1/architectures");
    }
    let architecture = architecture(&mut fields);
    let checkpoint = checkpoint(&mut fields, mode);
    fields.finish();
    let name = architecture.map_or_else(String::new, |found| found.name.to_owned());
    (StudentSpec { architecture: name, checkpoint }, architecture)
}

fn dataset(mut fields: Fields<'_>, student: Option<&'static Architecture>, mode: Mode) -> DatasetSpec {
    let name = fields.string("name", 100);
    let path = if mode == Mode::Local { fields.string("path", 4096) } else { None };
    match mode {
        Mode::Local if path.is_none() => fields.fault("path", "is required: the directory of the data set"),
        Mode::Server if !fields.has("name") => fields.fault("name", "is required: a name of GET /v1/datasets"),
        _ => {}
    }
    if let Some(name) = &name
        && !is_plain_name(name)
    {
        fields.fault("name", "may hold letters, digits, '.', '_' and '-' only, and starts with a letter or digit");
    }
    let split = |fields: &mut Fields<'_>, field| {
        let split = fields.string(field, 100)?;
        if !is_plain_name(&split) {
            fields.fault(field, "may hold letters, digits, '.', '_' and '-' only, and starts with a letter or digit");
        }
        Some(split)
    };
    let train_split = split(&mut fields, "train_split");
    let eval_split = split(&mut fields, "eval_split");
    let image_column = fields.string("image_column", 200);
    let label_column = fields.string("label_column", 200);
    let image_size = fields.integer("image_size", 8..=1024);
    let (mean, std) = normalisation(&mut fields);
    let limit = fields.integer("limit", 1..=1_000_000_000_000).map(to);
    fields.finish();
    let native = || student.map_or(32, |architecture| i64::from(architecture.input_side));
    let image_size = to(image_size.unwrap_or_else(native));
    DatasetSpec { name, path, train_split, eval_split, image_column, label_column, image_size, mean, std, limit }
}

/// Whether `name` can be a directory entry below a base and nothing else.
fn is_plain_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn distillation(mut fields: Fields<'_>) -> DistillationSpec {
    let method = fields.choice("method").unwrap_or(Method::SddKd);
    let scales = scales(&mut fields, method);
    let scale_weights = scale_weights(&mut fields, method, scales.len());
    let grouping = fields.choice("grouping");
    let temperature = fields.number("temperature", 1e-3..=1e3);
    let alpha = fields.number("alpha", 0.0..=1e6);
    let beta = fields.number("beta", 0.0..=1e6);
    let gamma = fields.number("gamma", 0.0..=1e6);
    let warmup_epochs = fields.integer("warmup_epochs", 0..=100_000).map(to);
    let exclude_target = fields.boolean("exclude_target");
    let weights = weights(fields.object("weights"), method);
    let base = method.base();
    refuse_unused(&fields, method);
    fields.finish();
    let dkd = base == Some(BaseLoss::Dkd);
    let nkd = base == Some(BaseLoss::Nkd);
    DistillationSpec {
        method,
        scales,
        scale_weights,
        weights,
        grouping: base.map(|_| grouping.unwrap_or(Grouping::Label)),
        temperature: base.map(|_| temperature.unwrap_or(4.0)),
        alpha: dkd.then(|| alpha.unwrap_or(1.0)),
        beta: dkd.then(|| beta.unwrap_or(8.0)),
        gamma: nkd.then(|| gamma.unwrap_or(8.0)),
        warmup_epochs: base.map(|base| warmup_epochs.unwrap_or(if base == BaseLoss::Kd { 0 } else { 20 })),
        exclude_target: nkd.then(|| exclude_target.unwrap_or(false)),
    }
}

/// A field that the method does not use is a mistake, not a preference.
fn refuse_unused(fields: &Fields<'_>, method: Method) {
    let base = method.base();
    let used_by = [
        ("scales", base.is_some(), "distillation methods"),
        ("scale_weights", base.is_some(), "distillation methods"),
        ("grouping", base.is_some(), "distillation methods"),
        ("temperature", base.is_some(), "distillation methods"),
        ("warmup_epochs", base.is_some(), "distillation methods"),
        ("alpha", base == Some(BaseLoss::Dkd), "dkd and sdd_dkd"),
        ("beta", base == Some(BaseLoss::Dkd), "dkd and sdd_dkd"),
        ("gamma", base == Some(BaseLoss::Nkd), "nkd and sdd_nkd"),
        ("exclude_target", base == Some(BaseLoss::Nkd), "nkd and sdd_nkd"),
    ];
    for (field, used, by) in used_by {
        if !used && fields.has(field) {
            fields.fault(field, format!("is used by {by} only, not by method {:?}", method.name()));
        }
    }
}

fn scales(fields: &mut Fields<'_>, method: Method) -> Vec<u32> {
    let published = || match method.base() {
        None => vec![],
        Some(_) if method.is_scale_decoupled() => vec![1, 2, 4],
        Some(_) => vec![1],
    };
    let scale = |value: &Value| integer_in(value, &(1..=FINEST_SCALE)).map(to::<u32>);
    if !fields.has("scales") {
        fields.value("scales");
        return published();
    }
    let Some(scales) = fields.list("scales", 16, scale) else { return published() };
    if scales.is_empty() {
        fields.fault("scales", "must name at least one scale, such as [1, 2, 4]");
    }
    for (index, pair) in scales.windows(2).enumerate() {
        if pair[1] <= pair[0] {
            let detail = format!("scales must ascend: {} follows {}", pair[1], pair[0]);
            fields.fault(&format!("scales/{}", index + 1), detail);
        }
    }
    if method.base().is_some() && !method.is_scale_decoupled() && scales != [1] {
        let name = method.name();
        fields.fault("scales", format!("method {name:?} has scale 1 only; use \"sdd_{name}\" for more"));
    }
    scales
}

fn scale_weights(fields: &mut Fields<'_>, method: Method, scales: usize) -> Vec<f64> {
    let given = fields.list("scale_weights", 16, |value| number_in(value, &(0.0..=1e6)));
    if let Some(given) = &given
        && method.base().is_some()
        && given.len() != scales
    {
        let detail = format!("has {} entries for {scales} scales: give one per scale", given.len());
        fields.fault("scale_weights", detail);
    }
    given.unwrap_or_else(|| vec![1.0; scales])
}

fn weights(mut fields: Fields<'_>, method: Method) -> Weights {
    let (cross_entropy, distillation) = match method.base() {
        None => (1.0, 0.0),
        Some(BaseLoss::Kd) => (0.1, 0.9),
        Some(BaseLoss::Dkd | BaseLoss::Nkd) => (1.0, 1.0),
    };
    let weight = |fields: &mut Fields<'_>, field, published| fields.number(field, 0.0..=1e6).unwrap_or(published);
    let weights = Weights {
        cross_entropy: weight(&mut fields, "cross_entropy", cross_entropy),
        distillation: weight(&mut fields, "distillation", distillation),
        consistent: weight(&mut fields, "consistent", 1.0),
        complementary: weight(&mut fields, "complementary", 2.0),
    };
    if weights.cross_entropy == 0.0 && weights.distillation == 0.0 {
        fields.fault_here("cross_entropy and distillation are both 0: nothing would be learned");
    }
    fields.finish();
    weights
}

fn training(mut fields: Fields<'_>, student: &str, image_size: u32, method: Method) -> TrainingSpec {
    let epochs = to(fields.integer("epochs", 1..=100_000).unwrap_or(240));
    let batch_size = to(fields.integer("batch_size", 1..=65_536).unwrap_or(64));
    let devices = to(fields.integer("devices", 1..=MOST_DEVICES).unwrap_or(1));
    if devices > batch_size {
        let detail = format!(
            "{devices} devices cannot share batches of {batch_size} images: lower devices, or raise batch_size"
        );
        fields.fault("devices", detail);
    }
    let optimizer = optimizer(fields.object("optimizer"), student);
    let schedule = schedule(fields.object("schedule"), epochs);
    let augmentation = fields.choice("augmentation").unwrap_or_else(|| usual_augmentation(image_size));
    let teacher_cache = teacher_cache::read(&mut fields, method, augmentation);
    let clips = fields.has("clip_grad_norm");
    let clip_grad_norm = match fields.number("clip_grad_norm", 1e-6..=1e9) {
        None if !clips => Some(40.0),
        given => given,
    };
    let precision = fields.choice("precision").unwrap_or(Precision::Auto);
    // JSON numbers are exact up to 2^53 in every language that may read the specification back.
    let seed = to(fields.integer("seed", 0..=(1 << 53) - 1).unwrap_or(0));
    let every = |fields: &mut Fields<'_>, field| to(fields.integer(field, 1..=100_000).unwrap_or(1));
    let checkpoint_every_epochs = every(&mut fields, "checkpoint_every_epochs");
    let eval_every_epochs = every(&mut fields, "eval_every_epochs");
    fields.finish();
    TrainingSpec {
        epochs,
        batch_size,
        devices,
        optimizer,
        schedule,
        augmentation,
        teacher_cache,
        clip_grad_norm,
        precision,
        seed,
        checkpoint_every_epochs,
        eval_every_epochs,
    }
}

fn optimizer(mut fields: Fields<'_>, student: &str) -> OptimizerSpec {
    let kind = fields.string("type", 20).unwrap_or_else(|| "sgd".to_owned());
    let learning_rate = fields.number("learning_rate", 0.0..=1e3);
    let weight_decay = fields.number("weight_decay", 0.0..=1e3);
    let optimizer = match kind.as_str() {
        "adamw" => OptimizerSpec::Adamw {
            learning_rate: learning_rate.unwrap_or(1e-3),
            beta1: fields.number("beta1", 0.0..=0.999_999).unwrap_or(0.9),
            beta2: fields.number("beta2", 0.0..=0.999_999_9).unwrap_or(0.999),
            weight_decay: weight_decay.unwrap_or(0.01),
        },
        other => {
            if other != "sgd" {
                fields.fault("type", format!("unknown optimizer {other:?}; known: sgd, adamw"));
            }
            let momentum = fields.number("momentum", 0.0..=0.999_999).unwrap_or(0.9);
            let nesterov = fields.boolean("nesterov").unwrap_or(false);
            if nesterov && momentum == 0.0 {
                fields.fault("nesterov", "needs a momentum above 0");
            }
            OptimizerSpec::Sgd {
                learning_rate: learning_rate.unwrap_or_else(|| published_learning_rate(student)),
                momentum,
                weight_decay: weight_decay.unwrap_or(5e-4),
                nesterov,
            }
        }
    };
    fields.finish();
    optimizer
}

/// CIFAR's for small images; ImageNet's and CUB's for larger ones, of which a crop by 4 pixels would show the same.
fn usual_augmentation(image_size: u32) -> Augmentation {
    if image_size <= LARGEST_SMALL_IMAGE { Augmentation::CropFlip } else { Augmentation::ResizedCropFlip }
}

/// The published CIFAR-100 recipe: 0.01 for the light students, 0.05 for the others.
fn published_learning_rate(student: &str) -> f64 {
    if student.starts_with("shufflenet") || student.starts_with("mobilenet") { 0.01 } else { 0.05 }
}

fn schedule(mut fields: Fields<'_>, epochs: u32) -> ScheduleSpec {
    let kind = fields.string("type", 20).unwrap_or_else(|| "multistep".to_owned());
    let schedule = match kind.as_str() {
        "cosine" => {
            let warmup_epochs = to(fields.integer("warmup_epochs", 0..=100_000).unwrap_or(0));
            if warmup_epochs >= epochs && warmup_epochs > 0 {
                fields.fault("warmup_epochs", format!("must be less than the {epochs} epochs"));
            }
            ScheduleSpec::Cosine { warmup_epochs }
        }
        "constant" => ScheduleSpec::Constant,
        other => {
            if other != "multistep" {
                fields.fault("type", format!("unknown schedule {other:?}; known: multistep, cosine, constant"));
            }
            let epoch = |value: &Value| integer_in(value, &(1..=100_000)).map(to::<u32>);
            let given = fields.list("milestones", 100, epoch);
            for (index, pair) in given.iter().flat_map(|list| list.windows(2)).enumerate() {
                if pair[1] <= pair[0] {
                    let detail = format!("milestones must ascend: {} follows {}", pair[1], pair[0]);
                    fields.fault(&format!("milestones/{}", index + 1), detail);
                }
            }
            let milestones = given.unwrap_or_else(|| published_milestones(epochs));
            let gamma = fields.number("gamma", 0.0..=10.0).unwrap_or(0.1);
            ScheduleSpec::Multistep { milestones, gamma }
        }
    };
    fields.finish();
    schedule
}

/// 62.5, 75 and 87.5 % of the epochs: 150, 180, 210 of 240.
fn published_milestones(epochs: u32) -> Vec<u32> {
    let mut milestones: Vec<u32> =
        [5, 6, 7].iter().map(|eighths| (epochs * eighths + 4) / 8).filter(|&epoch| epoch > 0).collect();
    milestones.dedup();
    milestones
}
