//! The parts of a document as far as they could be read.

use std::path::PathBuf;

use super::{DescribedNetwork, StudentHead};
use crate::architecture::Architecture;

/// Notes on defaults, as sentences without a full stop.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// Those that may not be as meant, and what else a job's history warns of.
    pub doubtful: Vec<String>,
    /// On defaults that follow from exported networks, for which nothing is published, and on what a recipe sets. A
    /// job's history has them, too.
    pub noted: Vec<String>,
    /// On defaults that are published for such a pair of networks or such settings, but not for all. Only dry runs have
    /// them.
    pub published: Vec<String>,
}

/// The teacher as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct TeacherRequest {
    /// `None` if it is faulty, if only the checkpoint or the job tells it, or if it is an exported network.
    pub architecture: Option<&'static Architecture>,
    /// `None` unless it is known to be an exported network.
    pub exported: Option<DescribedNetwork>,
    pub checkpoint: Option<String>,
    /// The file of an exported network whose weights the checkpoint has.
    pub network: Option<PathBuf>,
    pub job: Option<String>,
    pub mean: Option<[f64; 3]>,
    pub std: Option<[f64; 3]>,
    pub classes: Option<Vec<String>>,
    pub min_top1: Option<f64>,
}

/// The student as far as it could be read.
#[derive(Debug, Clone)]
pub struct StudentRequest {
    /// As in [`TeacherRequest`].
    pub architecture: Option<&'static Architecture>,
    /// As in [`TeacherRequest`].
    pub exported: Option<DescribedNetwork>,
    pub checkpoint: Option<String>,
    /// As in [`TeacherRequest`].
    pub network: Option<PathBuf>,
    pub head: Option<StudentHead>,
}

/// Where the data set is, as far as it could be read.
#[derive(Debug, Clone)]
pub struct DatasetLocation {
    pub name: Option<String>,
    pub path: Option<PathBuf>,
}
