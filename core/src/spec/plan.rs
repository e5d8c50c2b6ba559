//! What the trainer works by: a specification whose networks are known and whose files are local.
//!
//! A worker makes one of a [`JobSpec`](super::JobSpec) and the files that it fetched; `distillery train` reads one
//! from a file. Both pass through [`TrainingPlan::parse`], since the worker runs `train` too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::field::Document;
use super::request::{DatasetLocation, Request, StudentRequest, TeacherRequest, known};
use super::{DatasetSpec, DistillationSpec, Fault, StudentSpec, TeacherSpec, TrainingSpec};
use crate::architecture::{self, Architecture, UnknownArchitecture};

/// What to train. Its JSON is that of a [`JobSpec`](super::JobSpec) with paths instead of ids; manifests hold it.
/// Name, priority, attempts and labels are there for them: they do not change what is trained.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainingPlan {
    pub name: String,
    /// `None` exactly if the method is `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherPlan>,
    pub student: StudentPlan,
    pub dataset: DatasetSpec<DatasetDirectory>,
    pub distillation: DistillationSpec,
    pub training: TrainingSpec,
    pub priority: i32,
    pub max_attempts: u32,
    pub labels: BTreeMap<String, String>,
}

/// The network to learn from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TeacherPlan {
    pub architecture: &'static Architecture,
    pub checkpoint: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f64; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_top1: Option<f64>,
}

/// The network to train.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StudentPlan {
    pub architecture: &'static Architecture,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
}

/// A data set on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetDirectory {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub path: PathBuf,
}

impl TrainingPlan {
    /// Reads the file of `distillery train`, and fills in every default.
    ///
    /// # Errors
    /// All faults.
    pub fn parse(document: &Value) -> Result<Self, Vec<Fault>> {
        let request = Request::read_as(document, Document::TrainingFile);
        let Request { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels, faults } =
            request;
        if !faults.is_empty() {
            return Err(faults);
        }
        let teacher = teacher.map(TeacherRequest::plan).transpose()?;
        let StudentRequest { architecture, checkpoint } = student;
        let architecture = known("/student/architecture", architecture)?;
        let student = StudentPlan { architecture, checkpoint: checkpoint.map(PathBuf::from) };
        let DatasetLocation { name: dataset_name, path } = dataset.location.clone();
        let directory = DatasetDirectory { name: dataset_name, path: known("/dataset/path", path)? };
        let dataset = dataset.at(directory);
        Ok(Self { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels })
    }
}

impl TeacherRequest {
    fn plan(self) -> Result<TeacherPlan, Vec<Fault>> {
        let architecture = known("/teacher/architecture", self.architecture)?;
        let checkpoint = known("/teacher/checkpoint", self.checkpoint)?.into();
        Ok(TeacherPlan { architecture, checkpoint, mean: self.mean, std: self.std, min_top1: self.min_top1 })
    }
}

impl TeacherSpec {
    /// The teacher with its weights in that file.
    ///
    /// # Errors
    /// This program does not know the architecture.
    pub fn plan(self, checkpoint: PathBuf) -> Result<TeacherPlan, UnknownArchitecture> {
        let architecture = architecture::named(&self.architecture)?;
        Ok(TeacherPlan { architecture, checkpoint, mean: self.mean, std: self.std, min_top1: self.min_top1 })
    }
}

impl StudentSpec {
    /// The student with its first weights, if any, in that file.
    ///
    /// # Errors
    /// This program does not know the architecture.
    pub fn plan(self, checkpoint: Option<PathBuf>) -> Result<StudentPlan, UnknownArchitecture> {
        Ok(StudentPlan { architecture: architecture::named(&self.architecture)?, checkpoint })
    }
}
