//! The training recipe of a document as far as it can be read.

use super::defaults::{published_learning_rate, published_milestones, usual_augmentation};
use super::reader::ObjectReader;
use super::requested::{Defaults, StudentRequest};
use super::training::{RAND_AUGMENT_MAGNITUDE, RAND_AUGMENT_OPS};
use super::{
    AutoAugment, ClassWeights, Interpolation, LabelLoss, OptimizerSpec, Recipe, Sampling, ScheduleSpec, TeacherCache,
    TrainingSpec, Variation,
};
use crate::text::counted;

pub(super) fn training(
    reader: ObjectReader<'_>,
    student: &StudentRequest,
    image_size: u32,
    defaults: &mut Defaults,
) -> TrainingSpec {
    let recipe: Option<Recipe> = reader.optional("recipe");
    let is_changed = recipe.is_some_and(|recipe| recipe.values().keys().any(|name| reader.is_given(name)));
    defaults.noted.extend(recipe.map(|recipe| recipe.note(is_changed)));
    let reader = match recipe {
        Some(recipe) => reader.with_recipe(recipe),
        None => reader,
    };
    let epochs = reader.get("epochs");
    let augmentation = reader.optional("augmentation").unwrap_or_else(|| usual_augmentation(image_size));
    let is_clipped = reader.is_given("clip_grad_norm") || !reader.has("clip_grad_norm");
    let auto_augment = reader.optional("auto_augment");
    let (rand_augment_ops, rand_augment_magnitude) = rand_augment(&reader, auto_augment);
    // The neutral value, zero or one, switches something off, as leaving it out does.
    let above = |name: &str, nothing: f64| reader.optional(name).filter(|&value: &f64| value > nothing);
    let label_smoothing = above("label_smoothing", 0.0);
    let label_loss = reader.optional("label_loss").filter(|&loss| loss != LabelLoss::CrossEntropy);
    let mut training = TrainingSpec {
        epochs,
        batch_size: reader.get("batch_size"),
        devices: reader.get("devices"),
        optimizer: optimizer(&reader, student, defaults),
        schedule: schedule(&reader, epochs),
        augmentation,
        teacher_cache: None,
        clip_grad_norm: is_clipped.then(|| reader.get("clip_grad_norm")),
        precision: reader.get("precision"),
        seed: reader.get("seed"),
        checkpoint_every_epochs: reader.get("checkpoint_every_epochs"),
        eval_every_epochs: reader.get("eval_every_epochs"),
        label_smoothing,
        label_loss,
        label_threshold: label_threshold(&reader, label_loss, label_smoothing.is_some()),
        mixup_alpha: above("mixup_alpha", 0.0),
        cutmix_alpha: above("cutmix_alpha", 0.0),
        auto_augment,
        rand_augment_ops,
        rand_augment_magnitude,
        auto_augment_interpolation: interpolation(&reader, auto_augment),
        random_erasing: above("random_erasing", 0.0),
        ema_decay: above("ema_decay", 0.0),
        gradient_accumulation: reader.optional("gradient_accumulation").filter(|&parts: &u32| parts > 1),
        body_learning_rate_scale: reader.optional("body_learning_rate_scale").filter(|&scale: &f64| scale < 1.0),
        decay_biases_and_norms: None,
        early_stopping_patience: reader.optional("early_stopping_patience"),
        class_weights: class_weights(&reader),
        sampling: reader.optional("sampling").filter(|&sampling| sampling != Sampling::Stored),
    };
    training.decay_biases_and_norms = decay_biases_and_norms(&reader, &training.optimizer);
    training.teacher_cache = teacher_cache(&reader, training.variation());
    check_shares(&reader, &training);
    check_class_weights(&reader, &training);
    reader.finish();
    training
}

