//! Sweeps: sets of jobs that differ in a few settings.
//!
//! [`SweepSpec::read`] reads the body of `POST /v1/sweeps` and reports every fault. [`SweepSpec::combinations`] says
//! which values of its axes belong together, and [`SweepSpec::document`] makes the document of a job of one of them,
//! which is then read as any other job's. There is no I/O here.

mod combinations;
pub mod pointer;
mod read;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

pub use combinations::{Combination, halving_counts, kept};

/// Most combinations of one sweep.
pub const MOST_COMBINATIONS: u32 = 500;
/// Most jobs of one sweep.
pub const MOST_JOBS: u32 = 1000;
/// Most axes.
pub const MOST_AXES: usize = 16;
/// Most values of an axis.
pub const MOST_VALUES: usize = 100;
/// Most seeds.
pub const MOST_SEEDS: u32 = 32;
/// Most rungs.
pub const MOST_RUNGS: usize = 16;
/// Most webhooks.
pub const MOST_WEBHOOKS: usize = 10;
/// Longest name of a sweep, in characters: the names of its jobs say more.
pub const LONGEST_NAME: usize = 120;
/// Part of the combinations that continues after a rung, unless the sweep gives another.
pub const DEFAULT_KEEP: f64 = 1.0 / 3.0;

/// A sweep, as its document describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepSpec {
    pub name: String,
    /// The document that every job begins with.
    pub base: Value,
    pub axes: Vec<Axis>,
    /// Number of jobs of each combination, which differ in their seed.
    pub seeds: u32,
    pub strategy: Strategy,
    /// Most jobs that run at the same time.
    pub max_parallel: Option<u32>,
    /// Names of the webhooks that are told when it has ended.
    pub webhooks: Vec<String>,
}

/// A setting that is varied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Axis {
    /// JSON pointer into the job.
    #[schema(example = "/distillation/temperature")]
    pub pointer: String,
    /// Its values.
    pub values: Vec<Value>,
}

/// Which combinations of the axes are tried, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Strategy {
    /// Every combination, each to its end.
    Grid,
    /// Some combinations, each to its end, drawn without repetition.
    Random {
        /// Most jobs, over all seeds.
        jobs: u32,
        /// Decides which combinations are drawn.
        #[serde(default)]
        #[schema(default = 0)]
        seed: u64,
    },
    /// Every combination, the worse ones of which end early: successive halving.
    Halving {
        /// Epochs after which combinations are compared; the last is the end of training.
        rungs: Vec<u32>,
        /// Part of the combinations that continues after each rung, rounded up. Default: a third.
        #[serde(default = "default_keep")]
        keep: f64,
    },
}

fn default_keep() -> f64 {
    DEFAULT_KEEP
}

impl Strategy {
    /// The name in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Random { .. } => "random",
            Self::Halving { .. } => "halving",
        }
    }
}

/// The body of `POST /v1/sweeps`, for the API's description. [`SweepSpec::read`] reads it.
#[derive(Debug, ToSchema)]
pub struct SweepRequest {
    /// The sweep's name. Default: that of the base.
    #[schema(min_length = 1, max_length = 120)]
    pub name: Option<String>,
    /// The job that is varied: a document as for `POST /v1/jobs`. Its `name` is replaced in every job.
    pub base: Value,
    /// The values of each setting that is varied, by its JSON pointer into the job.
    #[schema(example = json!({"/distillation/temperature": [1, 2, 4, 8], "/distillation/scales": [[1], [1, 2]]}))]
    pub axes: BTreeMap<String, Vec<Value>>,
    /// Number of jobs of each combination. Their seeds count up from that of the base.
    #[schema(minimum = 1, maximum = 32, default = 1)]
    pub seeds: Option<u32>,
    /// Default: a grid.
    pub strategy: Option<Strategy>,
    /// Most jobs that run at the same time. Default: no limit.
    #[schema(minimum = 1, maximum = 1000)]
    pub max_parallel: Option<u32>,
    /// Webhooks of `GET /v1/webhooks` that are told when the sweep has ended. Default: none.
    #[schema(max_items = 10, example = json!(["team-chat"]))]
    pub webhooks: Option<Vec<String>>,
}
