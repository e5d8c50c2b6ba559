//! Everything that a run needs before its first step: data, networks, and what an earlier attempt left.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use chrono::Utc;
use tch::{Device, Kind};

use crate::data::Loader;
use crate::data::fingerprint::Fingerprints;
use crate::data::normalisation::Normalisation;
use crate::data::open::Data;
use crate::device::cuda::Tf32;
use crate::error::{Error, Result};
use crate::loss::sdd::Distillation;
use crate::models::weights::{self, StateDict};
use crate::models::{self, Network};
use crate::run::Settings;
use crate::run::cuda_graphs::Steps;
use crate::run::manifest;
use crate::run::optim::Optimizer;
use crate::run::resume::{self, Attempt, Counters, State};
use crate::run::startup_timer::Startup;
use crate::run::step::Objective;
use crate::worker_link::report::Report;
use crate::{device, warning};
use distillery::architecture::{self, Architecture, Family};
use distillery::dataset::Classes;
use distillery::protocol::{Started, files};
use distillery::spec::{Augmentation, JobSpec, Precision};

/// What a run works with.
#[derive(Debug)]
pub struct Setup {
    /// Where the arithmetic runs.
    pub device: Device,
    /// How float32 is multiplied on a GPU meanwhile.
    pub tf32: Tf32,
    /// Issues the steps; before anything else on the device.
    pub steps: Steps,
    /// The training split.
    pub train: Rc<Loader>,
    /// The evaluation split.
    pub eval: Loader,
    /// The network that learns.
    pub student: Network,
    /// The loss, with the teacher.
    pub objective: Objective,
    /// Its tensors are on the device.
    pub optimizer: Optimizer,
    /// Zero, or where an earlier attempt was.
    pub counters: Counters,
    /// The best weights so far, on the CPU.
    pub best: Option<StateDict>,
    /// What the run says about itself.
    pub started: Started,
    /// What a student's file says about itself.
    pub metadata: BTreeMap<String, String>,
    /// Of the classes, where the data set says them.
    pub class_names: Option<Vec<String>>,
    /// Of the teacher's file.
    pub teacher_sha256: Option<String>,
    /// Of the file that the student started from.
    pub student_sha256: Option<String>,
    /// Of the data's files.
    pub fingerprints: Fingerprints,
    /// The names of the training and the evaluation split.
    pub splits: [String; 2],
    /// Images that could not be read.
    pub dropped: u64,
    /// Where the time went so far.
    pub startup: Startup,
}

