//! Where the time of a training step goes, and how far that is from what the machine allows: `cargo bench -p
//! distillery-trainer --bench step -- --pair resnet32x4 resnet8x4`.
//!
//! A step is timed whole and, in turn with that, in its phases. The images are random numbers, or those of `--data`.
//! With `--on-request` it measures a few steps for each line of standard input and answers with a line of JSON, so that
//! another program can measure in turn with it: `benches/compare.py`.

#[path = "../clock.rs"]
mod clock;
mod roofline;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use distillery::architecture;
use distillery::dataset::{Dataset, Error, Frame, Images, Options};
use distillery::protocol::{Event, Level};
use distillery::spec::{self, Mode};
use distillery_trainer::data::normalisation::Normalisation;
use distillery_trainer::data::{self, Batches, Crops, Framing, Loader, Shard};
use distillery_trainer::device;
use distillery_trainer::device::cuda::Tf32;
use distillery_trainer::loss::sdd::Distillation;
use distillery_trainer::models::{self, Network};
use distillery_trainer::ranks::Ranks;
use distillery_trainer::run::cuda_graphs::StepExecutor;
use distillery_trainer::run::metrics::Meter;
use distillery_trainer::run::optim::Optimizer;
use distillery_trainer::run::step::{Inputs, Objective, Phase, Rates, step};
use roofline::{Peaks, Work};
use serde_json::{Value, json};
use tch::{Device, Kind};

/// The pairs of the goal.
const PAIRS: [[&str; 2]; 4] =
    [["resnet32x4", "resnet8x4"], ["resnet56", "resnet20"], ["resnet32x4", "shufflenet_v1"], ["vgg13", "vgg8"]];
/// What a step consists of; the first is before it.
const PHASES: [&str; 7] = ["data", "teacher", "student", "loss", "backward", "optimiser", "metrics"];
const CLASSES: u32 = 100;
/// Steps before anything is measured.
const WARM_UP: usize = 3;

/// Times training steps.
#[derive(Debug, Parser)]
struct Args {
    /// Teacher and student; several times for several pairs. Default: four pairs of the paper's table.
    #[arg(long, num_args = 2, value_names = ["TEACHER", "STUDENT"], action = clap::ArgAction::Append)]
    pair: Vec<String>,
    /// `float32`, `tf32` (on a GPU) or `bfloat16`; several times for several.
    #[arg(long, num_args = 1.., default_values = ["float32", "bfloat16"])]
    precision: Vec<String>,
    /// The device: `cpu` or `cuda`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Record steps as CUDA graphs, where they are timed whole; batches are then made within a step.
    #[arg(long)]
    graphs: bool,
    /// Have cuDNN time several algorithms for each size.
    #[arg(long)]
    cudnn_benchmark: bool,
    /// Threads of the arithmetic. Default: all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Images of a batch.
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Steps that are timed whole, and as many in phases.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// The method of distillation.
    #[arg(long, default_value = "sdd_kd")]
    method: String,
    /// A data set, for real images.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Count the processor time of all threads, divided by their number, rather than the time that passes: on a machine
    /// that does other work as well.
    #[arg(long)]
    processor_time: bool,
    /// Print JSON, a line per pair and precision.
    #[arg(long)]
    json: bool,
    /// Measure `--steps` steps of the first pair for each line of standard input.
    #[arg(long)]
    on_request: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    device::idle_threads_sleep();
    device::prepare(args.threads.unwrap_or_else(device::cores));
    let device = device::open(&args.device).unwrap_or_else(|error| panic!("{error}"));
    tch::Cuda::cudnn_set_benchmark(args.cudnn_benchmark);
    let pairs: Vec<[&str; 2]> = match args.pair.as_slice() {
        [] => PAIRS.to_vec(),
        given => given.chunks_exact(2).map(|pair| [pair[0].as_str(), pair[1].as_str()]).collect(),
    };
    if args.on_request {
        answer_requests(&mut Measured::new(&args, pairs[0], &args.precision[0], device));
        return;
    }
    for precision in &args.precision {
        let (kind, tf32) = kind(precision);
        let _tf32 = Tf32::set(tf32);
        let peaks = Peaks::measure(kind, device, || wait(device), Clock { processor: args.processor_time });
        if !args.json {
            println!(
                "\n{precision} on {}, {} threads, batch {}: peaks {:.0} GMAC/s, {:.1} GB/s",
                device::name(device),
                tch::get_num_threads(),
                args.batch,
                peaks.macs_per_second / 1e9,
                peaks.bytes_per_second / 1e9
            );
        }
        for &pair in &pairs {
            let mut measured = Measured::new(&args, pair, precision, device);
            let report = measured.report(peaks);
            if args.json { println!("{report}") } else { print(&report) }
        }
    }
}

