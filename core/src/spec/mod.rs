//! The job specification: what a user asks for, with the published recipe as its defaults.
//!
//! One table (`fields`) says what each field may hold, what it is by default, and which methods use it. From it follow:
//!
//! - [`Request`], a document as far as it can be read, with every fault at once, each with its JSON pointer (RFC 6901);
//! - [`JobSpec`], a job as it is stored, of a request without faults;
//! - [`Amendment`], what a user changes about a job that is there;
//! - [`TrainingPlan`], what the trainer works by: the same with local files instead of names and ids;
//! - [`schemas`], the OpenAPI schemas, from which the dashboard makes its form.
//!
//! There is no I/O here: whether a data set or a checkpoint exists is for the caller to find out, and so are
//! [`FoundNetworks`] that a document leaves to its checkpoints.

mod amendment;
mod defaults;
mod distillation;
mod doubts;
mod field;
mod fields;
mod images;
mod loss_fields;
mod method;
mod network;
mod plan;
mod pointers;
mod presets;
mod reader;
mod recipe;
mod request;
mod requested;
mod resolved;
mod schema;
mod stored;
mod teacher_cache;
mod training;
mod values;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use amendment::{Amendment, LONGEST_NOTES, LabelChanges};
pub use doubts::{doubts, of_images};
pub use loss_fields::FINEST_SCALE;
pub use method::{BaseLoss, Method};
pub use network::{DescribedNetwork, FoundNetwork, FoundNetworks};
pub use plan::{DatasetDirectory, StudentPlan, TeacherPlan, TrainingPlan};
pub use pointers::{has_setting, setting_meant};
pub use presets::Recipe;
pub use request::Request;
pub use requested::{DatasetLocation, Defaults, StudentRequest, TeacherRequest};
pub use resolved::{
    DatasetName, DatasetSpec, DistillationSpec, EvalCrop, EvalPart, Grouping, JobSpec, StudentHead, StudentSpec,
    TeacherSource, TeacherSpec, Weights, usual_resize,
};
pub use schema::{JobSpecRequest, schemas};
pub use teacher_cache::{TeacherCache, Variation};
pub use training::{
    Augmentation, AutoAugment, ClassWeights, Interpolation, LabelLoss, OptimizerSpec, Policy, Precision, Sampling,
    ScheduleSpec, TrainingSpec,
};
pub use values::MOST_LABELS;

/// One fault of a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Where it is: a JSON pointer into the body that was sent (`/distillation/scales/1`).
    pub pointer: String,
    /// What is wrong and what to write instead.
    pub detail: String,
}
