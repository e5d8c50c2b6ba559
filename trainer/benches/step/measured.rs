//! A training of one pair of networks, whose steps are timed.

use std::path::Path;
use std::sync::Arc;

use distillery_core::architecture;
use distillery_core::dataset::{Dataset, DatasetOptions, Error, Frame, Images, MeanStd, Subset, spread};
use distillery_core::protocol::{Event, Level};
use distillery_core::spec::TrainingPlan;
use distillery_trainer::data::normalisation::Normalisation;
use distillery_trainer::data::{Batches, Crops, DrawSource, Framing, Loader, LoaderOptions, Shard};
use distillery_trainer::device;
use distillery_trainer::device::cuda::Tf32;
use distillery_trainer::loss::sdd::Distillation;
use distillery_trainer::loss::target::CrossEntropy;
use distillery_trainer::models::{self, Network, exported};
use distillery_trainer::ranks::Ranks;
use distillery_trainer::run::cuda_graphs::StepExecutor;
use distillery_trainer::run::metrics::Meter;
use distillery_trainer::run::optim::Optimizer;
use distillery_trainer::run::step::{Inputs, Objective, Phase, StepScalars, step};
use serde_json::{Value, json};
use tch::{Device, Kind};

use super::roofline::{self, Peaks, Work};
use super::{Args, clock};

/// The phases of a step; `data` includes waiting for the batch.
pub const PHASES: [&str; 7] = ["data", "teacher", "student", "loss", "backward", "optimiser", "metrics"];
const CLASSES: u32 = 100;
/// Steps before anything is measured.
const WARM_UP: usize = 3;

/// A training of one pair.
pub struct Measured {
    pair: [String; 2],
    precision: String,
    _tf32: Tf32,
    graphs: bool,
    executor: StepExecutor,
    clock: Clock,
    batch_size: u32,
    steps: usize,
    device: Device,
    loader: Loader,
    batches: Batches,
    crops: Crops,
    student: Network,
    objective: Objective,
    optimizer: Optimizer,
    meter: Meter,
    number: u64,
}

impl Measured {
    pub fn new(args: &Args, [teacher, student]: [&str; 2], precision: &str, device: Device) -> Self {
        let executor = StepExecutor::new(device, args.graphs);
        let (kind, tf32) = kind(precision);
        let spec = recipe(args, [teacher, student]);
        let [mut teacher, mut student] = [teacher, student].map(build);
        let side = student.image_size().map_or(spec.dataset.image_size, |[height, _]| height);
        let loader = open(args, side, student.classes(), device);
        let crop_source = DrawSource { seed: 0, images: loader.len(), side: u64::from(side), device };
        let MeanStd { mean, std } = loader.mean_std();
        teacher.place(device, Kind::Float);
        teacher.compute_in(kind);
        teacher.freeze(args.batch, side);
        student.place(device, Kind::Float);
        student.compute_in(kind);
        let trained = student.weights().iter().filter(|weight| weight.trained);
        let parameters = trained.map(|weight| (weight.name.clone(), weight.tensor.shallow_clone())).collect();
        let mut distillation = Distillation::new(&spec.distillation, device);
        let mut normalisation = Normalisation::new(mean, std, device);
        if args.own_kernels {
            let distilled = distillation.as_mut().map_or(Ok(()), |distillation| distillation.use_kernel(device));
            let used = distilled.and_then(|()| normalisation.use_kernel(device));
            // As in a run: the CPU has faster loops.
            let is_on_cpu = device == Device::Cpu;
            let used = used.and_then(|()| if is_on_cpu { Ok(()) } else { student.use_norm_kernel(device) });
            used.unwrap_or_else(|error| panic!("--own-kernels: {error}"));
        }
        Self {
            precision: precision.to_owned(),
            _tf32: Tf32::set(tf32),
            graphs: args.graphs,
            executor,
            clock: Clock { processor: args.processor_time },
            pair: [teacher.name(), student.name()].map(str::to_owned),
            batch_size: args.batch,
            steps: args.steps,
            device,
            batches: loader.epoch(0, 0),
            crops: Crops::of_view(crop_source, 0),
            loader,
            optimizer: Optimizer::new(&spec.training.optimizer, parameters),
            meter: Meter::new(&spec.distillation.scales, device),
            objective: Objective {
                normalisation,
                teacher_normalisation: None,
                batch_size: args.batch,
                teacher: Some(teacher),
                kept_scales: spec.distillation.scales.clone(),
                distillation,
                label_loss: CrossEntropy::default(),
                cross_entropy: spec.distillation.weights.cross_entropy,
                weight: spec.distillation.weights.distillation,
                clip: spec.training.clip_grad_norm,
            },
            student,
            number: 0,
        }
    }

