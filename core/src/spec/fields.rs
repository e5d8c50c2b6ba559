//! The table of a job's fields: what each may hold, what it is by default, which methods use it, and what it means.
//!
//! Everything else follows from this table: the [parser](super::reader), the [OpenAPI schemas](super::schema), and
//! through those the dashboard's form. A new field is a row here, a member of [`JobSpec`](super::JobSpec), and a line
//! in `request.rs`.

mod training;

use super::BaseLoss;
use super::field::Document::{Job, TrainingFile};
use super::field::Kind::{
    Architecture, Boolean, Channels, CheckpointId, Choice, Integer, Integers, Name, Number, Numbers, Path, Text,
};
use super::field::{Field, Kind, Literal, Object, UsedBy};
use crate::dataset::{LONGEST_NAME, MeanStd};
use training::TRAINING;

/// JSON numbers are exact up to 2^53 in every language that may read a specification back.
const LARGEST_EXACT: i64 = (1 << 53) - 1;
pub(super) const LONGEST_JOB_NAME: usize = 200;
const LARGEST_WEIGHT: f64 = 1e6;
const MOST_EPOCHS: i64 = 100_000;
const MOST_SCALES: usize = 16;
const FINEST_SCALE: i64 = 16;

const fn field(name: &'static str, kind: Kind, description: &'static str) -> Field {
    Field::new(name, kind, description)
}

pub(super) const JOB: Object = Object {
    name: "JobSpec",
    description: "What to train, on what, and how.",
    fields: &[
        field(
            "name",
            Text { longest: LONGEST_JOB_NAME },
            "A name for people, which need not be unique; by default made of the networks and the method.",
        )
        .follows(),
        field(
            "teacher",
            Kind::Object(&TEACHER),
            "The network to learn from; left out exactly when the method is `none`.",
        )
        .used_by(UsedBy::Distillation),
        field("student", Kind::Object(&STUDENT), "The network to train.").required("is required"),
        field("dataset", Kind::Object(&DATASET), "The images to train and evaluate on.").required("is required"),
        field("distillation", Kind::Object(&DISTILLATION), "The distillation loss.").default(Literal::Empty),
        field("training", Kind::Object(&TRAINING), "The training recipe.").default(Literal::Empty),
        field("priority", Integer(-1000..=1000), "Jobs with a higher priority run first.").default(Literal::Integer(0)),
        field(
            "max_attempts",
            Integer(1..=100),
            "How many attempts may fail before a temporary failure becomes final. An attempt that saved a checkpoint \
             after more steps than any before, or whose worker's machine was at fault, does not count, up to 100 \
             times.",
        )
        .default(Literal::Integer(3)),
        field("labels", Kind::Labels, "Names with values to filter jobs by.").default(Literal::Empty),
    ],
};

const TEACHER: Object = Object {
    name: "TeacherSpec",
    description: "The network to learn from, given by exactly one of `checkpoint` and `job`.",
    fields: &[
        field(
            "architecture",
            Architecture,
            "A name of `GET /v1/architectures`; left out, it is that of the job's student, or the only one that the \
             checkpoint fits. An exported network has none.",
        )
        .title("Teacher’s architecture"),
        field("checkpoint", CheckpointId, "Id of an uploaded checkpoint or exported network.").only_in(Job),
        field("checkpoint", Path, "File with the teacher's weights, or an exported network.").only_in(TrainingFile),
        field("network", Path, "File with the exported network whose weights `checkpoint` has.").only_in(TrainingFile),
        field("job", Text { longest: 100 }, "Id of a job whose student becomes this teacher.").only_in(Job),
        field("job", Kind::Refused("only a server knows jobs: give a checkpoint file"), "").only_in(TrainingFile),
        field(
            "mean",
            MEAN,
            "Per-channel mean that the teacher was trained with; by default the one that its file names, else the \
             student's.",
        )
        .title("Teacher’s mean"),
        field(
            "std",
            STD,
            "Per-channel standard deviation that the teacher was trained with; by default as for `mean`.",
        )
        .title("Teacher’s std"),
        field(
            "min_top1",
            Number(0.0..=100.0),
            "Top-1 accuracy in percent on the evaluation images that the teacher must have: below it, the job ends \
             before it trains.",
        )
        .title("Teacher’s least top-1 accuracy")
        .rare(),
    ],
};

