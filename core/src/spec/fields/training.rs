//! The rows of `training`: the recipe.

use super::super::field::Kind::{Boolean, Choice, Integer, Integers, Number};
use super::super::field::{Kind, LARGEST_EXACT, Literal, MOST_EPOCHS, Object, UsedBy, field};
use super::super::loss_fields::LARGEST_WEIGHT;
use super::MOST_CLASSES;

const INTERVAL: Kind = Integer(1..=MOST_EPOCHS);

pub(super) const TRAINING: Object = Object {
    name: "TrainingSpec",
    description: "The training recipe.",
    fields: &[
        field(
            "recipe",
            Choice("Recipe"),
            "A published recipe whose values replace the defaults below; fields that are given win.",
        )
        .in_requests_only(),
        field("epochs", Integer(1..=MOST_EPOCHS), "Passes over the training split.").default(Literal::Integer(240)),
        field("batch_size", Integer(1..=65_536), "Images per optimisation step, on all devices together.")
            .default(Literal::Integer(64)),
        field(
            "seed",
            Integer(0..=LARGEST_EXACT),
            "Determines the initial weights, the order of the images and the augmentation.",
        )
        .default(Literal::Integer(0)),
        field(
            "augmentation",
            Choice("Augmentation"),
            "How training images are varied; by default `crop_flip` up to 64 pixels, else `resized_crop_flip`.",
        )
        .follows(),
        field(
            "devices",
            Integer(1..=64),
            "Devices of one worker that train together, each on its part of every batch.",
        )
        .default(Literal::Integer(1))
        .newer(),
        field(
            "teacher_cache",
            Kind::TeacherCache,
            "What is kept of the teacher's outputs: `off` (default), `exact` (default without augmentation) or \
             `views:<n>`.",
        )
        .follows()
        .used_by(UsedBy::Distillation),
        field(
            "label_smoothing",
            Number(0.0..=0.9),
            "Label smoothing: the part of each label that is spread over all classes; none by default.",
        )
        .rare(),
        field(
            "label_loss",
            Choice("LabelLoss"),
            "The loss between predictions and labels; the cross entropy by default.",
        )
        .rare(),
        field(
            "label_threshold",
            Number(0.0..=0.5),
            "Labels with a larger share of a mixed image count as a whole, and others not at all; by default labels count \
             by their shares. Only with `label_loss` `binary_cross_entropy`.",
        )
        .null_means("labels count by their shares")
        .rare(),
        field(
            "mixup_alpha",
            MIX,
            "Mixes the images of a batch in pairs, in proportions from a Beta distribution with this parameter; off by \
             default. Together with `cutmix_alpha`, each batch takes one of the two at random.",
        )
        .rare(),
        field(
            "cutmix_alpha",
            MIX,
            "Puts a box of one image of a batch into another; its size is from a Beta distribution with this \
             parameter. Off by default.",
        )
        .rare(),
        field(
            "auto_augment",
            Choice("AutoAugment"),
            "Operations that are drawn for each training image after crop and flip; none by default.",
        )
        .rare(),
        field(
            "rand_augment_ops",
            Integer(1..=14),
            "Operations per image; 2 by default. Only with `auto_augment` `rand_augment`.",
        )
        .rare(),
        field(
            "rand_augment_magnitude",
            Integer(0..=30),
            "Strength of each operation, from 0 to 30; 9 by default. Only with `auto_augment` `rand_augment`.",
        )
        .rare(),
        field(
            "auto_augment_interpolation",
            Choice("Interpolation"),
            "How operations that move pixels find their values; from the nearest pixel by default. Only with \
             `auto_augment`.",
        )
        .rare(),
        field(
            "random_erasing",
            Number(0.0..=1.0),
            "Part of the training images in which a rectangle is replaced by the mean colour; none by default.",
        )
        .rare(),
        field(
            "ema_decay",
            Number(0.0..=0.999_999_9),
            "Decay of an exponential moving average of the weights, which is evaluated and becomes the student; no \
             average by default.",
        )
        .title("EMA decay")
        .rare(),
        field(
            "early_stopping_patience",
            INTERVAL,
            "Ends training after this number of evaluations in a row without a better top-1 accuracy; it never ends \
             early by default.",
        )
        .rare(),
        field(
            "class_weights",
            Kind::ClassWeights { longest: MOST_CLASSES, each: 0.0..=LARGEST_WEIGHT },
            "Weight of each class in the cross entropy: `balanced`, or a number per class in the order of the labels; \
             equal weights by default.",
        )
        .rare(),
        field(
            "sampling",
            Choice("Sampling"),
            "How often an epoch shows the images of a class; each image once by default.",
        )
        .rare(),
        field(
            "gradient_accumulation",
            Integer(1..=4096),
            "Number of parts in which each batch is computed one after the other, to save memory; their gradients are \
             added. 1 by default.",
        )
        .rare(),
        field(
            "body_learning_rate_scale",
            Number(0.0..=1.0),
            "Factor on the learning rate of everything but the classifier; 1 by default, 0 trains the classifier only.",
        )
        .rare(),
        field(
            "decay_biases_and_norms",
            Boolean,
            "Whether weight decay applies to tensors of one dimension, too: biases and norms; it does by default, except \
             with `lamb`.",
        )
        .rare(),
        field("clip_grad_norm", Number(1e-6..=1e9), "Largest norm of the gradient over all parameters.")
            .default(Literal::Number(40.0))
            .null_means("no clipping")
            .rare(),
        field("precision", Choice("Precision"), "Arithmetic of the networks; losses and weights are always float32.")
            .default(Literal::Text("auto"))
            .rare(),
        field("checkpoint_every_epochs", INTERVAL, "Epochs between two checkpoints to resume from.")
            .default(Literal::Integer(1))
            .rare(),
        field("eval_every_epochs", INTERVAL, "Epochs between two evaluations.").default(Literal::Integer(1)).rare(),
        field("optimizer", Kind::Variants { name: "OptimizerSpec", variants: &[SGD, ADAMW, LAMB] }, "The optimiser.")
            .default(Literal::Empty)
            .title("Optimiser"),
        field(
            "schedule",
            Kind::Variants { name: "ScheduleSpec", variants: &[MULTISTEP, COSINE, CONSTANT] },
            "How the learning rate changes from epoch to epoch.",
        )
        .default(Literal::Empty)
        .title("Learning-rate schedule"),
    ],
};

