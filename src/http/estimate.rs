//! What a job would cost, for a dry run: memory from the networks, time from jobs that were measured.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::architecture::{self, Layout};
use crate::db::jobs::{DeviceKind, ExportedMacs, MeasuredJob};
use crate::exported::Description;
use crate::spec::{JobSpec, TeacherCache};

/// A rough estimate of the memory that training takes on each device.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Memory {
    /// Weights, gradients and the optimiser's state of the student, and the teacher's weights.
    pub weights_bytes: u64,
    /// What a batch leaves behind in both networks until the step is done.
    pub activations_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// How it was computed.
    pub method: String,
}

/// An estimate of the time that training takes, from the training images per second of earlier jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Time {
    /// Seconds from the first step to the last evaluation, without waiting for a worker.
    pub seconds: f64,
    /// Training images per second.
    pub images_per_second: f64,
    /// Number of jobs that it is computed from.
    pub measured_jobs: u32,
    /// Kind of device that these jobs ran on, and that it holds for: `cpu` or `cuda`.
    #[schema(example = "cuda")]
    pub device: String,
    /// How it was computed.
    pub method: String,
}

/// Images of a job.
#[derive(Debug, Clone, Copy)]
pub struct ImageCounts {
    pub train: u64,
    pub eval: u64,
}

/// What a network costs; per image, but for its parameters.
#[derive(Debug, Clone, Copy)]
pub struct NetworkCost {
    pub parameters: u64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Elements that a training step keeps for its gradients.
    pub kept_elements: u64,
    /// Elements that a forward pass holds at a time.
    pub peak_elements: u64,
}

impl NetworkCost {
    pub fn of(layout: &Layout) -> Self {
        let (kept_elements, peak_elements) = (layout.kept_elements(), layout.peak_elements());
        Self { parameters: layout.parameters, macs: layout.macs, kept_elements, peak_elements }
    }

    pub fn of_exported(network: &Description) -> Self {
        let memory = network.memory;
        Self {
            parameters: network.parameters,
            macs: network.macs,
            kept_elements: memory.kept_elements,
            peak_elements: memory.peak_elements,
        }
    }
}

/// What the networks of a job cost.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    pub student: NetworkCost,
    pub teacher: Option<NetworkCost>,
}

/// Jobs that an estimate is the mean of.
const MOST_JOBS: usize = 5;

impl Memory {
    pub fn estimate(spec: &JobSpec, Costs { student, teacher }: Costs) -> Self {
        let states = spec.training.optimizer.states();
        let kept_bytes = student.parameters * 4 * (3 + states + spec.training.averages());
        let weights_bytes = kept_bytes + teacher.map_or(0, |teacher| teacher.parameters * 4);
        let side = spec.dataset.image_size;
        let image = 3 * u64::from(side) * u64::from(side);
        let kept = student.kept_elements.saturating_add(student.peak_elements);
        let passing = teacher.map_or(0, |teacher| teacher.peak_elements);
        let images = spec.training.batch_size.div_ceil(spec.training.devices);
        // The student sees a part at a time. An uploaded network may be as large as its file says.
        let of_student = u64::from(images.div_ceil(spec.training.parts())).saturating_mul(kept);
        let of_both = u64::from(images).saturating_mul(image.saturating_add(passing));
        let activations_bytes = of_student.saturating_add(of_both).saturating_mul(4);
        let total_bytes = weights_bytes.saturating_add(activations_bytes);
        let method = "float32 throughout. weights: the student's four times or more (weights, gradients, the best so \
                      far, one or two states of the optimiser, the average) and the teacher's once. activations: per \
                      image of the batch, or of a part of it, the student's maps that its gradients need, and what both \
                      networks hold at once on the way. Without libraries (0.5 GB or more on a GPU) and the allocator's \
                      reserve";
        Self { weights_bytes, activations_bytes, total_bytes, method: method.to_owned() }
    }
}

