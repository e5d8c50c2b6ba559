//! Builds the student and the teacher of a specification and loads the checkpoints that it names.

use std::path::Path;

use tch::{Device, Kind};

use crate::data::hash::sha256;
use crate::data::open::Data;
use crate::error::{Error, Result};
use crate::models::{self, Network, state_dict};
use crate::worker_link::report::{Report, warning};
use distillery_core::checkpoint::Checkpoint;
use distillery_core::dataset::MeanStd;
use distillery_core::protocol::{Event, Level};
use distillery_core::spec::{TeacherPlan, TrainingPlan};

/// The networks of a run, with the hashes of the files that they come from.
#[derive(Debug)]
pub struct Networks {
    /// On the CPU in float32: an earlier attempt's weights may still replace its own.
    pub student: Network,
    /// Frozen, on the device; `None` for plain training.
    pub teacher: Option<Teacher>,
    pub hashes: CheckpointHashes,
}

/// The teacher, with what its file says about it.
#[derive(Debug)]
pub struct Teacher {
    pub network: Network,
    /// Its mean and standard deviation, if the specification or the file names them.
    pub normalisation: Option<MeanStd>,
    /// Its accuracy in percent.
    pub recorded_accuracy: Option<f64>,
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
    /// A checkpoint cannot be read, does not fit the architecture or the data, or holds broken weights.
    pub fn load(
        spec: &TrainingPlan,
        data: &Data,
        placement: TeacherPlacement,
        report: &mut dyn Report,
    ) -> Result<Self> {
        let teacher = spec.teacher.as_ref().map(|teacher| load_teacher(teacher, spec, data, placement, report));
        let (teacher, teacher_sha256) = teacher.transpose()?.unzip();
        let student = models::build(spec.student.architecture, data.classes.count, spec.training.seed);
        let of_teacher = teacher.as_ref().map(|teacher| &teacher.network);
        for (role, network) in [("student", Some(&student)), ("teacher", of_teacher)] {
            let side = spec.dataset.image_size;
            let fine = |network: &Network| spec.distillation.fine_scales(network.architecture(), role, side);
            network.into_iter().flat_map(fine).for_each(|message| report.event(&warning(message)));
        }
        let student_sha256 = match &spec.student.checkpoint {
            Some(path) => Some(load_student(&student, path, data, report)?),
            None => None,
        };
        Ok(Self { student, teacher, hashes: CheckpointHashes { teacher: teacher_sha256, student: student_sha256 } })
    }
}

fn load_teacher(
    teacher: &TeacherPlan,
    spec: &TrainingPlan,
    data: &Data,
    placement: TeacherPlacement,
    report: &mut dyn Report,
) -> Result<(Teacher, String)> {
    let mut network = models::build(teacher.architecture, data.classes.count, 0);
    let loaded = load_checkpoint(&network, &teacher.checkpoint, "the teacher's checkpoint", data, report)?;
    network.place(placement.device, Kind::Float);
    network.compute_in(placement.kind);
    network.freeze(placement.batch_size, spec.dataset.image_size);
    // Numbers that went through JSON may differ in the last bit, and two normalisations cost time.
    let stored = loaded.checkpoint.normalisation().filter(|&stored| !is_near(stored, data.mean_std, 1e-9));
    let is_given = MeanStd::of_both(teacher.mean, teacher.std);
    if let (None, Some(MeanStd { mean, std })) = (is_given, stored) {
        let message = format!(
            "the teacher's images are normalised by the mean {mean:?} and the standard deviation {std:?} that its \
             file names; teacher.mean and teacher.std would replace them"
        );
        report.event(&Event::Log { level: Level::Info, message });
    }
    let recorded_accuracy = loaded.checkpoint.recorded_accuracy();
    Ok((Teacher { network, normalisation: is_given.or(stored), recorded_accuracy }, loaded.sha256))
}

/// Returns the file's SHA-256.
fn load_student(student: &Network, path: &Path, data: &Data, report: &mut dyn Report) -> Result<String> {
    let loaded = load_checkpoint(student, path, "the student's checkpoint", data, report)?;
    if let Some(stored) = loaded.checkpoint.normalisation()
        && !is_near(stored, data.mean_std, 1e-3)
    {
        let MeanStd { mean, std } = stored;
        report.event(&warning(format!(
            "the student's checkpoint was trained with the mean {mean:?} and the standard deviation {std:?}, and this \
             run uses {:?} and {:?}: set dataset.mean and dataset.std to keep those of the file",
            data.mean_std.mean, data.mean_std.std
        )));
    }
    Ok(loaded.sha256)
}

fn is_near(one: MeanStd, other: MeanStd, tolerance: f64) -> bool {
    let near =
        |one: [f64; 3], other: [f64; 3]| one.iter().zip(other).all(|(one, other)| (one - other).abs() < tolerance);
    near(one.mean, other.mean) && near(one.std, other.std)
}

struct Loaded {
    checkpoint: Checkpoint,
    sha256: String,
}

/// Loads a checkpoint. `name` begins messages about it.
fn load_checkpoint(network: &Network, path: &Path, name: &str, data: &Data, report: &mut dyn Report) -> Result<Loaded> {
    let (checkpoint, classes) = state_dict::open(path, network.architecture(), None)?;
    for note in checkpoint.notes() {
        report.event(&warning(format!("{name}: {note}")));
    }
    state_dict::check_classes(name, path, classes, (data.path.as_path(), data.classes.count))?;
    if let Some(doubt) = state_dict::load(network, &checkpoint, path)? {
        report.event(&warning(format!("{name}: {doubt}")));
    }
    Ok(Loaded { checkpoint, sha256: sha256(path).map_err(Error::storage(path))?.0 })
}