/// What maps are computed in, and whether float32 is multiplied with fewer bits.
fn kind(precision: &str) -> (Kind, bool) {
    match precision {
        "float32" => (Kind::Float, false),
        "tf32" => (Kind::Float, true),
        "bfloat16" => (Kind::BFloat16, false),
        other => panic!("precision {other:?} is unknown: use float32, tf32 or bfloat16"),
    }
}

fn wait(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// A training of one pair, stopped wherever one looks.
struct Measured {
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
    fn new(args: &Args, [teacher, student]: [&str; 2], precision: &str, device: Device) -> Self {
        let executor = StepExecutor::new(device, args.graphs);
        let (kind, tf32) = kind(precision);
        let document = json!({
            "teacher": {"architecture": teacher, "checkpoint": "random"},
            "student": {"architecture": student},
            "dataset": {"path": "random"},
            "distillation": {"method": args.method},
        });
        let spec = spec::parse(&document, Mode::Local).unwrap_or_else(|faults| panic!("{faults:?}"));
        let loader = open(args, spec.dataset.image_size, device);
        let (mean, std) = loader.mean_std();
        let mut teacher = build(teacher);
        teacher.place(device, Kind::Float);
        teacher.compute_in(kind);
        teacher.freeze(args.batch, spec.dataset.image_size);
        let mut student = build(student);
        student.place(device, Kind::Float);
        student.compute_in(kind);
        let trained = student.weights().iter().filter(|weight| weight.trained);
        let parameters = trained.map(|weight| (weight.name.clone(), weight.tensor.shallow_clone())).collect();
        Self {
            precision: precision.to_owned(),
            _tf32: Tf32::set(tf32),
            graphs: args.graphs,
            executor,
            clock: Clock { processor: args.processor_time },
            pair: [teacher.architecture().name, student.architecture().name].map(str::to_owned),
            batch_size: args.batch,
            steps: args.steps,
            device,
            batches: loader.epoch(0, 0),
            crops: Crops::of_view(0, 0, [loader.len(), u64::from(spec.dataset.image_size)], device),
            loader,
            optimizer: Optimizer::new(&spec.training.optimizer, parameters),
            meter: Meter::new(&spec.distillation.scales, device),
            objective: Objective {
                normalisation: Normalisation::new(mean, std, device),
                teacher_normalisation: None,
                batch_size: args.batch,
                teacher: Some(teacher),
                distillation: Distillation::new(&spec.distillation, device),
                cross_entropy: spec.distillation.weights.cross_entropy,
                weight: spec.distillation.weights.distillation,
                clip: spec.training.clip_grad_norm,
            },
            student,
            number: 0,
        }
    }

    fn inputs(&mut self) -> Inputs {
        let loaded = loop {
            match self.batches.next() {
                Some(batch) => break batch.expect("the images can be read"),
                None => self.batches = self.loader.epoch(0, 0),
            }
        };
        self.number += 1;
        Inputs {
            parts: Some(self.crops.of_batch(0, 0, &loaded.indices)),
            images: loaded.images,
            labels: loaded.labels,
            logits: None,
            // At a rate of nothing: what is measured are numbers of the size that training begins with, however many steps.
            rates: Rates::new(0.0, self.objective.weight, self.number, self.device),
        }
    }

    fn step(&mut self, inputs: &Inputs, ended: impl FnMut(Phase)) {
        let Self { student, objective, optimizer, meter, .. } = self;
        let _ = step(student, objective, optimizer, meter, &mut Ranks::alone(), inputs, ended);
    }

    /// Milliseconds of each of some steps. On a GPU they are issued one after the other, as in training, and take the same
    /// time each, with the making of their batches; on the CPU that is left out.
    fn several(&mut self) -> Vec<f64> {
        if self.device == Device::Cpu {
            return (0..self.steps).map(|_| self.whole()).collect();
        }
        wait(self.device);
        let begun = self.clock.now();
        for _ in 0..self.steps {
            let inputs = self.inputs();
            let Self { executor, student, objective, optimizer, meter, .. } = self;
            let _ = executor.run(student, objective, optimizer, meter, &mut Ranks::alone(), inputs);
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

    /// Milliseconds of a step, from where its images are normalised.
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

    /// Steps before anything is measured; on a GPU until graphs are recorded.
    fn warm_up(&mut self) {
        for _ in 0..WARM_UP {
            self.whole();
        }
        if self.device != Device::Cpu {
            self.several();
        }
    }

    fn report(&mut self, peaks: Peaks) -> Value {
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

/// Seconds since some moment.
#[derive(Debug, Clone, Copy)]
struct Clock {
    processor: bool,
}

impl Clock {
    fn now(self) -> f64 {
        let threads = if self.processor { tch::get_num_threads() } else { 1 };
        clock::seconds(self.processor) / f64::from(threads)
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn build(name: &str) -> Network {
    let described = architecture::find(name).unwrap_or_else(|| panic!("there is no architecture {name}"));
    models::build(described, CLASSES, 0)
}

fn print(report: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let [teacher, student] = [0, 1].map(|index| report["pair"][index].as_str().unwrap_or_default());
    println!(
        "{teacher} → {student}: {:.1} ms a step (phases add up to {:.1}), at least {:.1}: {:.0} % of the limit",
        number(&report["step_ms"]),
        number(&report["sum_ms"]),
        number(&report["least_ms"]),
        100.0 * number(&report["share"])
    );
    for phase in PHASES {
        let least = report["bounds"][phase]["least_ms"].as_f64();
        let least = least.map_or(String::new(), |least| format!(" at least {least:7.1}"));
        println!("    {phase:<10} {:7.1}{least}", number(&report["phases_ms"][phase]));
    }
}

fn answer_requests(measured: &mut Measured) {
    measured.warm_up();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            return;
        }
        println!("{}", json!(measured.several()));
        std::io::stdout().flush().expect("somebody reads it");
    }
}

fn open(args: &Args, side: u32, device: Device) -> Loader {
    let options = data::Options {
        side,
        framing: Framing::Whole,
        limit: Some(u64::from(args.batch) * 16),
        batch_size: args.batch,
        shard: Shard::WHOLE,
        seed: 0,
        memory_limit: u64::MAX,
        device,
    };
    let images: Arc<dyn Images> = match &args.data {
        Some(path) => {
            let dataset = Dataset::open(path, &Options::default()).unwrap_or_else(|error| panic!("{error}"));
            let split = dataset.train_split(None).unwrap_or_else(|error| panic!("{error}"));
            dataset.split(&split).unwrap_or_else(|error| panic!("{error}")).into()
        }
        None => Arc::new(Noise((0..args.batch * 16).map(|index| index % CLASSES).collect())),
    };
    Loader::open(images, options).unwrap_or_else(|error| panic!("{error}"))
}

/// Images of random bytes, with their labels.
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
}
