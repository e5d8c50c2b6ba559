//! What the trainer works by: a specification whose networks are known and whose files are local.
//!
//! A worker makes one of a [`JobSpec`](super::JobSpec) and the files that it fetched; `distillery train` reads one
//! from a file. Both pass through [`TrainingPlan::parse`], since the worker runs `train` too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::field::Document;
use super::request::{Request, known};
use super::requested::{DatasetLocation, StudentRequest, TeacherRequest};
use super::{DatasetSpec, DistillationSpec, Fault, FoundNetworks, StudentHead, StudentSpec, TeacherSpec, TrainingSpec};
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
    /// `None` for an exported network, which is its own architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<&'static Architecture>,
    /// The weights; of an exported network the whole of it, unless `network` has its graph.
    pub checkpoint: PathBuf,
    /// The exported network (`.pt2`) whose weights `checkpoint` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f64; 3]>,
    /// Names of the data set's classes in the order of the teacher's outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_top1: Option<f64>,
}

/// The network to train.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StudentPlan {
    /// As in [`TeacherPlan`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<&'static Architecture>,
    /// The first weights; always there without an architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// As in [`TeacherPlan`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<PathBuf>,
    /// What becomes of the checkpoint's classifier; kept if it is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<StudentHead>,
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
        Self::parse_with(document, &FoundNetworks::default())
    }

    /// The same once it is known which networks the checkpoints hold that the document gives no architecture for:
    /// defaults follow them.
    ///
    /// # Errors
    /// All faults.
    pub fn parse_with(document: &Value, networks: &FoundNetworks) -> Result<Self, Vec<Fault>> {
        let request = Request::read_as(document, Document::TrainingFile, networks);
        let Request { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels, .. } =
            request;
        if !request.faults.is_empty() {
            return Err(request.faults);
        }
        let teacher = teacher.map(TeacherRequest::plan).transpose()?;
        let StudentRequest { architecture, checkpoint, network, head, .. } = student;
        let student = StudentPlan { architecture, checkpoint: checkpoint.map(PathBuf::from), network, head };
        let DatasetLocation { name: dataset_name, path } = dataset.location.clone();
        let directory = DatasetDirectory { name: dataset_name, path: known("/dataset/path", path)? };
        let dataset = dataset.at(directory);
        Ok(Self { name, teacher, student, dataset, distillation, training, priority, max_attempts, labels })
    }
}

impl TeacherRequest {
    fn plan(self) -> Result<TeacherPlan, Vec<Fault>> {
        let checkpoint = known("/teacher/checkpoint", self.checkpoint)?.into();
        let Self { architecture, network, mean, std, classes, min_top1, .. } = self;
        Ok(TeacherPlan { architecture, checkpoint, network, mean, std, classes, min_top1 })
    }
}

impl TeacherSpec {
    /// The teacher with its weights in that file, and the graph of an exported network in another, unless it is in the
    /// same.
    ///
    /// # Errors
    /// This program does not know the architecture.
    pub fn plan(self, checkpoint: PathBuf, network: Option<PathBuf>) -> Result<TeacherPlan, UnknownArchitecture> {
        let Self { architecture, mean, std, classes, min_top1, .. } = self;
        let architecture = architecture.as_deref().map(architecture::named).transpose()?;
        Ok(TeacherPlan { architecture, checkpoint, network, mean, std, classes, min_top1 })
    }
}

impl StudentSpec {
    /// The student with its first weights, if any, in that file.
    ///
    /// # Errors
    /// This program does not know the architecture.
    pub fn plan(self, checkpoint: Option<PathBuf>) -> Result<StudentPlan, UnknownArchitecture> {
        let architecture = self.architecture.as_deref().map(architecture::named).transpose()?;
        Ok(StudentPlan { architecture, checkpoint, network: None, head: self.head })
    }
}
