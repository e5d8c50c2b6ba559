//! The training recipe of a document as far as it can be read.

use super::defaults::{published_learning_rate, published_milestones, usual_augmentation};
use super::reader::ObjectReader;
use super::request::Defaults;
use super::{Augmentation, OptimizerSpec, ScheduleSpec, StudentRequest, TeacherCache, TrainingSpec};
use crate::text::counted;

pub(super) fn training(
    reader: ObjectReader<'_>,
    student: &StudentRequest,
    image_size: u32,
    defaults: &mut Defaults,
) -> TrainingSpec {
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
        optimizer: optimizer(&reader, student, defaults),
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

fn optimizer(training: &ObjectReader<'_>, student: &StudentRequest, defaults: &mut Defaults) -> OptimizerSpec {
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
            defaults.of_exported.push(format!(
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
            reader.ascend("milestones", given.as_deref().unwrap_or_default());
            let milestones = given.unwrap_or_else(|| published_milestones(epochs));
            ScheduleSpec::Multistep { milestones, gamma: reader.get("gamma") }
        }
    };
    reader.finish();
    schedule
}