fn check_class_weights(reader: &ObjectReader<'_>, training: &TrainingSpec) {
    if training.class_weights.is_some() && training.label_loss.is_some() {
        let remedy = reader.without("label_loss", "\"cross_entropy\"");
        reader.fault("class_weights", format!("apply to the cross entropy only: {remedy}, or leave this out"));
    }
}

/// Checks that every device gets an image of each part of a batch.
fn check_shares(reader: &ObjectReader<'_>, training: &TrainingSpec) {
    let &TrainingSpec { batch_size, devices, .. } = training;
    let images = format!("{}{}", counted(batch_size, "image", "images"), reader.origin("batch_size"));
    if reader.has_fault(&["recipe", "batch_size", "devices", "gradient_accumulation"]) {
        return;
    }
    if devices > batch_size {
        let devices = counted(devices, "device", "devices");
        reader.fault(
            "devices",
            format!("{devices} cannot share batches of {images}: lower devices, or raise batch_size"),
        );
    } else if training.parts() > batch_size / devices.max(1) {
        let (parts, devices) = (training.parts(), counted(devices, "device", "devices"));
        let detail = format!(
            "a batch of {images} on {devices} cannot be computed in {parts} parts: lower gradient_accumulation, or raise \
             batch_size"
        );
        reader.fault("gradient_accumulation", detail);
    }
}

/// Checks that at least one weight is above 0.
fn class_weights(reader: &ObjectReader<'_>) -> Option<ClassWeights> {
    let weights: Option<ClassWeights> = reader.optional("class_weights");
    if let Some(ClassWeights::Given(given)) = &weights
        && given.iter().all(|&weight| weight == 0.0)
    {
        reader.fault("class_weights", "are all 0: the student would learn nothing from the labels");
    }
    weights
}

/// The threshold of the binary cross entropy. A recipe's gives way to what the document has.
fn label_threshold(reader: &ObjectReader<'_>, label_loss: Option<LabelLoss>, is_smoothed: bool) -> Option<f64> {
    let threshold: Option<f64> = reader.optional("label_threshold");
    let objection = match label_loss {
        Some(LabelLoss::BinaryCrossEntropy) if is_smoothed => format!(
            "makes each label 0 or 1, so label_smoothing would have no effect: {}, or leave this out",
            reader.without("label_smoothing", "0")
        ),
        Some(LabelLoss::BinaryCrossEntropy) => return threshold,
        _ => "is used with label_loss \"binary_cross_entropy\" only: set it, or leave this out".to_owned(),
    };
    let is_known = !reader.has_fault(&["recipe", "label_loss", "label_smoothing"]);
    if threshold.is_some() && is_known && !reader.is_preset("label_threshold") {
        reader.fault("label_threshold", objection);
    }
    None
}

/// `Some(false)` if only matrices and kernels have weight decay; nothing with LAMB, where that is always so.
fn decay_biases_and_norms(reader: &ObjectReader<'_>, optimizer: &OptimizerSpec) -> Option<bool> {
    let given: Option<bool> = reader.optional("decay_biases_and_norms");
    if !matches!(optimizer, OptimizerSpec::Lamb { .. }) {
        return given.filter(|is_decayed| !is_decayed);
    }
    if given == Some(true) {
        let origin = if reader.is_preset("optimizer") { reader.origin("optimizer") } else { String::new() };
        let detail = format!("cannot be true with lamb, which never decays them{origin}: leave this out");
        reader.fault("decay_biases_and_norms", detail);
    }
    None
}

/// The number of RandAugment's operations and their magnitude, which no other policy has.
fn rand_augment(reader: &ObjectReader<'_>, auto_augment: Option<AutoAugment>) -> (Option<u32>, Option<u32>) {
    let is_used = auto_augment == Some(AutoAugment::RandAugment);
    let is_known = !reader.has_fault(&["recipe", "auto_augment"]);
    let of = |name: &str, usual: u32| {
        let given: Option<u32> = reader.optional(name);
        if given.is_some() && !is_used && is_known && !reader.is_preset(name) {
            reader.fault(name, "is used with auto_augment \"rand_augment\" only: set it, or leave this out");
        }
        is_used.then_some(given.unwrap_or(usual))
    };
    (of("rand_augment_ops", RAND_AUGMENT_OPS), of("rand_augment_magnitude", RAND_AUGMENT_MAGNITUDE))
}