const STUDENT: Object = Object {
    name: "StudentSpec",
    description: "The network to train.",
    fields: &[
        field(
            "architecture",
            Architecture,
            "A name of `GET /v1/architectures`; left out, `checkpoint` is an exported network, or fits one architecture \
             only.",
        ),
        field(
            "checkpoint",
            CheckpointId,
            "Id of an uploaded checkpoint to start from instead of random weights, or of the exported network to train.",
        )
        .only_in(Job)
        .title("Student’s first weights"),
        field(
            "new_head",
            Boolean,
            "Gives the student a new classifier of random weights in the place of the checkpoint's, which then may have \
             other classes; not by default.",
        )
        .title("New classifier"),
        field("checkpoint", Path, "File with weights to start from instead of random ones, or an exported network.")
            .only_in(TrainingFile),
        field("network", Path, "File with the exported network whose weights `checkpoint` has.").only_in(TrainingFile),
    ],
};

const MEAN: Kind = Channels(MeanStd::MEANS);
const STD: Kind = Channels(MeanStd::DEVIATIONS);

const DATASET: Object = Object {
    name: "DatasetSpec",
    description: "The images to train and evaluate on.",
    fields: &[
        field("name", Name { longest: LONGEST_NAME }, "A name of `GET /v1/datasets`.")
            .required("is required: a name of GET /v1/datasets")
            .only_in(Job),
        field("name", Name { longest: LONGEST_NAME }, "A name for the manifest.").only_in(TrainingFile),
        field("path", Path, "The directory of the data set.")
            .required("is required: the directory of the data set")
            .only_in(TrainingFile),
        field(
            "limit",
            Integer(1..=1_000_000_000_000),
            "Number of images to train on, spread over the classes as the training split has them and the same for \
             every seed; all by default.",
        ),
        field(
            "limit_per_class",
            Integer(1..=1_000_000_000),
            "Number of images of each class to train on, spread over them and the same for every seed; all by default. \
             Not together with `limit`.",
        )
        .rare(),
        field("train_split", Name { longest: LONGEST_NAME }, "Split to train on; `train` by default.").rare(),
        field(
            "eval_split",
            Name { longest: LONGEST_NAME },
            "Split to evaluate on; by default the first of `test`, `val` and `validation` that exists.",
        )
        .rare(),
        field(
            "eval_fraction",
            Number(0.001..=0.9),
            "Fraction of each class of the training split that is held out to evaluate on, instead of a split: the \
             same images for every seed.",
        )
        .rare(),
        field(
            "folds",
            Integer(2..=100),
            "Number of equal parts of the training split for cross-validation, each with all classes; needs `fold`.",
        )
        .rare(),
        field(
            "fold",
            Integer(1..=100),
            "Which of the `folds` to evaluate on, from 1; the student is trained on the others.",
        )
        .rare(),
        field(
            "split_seed",
            Integer(0..=LARGEST_EXACT),
            "Draws the images of `eval_fraction` or of the folds at random; by default they are taken from all over the \
             split. Not the seed of training, so that students of several seeds are evaluated on the same images.",
        )
        .rare(),
        field(
            "unlabelled_split",
            Name { longest: LONGEST_NAME },
            "Split whose images are trained on as well, without labels: the student learns them from the teacher alone.",
        )
        .used_by(UsedBy::Distillation)
        .rare(),
        field("image_column", Text { longest: 200 }, "Parquet column with the images, where the schema does not tell.")
            .rare(),
        field(
            "label_column",
            Text { longest: 200 },
            "Column with the labels, where a parquet file or a metadata.csv does not tell.",
        )
        .rare(),
        field(
            "image_size",
            Integer(8..=1024),
            "Side in pixels to which images are resized, bilinearly with antialiasing as by Pillow; by default what \
             the student was designed for. Exported networks take no other than that for which they were exported.",
        )
        .follows()
        .rare(),
        field("mean", MEAN, "Per-channel mean of pixel values in [0, 1]; by default the training split's.").rare(),
        field("std", STD, "Per-channel standard deviation of pixel values in [0, 1]; by default the training split's.")
            .rare(),
        field(
            "eval_crop",
            Choice("EvalCrop"),
            "Part of each evaluation image: by default `centre` with the augmentation `resized_crop_flip` or with \
             `eval_resize`, else `whole`.",
        )
        .rare(),
        field(
            "eval_resize",
            Integer(8..=4096),
            "Pixels to which the shorter side of evaluation images is resized before the central `image_size` pixels \
             are taken; by default 8/7 of `image_size` (256 for 224).",
        )
        .rare(),
    ],
};