impl Setup {
    /// Loads data and networks; warnings go to `report`.
    ///
    /// # Errors
    /// In the classes of [`Error`].
    pub fn new(spec: &JobSpec, settings: &Settings, report: &mut dyn Report) -> Result<Self> {
        let mut startup = Startup::begin();
        let device = device::open(&settings.device)?;
        // Averaging gradients is not recorded: the reducer's part on the host would be missing.
        let steps = Steps::new(device, settings.cuda_graphs && settings.share.count == 1);
        startup.mark("device");
        let data = Data::open(spec, settings, device, report)?;
        startup.mark("data");
        let classes = data.classes.count;
        let arithmetic = Arithmetic::of(spec, device)?;
        let kind = arithmetic.kind();
        let tf32 = Tf32::set(arithmetic == Arithmetic::Tf32);
        let student_architecture = find(&spec.student.architecture)?;
        let batch = settings.share.largest(spec.training.batch_size);
        let (teacher, teacher_sha256) = teacher(spec, &data, (device, kind, batch))?.unzip();
        warn_of_fine_scales(spec, student_architecture, teacher.as_ref(), report);

        let mut student = models::build(student_architecture, classes, spec.training.seed);
        let mut student_sha256 = None;
        if let Some(path) = spec.student.checkpoint.as_deref().map(Path::new) {
            load_checked(&student, path, "student", &data)?;
            student_sha256 = Some(manifest::sha256(path).map_err(Error::storage(path))?.0);
        }
        let size = (data.train.len(), data.eval.len(), classes);
        let identity = resume::identity(spec, teacher_sha256.as_deref(), student_sha256.as_deref(), size);
        let state = resume::load(&settings.output.join(files::CHECKPOINT), &identity)?;
        if let Some(state) = &state {
            restore(&student, &state.student)?;
        }
        student.place(device, Kind::Float);
        student.compute_in(kind);

        let mut optimizer = Optimizer::new(&spec.training.optimizer, named_parameters(&student));
        let (mut counters, best) = match state {
            Some(State { counters, best, optimizer: state, .. }) => {
                optimizer.load_state(&state).map_err(Error::internal)?;
                (counters, best)
            }
            None => (fresh(identity), None),
        };
        let attempt = Attempt {
            number: settings.attempt,
            started_at: Utc::now(),
            from_step: counters.step,
            device: settings.all_devices.clone().unwrap_or_else(|| device::name(device)),
            precision: arithmetic.name().to_owned(),
            threads: u32::try_from(settings.threads).unwrap_or(u32::MAX),
            data_memory: settings.data_memory,
        };
        counters.attempts.push(attempt.clone());
        let started = Started {
            device: attempt.device,
            precision: attempt.precision,
            threads: attempt.threads,
            train_images: data.train.len(),
            eval_images: data.eval.len(),
            classes,
            steps_per_epoch: data.train.steps_per_epoch(),
            epochs: spec.training.epochs,
            resumed_epochs: counters.epoch,
            resumed_step: counters.step,
        };
        let teacher_spec = spec.teacher.as_ref();
        let teacher_normalisation = teacher_spec
            .and_then(|teacher| Some(Normalisation::new(teacher.mean?, teacher.std?, device)))
            .filter(|teacher| (teacher.mean, teacher.std) != (data.normalisation.mean, data.normalisation.std));
        let metadata = metadata(student_architecture, spec, &data);
        let objective = Objective {
            normalisation: data.normalisation,
            teacher_normalisation,
            batch_size: batch,
            teacher,
            distillation: Distillation::new(&spec.distillation, device),
            cross_entropy: spec.distillation.weights.cross_entropy,
            weight: spec.distillation.weights.distillation,
            clip: spec.training.clip_grad_norm,
        };
        let Data { train, eval, splits, fingerprints, dropped, .. } = data;
        let Classes { names, .. } = data.classes;
        let train = Rc::new(train);
        startup.mark("networks");
        Ok(Self {
            startup,
            device,
            tf32,
            steps,
            train,
            eval,
            student,
            objective,
            optimizer,
            counters,
            best,
            started,
            metadata,
            class_names: names,
            teacher_sha256,
            student_sha256,
            fingerprints,
            splits,
            dropped,
        })
    }
}

/// What maps are computed in; weights, statistics, classifier, losses and the optimiser are always in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    Float32,
    /// float32, multiplied with 10 bits of mantissa in a GPU's convolutions.
    Tf32,
    Bfloat16,
}

impl Arithmetic {
    /// `auto` is bfloat16 where the device multiplies it and students have been shown to come out the same
    /// (docs/performance.md), and else TF32 on GPUs that have it, as PyTorch does by itself.
    fn of(spec: &JobSpec, device: Device) -> Result<Self> {
        let is_fast = device::multiplies_bfloat16(device);
        match spec.training.precision {
            Precision::Auto if is_fast && keeps_accuracy(spec) => Ok(Self::Bfloat16),
            Precision::Auto if is_fast && device != Device::Cpu => Ok(Self::Tf32),
            Precision::Auto | Precision::Float32 => Ok(Self::Float32),
            Precision::Bfloat16 if !is_fast && device != Device::Cpu => Err(Error::user(
                "training.precision is bfloat16, which GPUs before compute capability 8.0 do not multiply: use float32 or \
                 auto",
            )),
            Precision::Bfloat16 => Ok(Self::Bfloat16),
        }
    }