    fn inputs(&mut self) -> Inputs {
        let batch = loop {
            match self.batches.next() {
                Some(batch) => break batch.expect("the images can be read"),
                None => self.batches = self.loader.epoch(0, 0),
            }
        };
        self.number += 1;
        // At learning rate 0, all steps compute with numbers of the size that training begins with.
        let scalars = StepScalars::new(0.0, self.objective.weight, self.number, self.device);
        let crops = Some(self.crops.of_batch(0, 0, &batch.index_tensor));
        Inputs { crops, ..Inputs::new(batch.images, batch.labels, scalars) }
    }

    fn step(&mut self, inputs: &Inputs, ended: impl FnMut(Phase)) {
        let Self { student, objective, optimizer, meter, .. } = self;
        let _ = step(student, objective, optimizer, meter, &mut Ranks::single(), inputs, ended);
    }

    /// Milliseconds of each of some steps. On a GPU they are issued one after the other, as in training, and the mean,
    /// including the making of batches, stands for each; on the CPU batches are not included.
    pub fn several(&mut self) -> Vec<f64> {
        if self.device == Device::Cpu {
            return (0..self.steps).map(|_| self.whole()).collect();
        }
        wait(self.device);
        let begun = self.clock.now();
        for _ in 0..self.steps {
            let inputs = self.inputs();
            let Self { executor, student, objective, optimizer, meter, .. } = self;
            let _ = executor.run(student, objective, optimizer, meter, &mut Ranks::single(), inputs);
        }
        wait(self.device);
        let time = 1e3 * (self.clock.now() - begun) / self.steps as f64;
        for event in self.executor.events() {
            if let Event::Log { level: Level::Warning, message } = event {
                panic!("{message}");
            }
        }
        vec![time; self.steps]
    }

    /// Milliseconds of a step after its images are normalised.
    fn whole(&mut self) -> f64 {
        let (device, clock) = (self.device, self.clock);
        let inputs = self.inputs();
        let mut begun = 0.0;
        self.step(&inputs, |phase| {
            if phase == Phase::Data {
                wait(device);
                begun = clock.now();
            }
        });
        wait(device);
        1e3 * (clock.now() - begun)
    }

    /// Milliseconds of each of the [`PHASES`].
    fn phases(&mut self) -> [f64; PHASES.len()] {
        let (device, clock) = (self.device, self.clock);
        wait(device);
        let mut ends = vec![clock.now()];
        let inputs = self.inputs();
        self.step(&inputs, |_| {
            wait(device);
            ends.push(clock.now());
        });
        std::array::from_fn(|phase| 1e3 * (ends[phase + 1] - ends[phase]))
    }

    /// Does steps before anything is measured; on a GPU until graphs are recorded.
    pub fn warm_up(&mut self) {
        for _ in 0..WARM_UP {
            self.whole();
        }
        if self.device != Device::Cpu {
            self.several();
        }
    }

    pub fn report(&mut self, peaks: Peaks) -> Value {
        self.warm_up();
        let on_gpu = if self.device == Device::Cpu { vec![] } else { self.several() };
        let (mut whole, mut phases) = (on_gpu, vec![Vec::new(); PHASES.len()]);
        for _ in 0..self.steps {
            if self.device == Device::Cpu {
                whole.push(self.whole());
            }
            for (times, time) in phases.iter_mut().zip(self.phases()) {
                times.push(time);
            }
        }
        let phases: Vec<f64> = phases.into_iter().map(median).collect();
        let bounds = self.bounds();
        let least: f64 = bounds.iter().map(|(_, work)| work.least_ms(peaks)).sum();
        let step = median(whole);
        let bound = |&(phase, work): &(&str, Work)| {
            (phase.to_owned(), json!({"macs": work.macs, "bytes": work.bytes, "least_ms": work.least_ms(peaks)}))
        };
        json!({
            "pair": self.pair,
            "precision": self.precision,
            "device": device::name(self.device),
            "graphs": self.graphs,
            "threads": tch::get_num_threads(),
            "batch": self.batch_size,
            "step_ms": step,
            "sum_ms": phases[1..].iter().sum::<f64>(),
            "phases_ms": PHASES.iter().map(|&name| name.to_owned()).zip(phases.into_iter().map(Value::from))
                .collect::<serde_json::Map<_, _>>(),
            "bounds": bounds.iter().map(bound).collect::<serde_json::Map<_, _>>(),
            "least_ms": least,
            "share": least / step,
            "peaks": peaks,
        })
    }

