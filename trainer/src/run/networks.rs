//! Builds the student and the teacher of a specification and loads the checkpoints that it names.

use std::path::Path;

use tch::{Device, Kind};

use crate::data::hash::sha256;
use crate::data::open::Data;
use crate::error::{Error, Result};
use crate::models::{self, Network, state_dict};
use crate::worker_link::report::{Report, warning};
use distillery_core::spec::TrainingPlan;

/// The networks of a run, with the hashes of the files that they come from.
#[derive(Debug)]
pub struct Networks {
    /// On the CPU in float32: an earlier attempt's weights may still replace its own.
    pub student: Network,
    /// Frozen, on the device; `None` for plain training.
    pub teacher: Option<Network>,
    pub hashes: CheckpointHashes,
}

/// SHA-256 of the checkpoints that a specification names, in hexadecimal.
#[derive(Debug)]
pub struct CheckpointHashes {
    pub teacher: Option<String>,
    pub student: Option<String>,
}

/// How the teacher computes.
#[derive(Debug, Clone, Copy)]
pub struct TeacherPlacement {
    pub device: Device,
    /// The kind of its feature maps.
    pub kind: Kind,
    /// Images per batch.
    pub batch_size: u32,
}

impl Networks {
    /// Builds both networks and loads their checkpoints. Warnings go to `report`.
    ///
    /// # Errors
    /// A checkpoint cannot be read or does not fit the architecture or the data.
    pub fn load(
        spec: &TrainingPlan,
        data: &Data,
        placement: TeacherPlacement,
        report: &mut dyn Report,
    ) -> Result<Self> {
        let (teacher, teacher_sha256) = load_teacher(spec, data, placement)?.unzip();
        let student = models::build(spec.student.architecture, data.classes.count, spec.training.seed);
        for (role, network) in [("student", Some(&student)), ("teacher", teacher.as_ref())] {
            let side = spec.dataset.image_size;
            let fine = |network: &Network| spec.distillation.fine_scales(network.architecture(), role, side);
            network.into_iter().flat_map(fine).for_each(|message| report.event(&warning(message)));
        }
        let student_sha256 = match &spec.student.checkpoint {
            Some(path) => Some(load_checkpoint(&student, path, "the student's checkpoint", data)?),
            None => None,
        };
        Ok(Self { student, teacher, hashes: CheckpointHashes { teacher: teacher_sha256, student: student_sha256 } })
    }
}

fn load_teacher(spec: &TrainingPlan, data: &Data, placement: TeacherPlacement) -> Result<Option<(Network, String)>> {
    let Some(teacher) = &spec.teacher else { return Ok(None) };
    let mut network = models::build(teacher.architecture, data.classes.count, 0);
    let sha256 = load_checkpoint(&network, &teacher.checkpoint, "the teacher's checkpoint", data)?;
    network.place(placement.device, Kind::Float);
    network.compute_in(placement.kind);
    network.freeze(placement.batch_size, spec.dataset.image_size);
    Ok(Some((network, sha256)))
}

/// Loads a checkpoint and returns the file's SHA-256. `name` begins the error about a wrong number of classes.
fn load_checkpoint(network: &Network, path: &Path, name: &str, data: &Data) -> Result<String> {
    let (checkpoint, classes) = state_dict::open(path, network.architecture())?;
    state_dict::check_classes(name, path, classes, (data.path.as_path(), data.classes.count))?;
    state_dict::load(network, &checkpoint, path)?;
    Ok(sha256(path).map_err(Error::storage(path))?.0)
}