/// The interpolation of the operations, if it is not the default.
fn interpolation(reader: &ObjectReader<'_>, auto_augment: Option<AutoAugment>) -> Option<Interpolation> {
    let name = "auto_augment_interpolation";
    let given: Option<Interpolation> = reader.optional(name);
    let is_known = !reader.has_fault(&["recipe", "auto_augment"]);
    if given.is_some() && auto_augment.is_none() && is_known && !reader.is_preset(name) {
        reader.fault(name, "is used with auto_augment only: set it, or leave this out");
    }
    given.filter(|&given| given != Interpolation::Nearest && auto_augment.is_some())
}

fn teacher_cache(training: &ObjectReader<'_>, variation: Variation) -> Option<TeacherCache> {
    let given: Option<TeacherCache> = training.optional("teacher_cache");
    training.method.base()?;
    let varied_by = ["recipe", "augmentation", "auto_augment", "random_erasing", "mixup_alpha", "cutmix_alpha"];
    let is_known = !training.has_fault(&varied_by);
    if let Some(objection) = given.filter(|_| is_known).and_then(|given| given.objection(variation)) {
        training.fault("teacher_cache", format!("{objection}{}", preset_variation(training, &varied_by)));
    }
    Some(given.unwrap_or_else(|| TeacherCache::usual(variation)))
}

/// Which of the fields that images vary by are a recipe's, for a message: they stay until others take their place.
fn preset_variation(training: &ObjectReader<'_>, fields: &[&str]) -> String {
    let preset: Vec<&str> = fields.iter().copied().filter(|name| training.is_preset(name)).collect();
    let Some(first) = preset.first() else { return String::new() };
    let named: Vec<String> = preset.iter().map(|name| format!("training.{name}")).collect();
    let (named, origin) = (named.join(", "), training.origin(first));
    format!(". The images vary by {named}{origin}: give other values in their place (0 for none)")
}

fn optimizer(training: &ObjectReader<'_>, student: &StudentRequest, defaults: &mut Defaults) -> OptimizerSpec {
    let (kind, reader) = training.variant("optimizer");
    let weight_decay = reader.get("weight_decay");
    let optimizer = if kind == "adamw" || kind == "lamb" {
        let (learning_rate, beta1, beta2) = (reader.get("learning_rate"), reader.get("beta1"), reader.get("beta2"));
        if kind == "lamb" {
            OptimizerSpec::Lamb { learning_rate, beta1, beta2, weight_decay }
        } else {
            OptimizerSpec::Adamw { learning_rate, beta1, beta2, weight_decay }
        }
    } else {
        let (momentum, nesterov) = (reader.get("momentum"), reader.get("nesterov"));
        if nesterov && momentum == 0.0 && !reader.has_fault(&["momentum"]) {
            reader.fault("nesterov", "needs a momentum above 0");
        }
        let given = reader.optional("learning_rate");
        let learning_rate = given.unwrap_or_else(|| published_learning_rate(student));
        if let (None, Some(exported)) = (given, &student.exported) {
            defaults.noted.push(format!(
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
            let are_known = !training.has_fault(&["recipe", "epochs"]);
            if warmup_epochs >= epochs && warmup_epochs > 0 && are_known {
                let (own, other) = (reader.origin("warmup_epochs"), training.origin("epochs"));
                let detail = format!(
                    "is {warmup_epochs}{own}, and must be less than training.epochs, {epochs}{other}: set \
                     training.schedule.warmup_epochs lower, or training.epochs higher"
                );
                reader.fault("warmup_epochs", detail);
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
