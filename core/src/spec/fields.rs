//! The table of a job's fields: what each may hold, what it is by default, which methods use it, and what it means.
//!
//! Everything else follows from this table: the [parser](super::reader), the [OpenAPI schemas](super::schema), and
//! through those the dashboard's form. A new field is a row here, a member of [`JobSpec`](super::JobSpec), and a line
//! where its object is read: in `request.rs`, `images.rs`, `distillation.rs` or `recipe.rs`.

mod training;

use super::field::Document::{Job, TrainingFile};
use super::field::Kind::{Architecture, Channels, CheckpointId, Choice, Integer, Name, Number, Path, Text};
use super::field::{Kind, LARGEST_EXACT, Literal, Object, UsedBy, field};
use super::loss_fields::DISTILLATION;
use crate::dataset::{LONGEST_NAME, MeanStd};
use training::TRAINING;

pub(super) const LONGEST_JOB_NAME: usize = 200;
/// Most classes that a list has an entry for: twice as many as ImageNet-21k has.
pub(super) const MOST_CLASSES: usize = 50_000;
const LONGEST_CLASS: usize = 500;

/// From the last to the first in the queue.
pub(super) const PRIORITY: Kind = Integer(-1000..=1000);

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
        field("priority", PRIORITY, "Jobs with a higher priority run first.").default(Literal::Integer(0)),
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
            "classes",
            Kind::Names { longest: MOST_CLASSES, each: LONGEST_CLASS },
            "Names of the data set's classes, or their numbers if they have no names, in the order of the teacher's \
             outputs; by default those that its file names, else the data set's order.",
        )
        .title("Teacher’s classes")
        .rare(),
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
        field("checkpoint", Path, "File with weights to start from instead of random ones, or an exported network.")
            .only_in(TrainingFile),
        field("network", Path, "File with the exported network whose weights `checkpoint` has.").only_in(TrainingFile),
        field(
            "head",
            Choice("StudentHead"),
            "What becomes of the checkpoint's classifier: it is kept by default, and `new` replaces it by a random one for \
             the classes of the data set, which may be others.",
        )
        .title("Student’s classifier")
        .rare(),
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
            Integer(0..=1_000_000_000_000),
            "Number of images to train on, spread over the classes as the training split has them and the same for \
             every seed; all by default. 0 only with `unlabelled_split`, to train on nothing else.",
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
