//! Measures where the time of a training step goes, and how close it is to what the machine allows: `cargo bench -p
//! distillery-trainer --bench step -- --pair resnet32x4 resnet8x4`.
//!
//! Steps are timed as a whole and in phases, alternately. The images are random numbers, or those of `--data`. With
//! `--on-request` it measures a few steps for each line of standard input and answers with a line of JSON, so that
//! another program can take turns with it: `benches/compare.py` and, for exported networks, `benches/exported.py`.

#[path = "../clock.rs"]
mod clock;
mod measured;
mod roofline;

use std::io::{BufRead, Write};
use std::path::PathBuf;

use clap::Parser;
use distillery_trainer::device;
use distillery_trainer::device::cuda::Tf32;
use measured::{Clock, Measured, PHASES, is_file, kind, wait};
use roofline::Peaks;
use serde_json::{Value, json};

/// The default pairs, from the paper's table.
const PAIRS: [[&str; 2]; 4] =
    [["resnet32x4", "resnet8x4"], ["resnet56", "resnet20"], ["resnet32x4", "shufflenet_v1"], ["vgg13", "vgg8"]];

/// Times training steps.
#[derive(Debug, Parser)]
struct Args {
    /// Teacher and student; repeat it for several pairs. Default: four pairs of the paper's table. With `--on-request`
    /// also the files of exported networks (`.pt2`).
    #[arg(long, num_args = 2, value_names = ["TEACHER", "STUDENT"], action = clap::ArgAction::Append)]
    pair: Vec<String>,
    /// One or more of `float32`, `tf32` (on a GPU) and `bfloat16`.
    #[arg(long, num_args = 1.., default_values = ["float32", "bfloat16"])]
    precision: Vec<String>,
    /// The device: `cpu` or `cuda`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Record steps that are timed as a whole as CUDA graphs.
    #[arg(long)]
    graphs: bool,
    /// Crop and normalise images, and compute batch norms on a GPU and the distillation loss, by kernels of our own.
    #[arg(long)]
    own_kernels: bool,
    /// Let cuDNN time several algorithms for each size.
    #[arg(long)]
    cudnn_benchmark: bool,
    /// Threads that compute. Default: all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Images per batch.
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Steps to time as a whole, and as many again in phases.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// The distillation method.
    #[arg(long, default_value = "sdd_kd")]
    method: String,
    /// The scales of an `sdd_` method. Default: 1, 2 and 4, whatever the pair.
    #[arg(long, num_args = 1..)]
    scales: Vec<u32>,
    /// A data set with real images.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Measure the processor time of all threads, divided by their number, instead of the time that passes. For
    /// machines that do other work as well.
    #[arg(long)]
    processor_time: bool,
    /// Print JSON, one line per pair and precision.
    #[arg(long)]
    json: bool,
    /// Measure `--steps` steps of the first pair for each line of standard input.
    #[arg(long)]
    on_request: bool,
    /// Passed by `cargo bench`.
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
    if let Some(file) = pairs.iter().flatten().find(|name| is_file(name)) {
        panic!("{file}: there is no bound for exported networks: measure them with --on-request");
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

fn print(report: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let [teacher, student] = [0, 1].map(|index| report["pair"][index].as_str().unwrap_or_default());
    println!(
        "{teacher} → {student}: {:.2} ms per step (phases add up to {:.2}), bound {:.2}: {:.0} % of the limit",
        number(&report["step_ms"]),
        number(&report["sum_ms"]),
        number(&report["least_ms"]),
        100.0 * number(&report["share"])
    );
    for phase in PHASES {
        let least = report["bounds"][phase]["least_ms"].as_f64();
        let least = least.map_or(String::new(), |least| format!(" bound {least:8.2}"));
        println!("    {phase:<10} {:8.2}{least}", number(&report["phases_ms"][phase]));
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
        std::io::stdout().flush().expect("standard output is open");
    }
}