const DISTILLATION: Object = Object {
    name: "DistillationSpec",
    description: "The distillation loss. A job has only the fields that its method uses.",
    fields: &[
        field("method", Choice("Method"), "How the student learns from the teacher.").default(Literal::Text("sdd_kd")),
        field(
            "scales",
            Integers { longest: MOST_SCALES, each: 1..=FINEST_SCALE },
            "Scale m splits the final feature map into m×m regions; ascending. Only `sdd_` methods have a choice. The default \
             leaves out scales that are finer than the map of an exported network.",
        )
        .default_of(|method| Literal::Integers(if method.is_scale_decoupled() { &[1, 2, 4] } else { &[1] }))
        .used_by(UsedBy::Distillation),
        field("temperature", Number(1e-3..=1e3), "Softmax temperature.")
            .default(Literal::Number(4.0))
            .used_by(UsedBy::Distillation),
        field(
            "warmup_epochs",
            Integer(0..=MOST_EPOCHS),
            "Epochs over which the weight of the distillation loss grows linearly from 0.",
        )
        .default_of(|method| Literal::Integer(if method.base() == Some(BaseLoss::Kd) { 0 } else { 20 }))
        .used_by(UsedBy::Distillation),
        field(
            "grouping",
            Choice("Grouping"),
            "When a region counts as consistent with the teacher's prediction for the whole image.",
        )
        .default(Literal::Text("label"))
        .used_by(UsedBy::Distillation),
        field(
            "scale_weights",
            Numbers { longest: MOST_SCALES, each: 0.0..=LARGEST_WEIGHT },
            "One factor per scale; 1 by default.",
        )
        .follows()
        .used_by(UsedBy::Distillation),
        field("alpha", WEIGHT, "Weight of the target-class part.").default(Literal::Number(1.0)).used_by(UsedBy::Dkd),
        field("beta", WEIGHT, "Weight of the non-target-class part.")
            .default(Literal::Number(8.0))
            .used_by(UsedBy::Dkd),
        field("gamma", WEIGHT, "Weight of the normalised part.").default(Literal::Number(8.0)).used_by(UsedBy::Nkd),
        field(
            "exclude_target",
            Boolean,
            "Leave the target class out of the normalised part, as in the paper's formula.",
        )
        .default(Literal::Boolean(false))
        .used_by(UsedBy::Nkd),
        field("weights", Kind::Object(&WEIGHTS), "Weights of the parts of the loss.").default(Literal::Empty),
    ],
};

const WEIGHT: Kind = Number(0.0..=LARGEST_WEIGHT);

const WEIGHTS: Object = Object {
    name: "Weights",
    description: "Weights of the parts of the loss.",
    fields: &[
        field("cross_entropy", WEIGHT, "Weight of the cross entropy with the labels.")
            .default_of(|method| Literal::Number(if method.base() == Some(BaseLoss::Kd) { 0.1 } else { 1.0 })),
        field("distillation", WEIGHT, "Weight of the distillation loss.")
            .default_of(|method| {
                Literal::Number(match method.base() {
                    None => 0.0,
                    Some(BaseLoss::Kd) => 0.9,
                    Some(BaseLoss::Dkd | BaseLoss::Nkd) => 1.0,
                })
            })
            .used_by(UsedBy::Distillation)
            .ignored_elsewhere(),
        field("consistent", WEIGHT, "Weight of regions that agree with the teacher's prediction for the whole image.")
            .default(Literal::Number(1.0))
            .used_by(UsedBy::Distillation)
            .ignored_elsewhere(),
        field("complementary", WEIGHT, "Weight of the other regions.")
            .default(Literal::Number(2.0))
            .used_by(UsedBy::Distillation)
            .ignored_elsewhere(),
    ],
};
