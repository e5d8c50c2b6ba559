//! The checkpoint to resume from: one file, so that it is never torn.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::Tensor;

use crate::error::{Error, Result};
use crate::loss::region_report;
use crate::models::state_dict::{self, StateDict};
use distillery::checkpoint::{Checkpoint, Dtype};
use distillery::protocol::Evaluation;
use distillery::spec::{JobSpec, TeacherCache};

/// Counters and results so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// [`identity`] of the specification that this is a state of.
    pub specification: String,
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the epoch in progress. What they saw follows from the seed, so that nothing else is needed.
    pub step_in_epoch: u64,
    /// Steps done altogether.
    pub step: u64,
    /// The best evaluation so far and the epoch that it came after.
    pub best: Option<(Evaluation, u32)>,
    /// The teacher's evaluation, which need not be done again.
    pub teacher: Option<Evaluation>,
    /// What the teacher sees in the regions of the evaluation split; absent for methods without regions.
    pub regions: Option<region_report::Report>,
    /// The latest evaluation.
    pub last: Option<Evaluation>,
    /// The attempts so far that left a state, this one included.
    pub attempts: Vec<Attempt>,
}

impl Counters {
    /// Those of a run that has not begun. `specification` is its [`identity`].
    #[must_use]
    pub fn new(specification: String) -> Self {
        Self {
            specification,
            epoch: 0,
            step_in_epoch: 0,
            step: 0,
            best: None,
            teacher: None,
            regions: None,
            last: None,
            attempts: Vec::new(),
        }
    }
}

/// One attempt at a run: what the bytes of its result depend on besides specification and data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// When.
    pub started_at: chrono::DateTime<chrono::Utc>,
    /// Steps that earlier attempts had done.
    pub from_step: u64,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// `float32`, `tf32` or `bfloat16`.
    pub precision: String,
    /// Threads of the arithmetic on the CPU.
    pub threads: u32,
    /// Bytes of decoded images that were kept in memory: a split that is streamed is shuffled differently.
    pub data_memory: u64,
}

/// Everything that a run changes.
#[derive(Debug)]
pub struct State {
    /// Counters and results.
    pub counters: Counters,
    /// The student as it is.
    pub student: StateDict,
    /// The student after its best evaluation.
    pub best: Option<StateDict>,
    /// The optimiser's.
    pub optimizer: StateDict,
}

/// Where the counters are in the metadata.
const COUNTERS: &str = "distillery";

/// What decides the course of a run, in hexadecimal: the specification without its names, places and rank in the
/// queue (a worker puts files elsewhere each time); instead of those the SHA-256 of the checkpoints that were given,
/// and the images and classes of the data.
#[must_use]
pub fn identity(spec: &JobSpec, teacher: Option<&str>, student: Option<&str>, data: (u64, u64, u32)) -> String {
    let mut spec = spec.clone();
    (spec.name, spec.priority, spec.max_attempts) = (String::new(), 0, 0);
    spec.labels.clear();
    (spec.dataset.path, spec.dataset.name) = (None, None);
    // Keeping what does not change is no other course.
    spec.training.teacher_cache = spec.training.teacher_cache.filter(|cache| matches!(cache, TeacherCache::Views(_)));
    spec.student.checkpoint = student.map(str::to_owned);
    if let Some(of_teacher) = &mut spec.teacher {
        (of_teacher.checkpoint, of_teacher.job) = (teacher.map(str::to_owned), None);
    }
    let text = serde_json::to_string(&(spec, data)).expect("a specification is JSON");
    // States from before there was a choice of devices are those of one. In a text this would have other quotes.
    let text = text.replacen(r#""devices":1,"#, "", 1);
    hex::encode(Sha256::digest(text))
}

/// Writes the state, in place of an earlier one.
///
/// # Errors
/// The file cannot be written.
pub fn save(path: &Path, state: &State) -> Result<()> {
    let parts =
        [("student", Some(&state.student)), ("best", state.best.as_ref()), ("optimizer", Some(&state.optimizer))];
    let mut tensors = Vec::new();
    for (part, dict) in parts {
        for (name, tensor) in dict.into_iter().flatten() {
            tensors.push((format!("{part}.{name}"), tensor.shallow_clone()));
        }
    }
    let counters = serde_json::to_string(&state.counters).expect("counters are JSON");
    state_dict::write(path, &tensors, &BTreeMap::from([(COUNTERS.to_owned(), counters)]))
}

/// The state that an earlier attempt left; none where there is none.
///
/// # Errors
/// It cannot be read, or belongs to another specification.
pub fn load(path: &Path, identity: &str) -> Result<Option<State>> {
    let checkpoint = match Checkpoint::open(path) {
        Ok(checkpoint) => checkpoint,
        Err(distillery::checkpoint::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(state_dict::unreadable(path, &error)),
    };
    let foreign = || {
        Error::user(format!(
            "{} is the state of another specification: choose another output directory, or remove it to start anew",
            path.display()
        ))
    };
    let counters = checkpoint.metadata().get(COUNTERS).ok_or_else(foreign)?;
    let counters: Counters = serde_json::from_str(counters).map_err(|_| foreign())?;
    if counters.specification != identity {
        return Err(foreign());
    }
    let mut parts: BTreeMap<String, StateDict> = BTreeMap::new();
    for stored in checkpoint.tensors() {
        let bytes = checkpoint.bytes(stored).map_err(|error| state_dict::unreadable(path, &error))?;
        let shape: Vec<i64> = stored.shape().iter().map(|&size| size as i64).collect();
        let kind = if stored.dtype() == Dtype::I64 { tch::Kind::Int64 } else { tch::Kind::Float };
        let tensor = Tensor::f_from_data_size(&bytes, &shape, kind)?;
        let (part, name) = stored.name().split_once('.').ok_or_else(foreign)?;
        parts.entry(part.to_owned()).or_default().push((name.to_owned(), tensor));
    }
    let mut take = |part: &str| parts.remove(part);
    Ok(Some(State {
        counters,
        student: take("student").ok_or_else(foreign)?,
        best: take("best"),
        optimizer: take("optimizer").unwrap_or_default(),
    }))
}