impl Time {
    /// `None` if no job has been measured. `jobs`: newest first, on such a device.
    pub fn estimate(
        spec: &JobSpec,
        classes: u32,
        costs: Costs,
        images: ImageCounts,
        kind: DeviceKind,
        jobs: &[MeasuredJob],
    ) -> Option<Self> {
        let macs = ExportedMacs {
            teacher: costs.teacher.map(|teacher| teacher.macs as f64),
            student: Some(costs.student.macs as f64),
        };
        let cost = Cost::of(spec, classes, macs)?;
        let same: Vec<f64> = jobs
            .iter()
            .filter(|job| trains_alike(&job.spec, spec))
            .map(|job| job.images_per_second)
            .take(MOST_JOBS)
            .collect();
        let scaled = || {
            let rate = |job: &MeasuredJob| {
                let per_second = job.images_per_second * Cost::of(&job.spec, classes, job.macs)?.step;
                (job.spec.training.devices == spec.training.devices).then_some(per_second / cost.step)
            };
            jobs.iter().filter_map(rate).take(MOST_JOBS).collect::<Vec<f64>>()
        };
        let device = kind.name();
        let (rates, alike) = if same.is_empty() {
            (scaled(), format!("on {device}, scaled by multiply-accumulates"))
        } else {
            (same, format!("with the same networks and images on {device}"))
        };
        if rates.is_empty() {
            return None;
        }
        let images_per_second = rates.iter().sum::<f64>() / rates.len() as f64;
        let training = &spec.training;
        let evaluations = f64::from(training.epochs.div_ceil(training.eval_every_epochs.max(1)));
        let trained = f64::from(training.epochs) * images.train as f64;
        // An evaluation computes the student only, forwards.
        let evaluated = evaluations * images.eval as f64 * cost.evaluation / cost.step;
        let seconds = (trained + evaluated) / images_per_second;
        let measured_jobs = u32::try_from(rates.len()).unwrap_or(u32::MAX);
        let method = format!("from the training images per second of the newest jobs {alike}");
        Some(Self { seconds, images_per_second, measured_jobs, device: device.to_owned(), method })
    }
}

/// Whether two jobs do the same for each image.
fn trains_alike(one: &JobSpec, other: &JobSpec) -> bool {
    let key = |spec: &JobSpec| {
        // An exported network is known by where it is.
        let teacher = spec.teacher.as_ref().map(|teacher| {
            let source = teacher.architecture.is_none().then(|| teacher.source.clone());
            (teacher.architecture.clone(), source)
        });
        let checkpoint = spec.student.checkpoint.clone().filter(|_| spec.student.architecture.is_none());
        let student = (spec.student.architecture.clone(), checkpoint);
        let training = &spec.training;
        let scales = spec.distillation.scales.clone();
        (
            (teacher, student, spec.dataset.image_size, scales),
            (training.devices, training.batch_size, training.teacher_cache),
        )
    };
    key(one) == key(other) && one.training.precision == other.training.precision
}

/// Multiply-accumulates per image.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Of a training step: the student forwards and twice that backwards, and the teacher forwards.
    step: f64,
    evaluation: f64,
}

impl Cost {
    /// `None` if a network is not known.
    fn of(spec: &JobSpec, classes: u32, exported: ExportedMacs) -> Option<Self> {
        let macs = |architecture: Option<&String>, exported: Option<f64>| match architecture {
            None => exported,
            Some(name) => {
                let layout = architecture::find(name)?.layout_at(classes, spec.dataset.image_size);
                Some(layout.macs as f64)
            }
        };
        let student = macs(spec.student.architecture.as_ref(), exported.student)?;
        let is_cached = matches!(spec.training.teacher_cache, Some(TeacherCache::Exact | TeacherCache::Views(_)));
        let teacher = match &spec.teacher {
            Some(teacher) if !is_cached => macs(teacher.architecture.as_ref(), exported.teacher)?,
            _ => 0.0,
        };
        Some(Self { step: (3.0 * student + teacher).max(1.0), evaluation: student })
    }
}