    fn kind(self) -> Kind {
        if self == Self::Bfloat16 { Kind::BFloat16 } else { Kind::Float }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

/// Whether both networks are of families whose students came out the same in both precisions (docs/performance.md).
fn keeps_accuracy(spec: &JobSpec) -> bool {
    let teacher = spec.teacher.as_ref().and_then(|teacher| teacher.architecture.as_deref());
    let mut names = teacher.into_iter().chain([spec.student.architecture.as_str()]);
    names.all(|name| {
        architecture::find(name).is_some_and(|found| match found.family {
            Family::CifarResnet(_) | Family::WideResnet(_) | Family::Vgg(_) | Family::Shufflenet(_) => true,
            Family::Mobilenet(_) | Family::Resnet(_) => false,
        })
    })
}

fn find(name: &str) -> Result<&'static Architecture> {
    architecture::find(name).ok_or_else(|| Error::user(format!("unknown architecture {name:?}")))
}

fn fresh(identity: String) -> Counters {
    Counters {
        specification: identity,
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

fn named_parameters(network: &Network) -> Vec<(String, tch::Tensor)> {
    let trained = network.weights().iter().filter(|weight| weight.trained);
    trained.map(|weight| (weight.name.clone(), weight.tensor.shallow_clone())).collect()
}

fn restore(network: &Network, state: &StateDict) -> Result<()> {
    let found: BTreeMap<&str, &tch::Tensor> = state.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    for (index, weight) in network.weights().iter().enumerate() {
        let tensor = found.get(weight.name.as_str()).filter(|tensor| tensor.size() == weight.tensor.size());
        let missing = || Error::internal(format!("the checkpoint to resume from lacks {}", weight.name));
        network.set(index, tensor.ok_or_else(missing)?);
    }
    Ok(())
}

/// Loads a given checkpoint, whose classes must be those of the data.
fn load_checked(network: &Network, path: &Path, role: &str, data: &Data) -> Result<()> {
    let (checkpoint, classes) = weights::open(path, network.architecture())?;
    if classes != data.classes.count {
        return Err(Error::user(format!(
            "the {role}'s checkpoint {} tells {classes} classes apart, and data set {} has {}: they must be the same",
            path.display(),
            data.path.display(),
            data.classes.count
        )));
    }
    weights::load(network, &checkpoint, path)
}

fn teacher(
    spec: &JobSpec,
    data: &Data,
    (device, kind, batch): (Device, Kind, u32),
) -> Result<Option<(Network, String)>> {
    let Some(teacher) = &spec.teacher else { return Ok(None) };
    let (Some(name), Some(path)) = (&teacher.architecture, &teacher.checkpoint) else {
        return Err(Error::user("the teacher needs an architecture and a checkpoint file"));
    };
    let path = Path::new(path);
    let mut network = models::build(find(name)?, data.classes.count, 0);
    load_checked(&network, path, "teacher", data)?;
    network.place(device, Kind::Float);
    network.compute_in(kind);
    network.freeze(batch, spec.dataset.image_size);
    Ok(Some((network, manifest::sha256(path).map_err(Error::storage(path))?.0)))
}

/// A scale that is finer than the feature map repeats cells of it: allowed, but rarely meant.
fn warn_of_fine_scales(
    spec: &JobSpec,
    student: &'static Architecture,
    teacher: Option<&Network>,
    report: &mut dyn Report,
) {
    let Some(&finest) = spec.distillation.scales.last() else { return };
    let networks = [("student", Some(student)), ("teacher", teacher.map(Network::architecture))];
    for (role, architecture) in networks {
        let Some(architecture) = architecture else { continue };
        let [_, height, width] = architecture.layout_at(1, spec.dataset.image_size).feature_map;
        if finest > height.min(width) {
            report.event(&warning(format!(
                "scale {finest} is finer than the {role}'s final feature map, which is {height}×{width} for images of \
                 side {}: some regions will repeat its cells",
                spec.dataset.image_size
            )));
        }
    }
}

fn metadata(student: &Architecture, spec: &JobSpec, data: &Data) -> BTreeMap<String, String> {
    let names = || (0..data.classes.count).map(|class| class.to_string()).collect();
    let names: Vec<String> = data.classes.names.clone().unwrap_or_else(names);
    let json = |value: serde_json::Value| value.to_string();
    let is_centred = spec.training.augmentation == Augmentation::ResizedCropFlip;
    BTreeMap::from([
        // What transformers and other readers expect of weights in PyTorch's layout.
        ("format".to_owned(), "pt".to_owned()),
        ("architecture".to_owned(), student.name.to_owned()),
        ("image_size".to_owned(), spec.dataset.image_size.to_string()),
        ("eval_crop".to_owned(), if is_centred { "centre" } else { "whole" }.to_owned()),
        ("num_classes".to_owned(), data.classes.count.to_string()),
        ("mean".to_owned(), json(data.normalisation.mean.as_slice().into())),
        ("std".to_owned(), json(data.normalisation.std.as_slice().into())),
        ("classes".to_owned(), json(names.into())),
    ])
}