const MIX: Kind = Number(0.0..=100.0);
const RATE: Kind = Number(0.0..=1e3);

const SGD: Object = Object {
    name: "sgd",
    description: "Stochastic gradient descent, in PyTorch's formulation.",
    fields: &[
        field(
            "learning_rate",
            RATE,
            "Initial learning rate; by default 0.05, or 0.01 for ShuffleNet, MobileNet and exported students.",
        )
        .follows(),
        field("momentum", Number(0.0..=0.999_999), "Momentum; 0 for none.").default(Literal::Number(0.9)),
        field("weight_decay", RATE, "L2 penalty added to the gradient.").default(Literal::Number(5e-4)),
        field("nesterov", Boolean, "Use Nesterov's momentum.").default(Literal::Boolean(false)),
    ],
};

const ADAMW: Object = Object {
    name: "adamw",
    description: "Adam with decoupled weight decay.",
    fields: &[
        field("learning_rate", RATE, "Initial learning rate.").default(Literal::Number(1e-3)),
        field("beta1", Number(0.0..=0.999_999), "Decay of the first moment.").default(Literal::Number(0.9)),
        field("beta2", Number(0.0..=0.999_999_9), "Decay of the second moment.").default(Literal::Number(0.999)),
        field("weight_decay", RATE, "Decoupled weight decay.").default(Literal::Number(0.01)),
    ],
};

const LAMB: Object = Object {
    name: "lamb",
    description: "Adam with a rate for each tensor, for large batches; biases and norms have no weight decay.",
    fields: &[
        field("learning_rate", RATE, "Initial learning rate.").default(Literal::Number(5e-3)),
        field("beta1", Number(0.0..=0.999_999), "Decay of the first moment.").default(Literal::Number(0.9)),
        field("beta2", Number(0.0..=0.999_999_9), "Decay of the second moment.").default(Literal::Number(0.999)),
        field("weight_decay", RATE, "Weight decay, added to the update; 0 turns off the rates of tensors, too.")
            .default(Literal::Number(0.02)),
    ],
};

const MULTISTEP: Object = Object {
    name: "multistep",
    description: "Multiplies the learning rate by `gamma` after each milestone.",
    fields: &[
        field(
            "milestones",
            Integers { longest: 100, each: 1..=MOST_EPOCHS },
            "Epochs after which the rate drops, ascending; by default 62.5, 75 and 87.5 % of the epochs.",
        )
        .follows(),
        field("gamma", Number(0.0..=10.0), "Factor at each milestone.").default(Literal::Number(0.1)),
    ],
};

const COSINE: Object = Object {
    name: "cosine",
    description: "Half a cosine down to 0, after a linear rise.",
    fields: &[
        field("warmup_epochs", Integer(0..=MOST_EPOCHS - 1), "Epochs of the linear rise.").default(Literal::Integer(0))
    ],
};

const CONSTANT: Object =
    Object { name: "constant", description: "The same learning rate in every epoch.", fields: &[] };