    fn bounds(&self) -> [(&'static str, Work); 4] {
        let layout = |name: &str| architecture::find(name).expect("it was built").layout(CLASSES);
        let [teacher, student] = [layout(&self.pair[0]), layout(&self.pair[1])];
        let (batch, width) = (u64::from(self.batch_size), if self.precision == "bfloat16" { 2 } else { 4 });
        [
            ("teacher", roofline::forward(&teacher, batch, width)),
            ("student", roofline::forward(&student, batch, width)),
            ("backward", roofline::backward(&student, batch, width)),
            ("optimiser", roofline::update(&student)),
        ]
    }
}

/// The kind of feature maps, and whether float32 is multiplied as TF32.
pub fn kind(precision: &str) -> (Kind, bool) {
    match precision {
        "float32" => (Kind::Float, false),
        "tf32" => (Kind::Float, true),
        "bfloat16" => (Kind::BFloat16, false),
        other => panic!("precision {other:?} is unknown: use float32, tf32 or bfloat16"),
    }
}

pub fn wait(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// Measures time that passes, or processor time per thread.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub processor: bool,
}

impl Clock {
    /// Seconds since an arbitrary moment.
    pub fn now(self) -> f64 {
        let threads = if self.processor { tch::get_num_threads() } else { 1 };
        clock::seconds(self.processor) / f64::from(threads)
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Whether a network is given as the file of `torch.export`.
pub fn is_file(name: &str) -> bool {
    name.ends_with(".pt2")
}

/// The published recipe for a pair; exported networks get that of CIFAR's ResNets.
fn recipe(args: &Args, pair: [&str; 2]) -> TrainingPlan {
    let [teacher, student] = pair.map(|name| if is_file(name) { "resnet8x4" } else { name });
    // Whatever the pair, so that pairs compare with each other and with PyTorch.
    let scales: &[u32] = match args.scales.as_slice() {
        [] if args.method.starts_with("sdd_") => &[1, 2, 4],
        [] => &[1],
        given => given,
    };
    let document = json!({
        "teacher": {"architecture": teacher, "checkpoint": "random"},
        "student": {"architecture": student},
        "dataset": {"path": "random"},
        "distillation": {"method": args.method, "scales": scales},
    });
    TrainingPlan::parse(&document).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn build(name: &str) -> Network {
    if is_file(name) {
        let path = Path::new(name);
        let opened = exported::open(path).and_then(|(file, _)| exported::build(path, &file));
        return opened.unwrap_or_else(|error| panic!("{error}"));
    }
    let described = architecture::find(name).unwrap_or_else(|| panic!("there is no architecture {name}"));
    models::build(described, CLASSES, 0)
}

fn open(args: &Args, side: u32, classes: u32, device: Device) -> Loader {
    let options = LoaderOptions {
        side,
        framing: Framing::Whole,
        batch_size: args.batch,
        shard: Shard::WHOLE,
        seed: 0,
        memory_limit: u64::MAX,
        device,
    };
    let images: Arc<dyn Images> = match &args.data {
        Some(path) => {
            let dataset = Dataset::open(path, &DatasetOptions::default()).unwrap_or_else(|error| panic!("{error}"));
            let split = dataset.train_split(None).unwrap_or_else(|error| panic!("{error}"));
            let images = dataset.split(&split).unwrap_or_else(|error| panic!("{error}"));
            let positions = spread(images.labels(), args.batch as usize * 16);
            Arc::new(Subset::new(images, positions))
        }
        None => Arc::new(Noise((0..args.batch * 16).map(|index| index % classes).collect())),
    };
    Loader::open(images, options).unwrap_or_else(|error| panic!("{error}"))
}

/// Images of random bytes with these labels.
#[derive(Debug)]
struct Noise(Vec<u32>);

impl Images for Noise {
    fn labels(&self) -> &[u32] {
        &self.0
    }

    fn read(&self, index: usize, _: &Frame<'_>, _: u32, planes: &mut [u8]) -> Result<(), Error> {
        let mut state = index as u64 + 1;
        for byte in planes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        Ok(())
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        take(&index.to_le_bytes());
        Ok(())
    }
}
