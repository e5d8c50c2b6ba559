//! Measures how fast a streamed data set becomes batches, without training: `cargo bench -p distillery-trainer --bench
//! pipeline -- DIR --crop 224`. Prints a line of JSON, for `benches/pipeline.py`, which alternates with PyTorch's
//! loader.

#[path = "../clock.rs"]
mod clock;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use distillery_core::dataset::{Dataset, DatasetOptions};
use distillery_trainer::data::{Framing, Loader, LoaderOptions, Shard};
use distillery_trainer::device;
use serde_json::json;
use tch::Device;

/// Times an epoch of batches.
#[derive(Debug, Parser)]
struct Args {
    /// The data set whose training split is read.
    directory: PathBuf,
    /// Take a resized crop of this side. Default: whole images at 32×32.
    #[arg(long)]
    crop: Option<u32>,
    /// Images per batch.
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Threads that decode. Default: all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Memory in MiB for images that are unpacked in blocks.
    #[arg(long, default_value_t = 4096)]
    memory: u64,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    device::prepare(args.threads.unwrap_or_else(device::cores));
    let dataset = Dataset::open(&args.directory, &DatasetOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let images = dataset.split("train").unwrap_or_else(|error| panic!("{error}"));
    let options = LoaderOptions {
        side: args.crop.unwrap_or(32),
        framing: if args.crop.is_some() { Framing::ResizedCrop } else { Framing::Whole },
        batch_size: args.batch,
        shard: Shard::WHOLE,
        seed: 0,
        memory_limit: args.memory << 20,
        device: Device::Cpu,
    };
    let loader = Loader::stream(Arc::from(images), options).unwrap_or_else(|error| panic!("{error}"));
    let before = bytes_read();
    let mut batches = loader.epoch(0, 0);
    assert!(batches.next().is_some(), "the epoch has batches");
    let (begun, worked) = (clock::seconds(false), clock::seconds(true));
    let count: i64 = batches.map(|batch| batch.expect("the images can be read").labels.size()[0]).sum();
    println!(
        "{}",
        json!({
            "images": count,
            "seconds": clock::seconds(false) - begun,
            "processors": clock::seconds(true) - worked,
            "read_bytes": bytes_read() - before,
        })
    );
}

/// Bytes that this process has read from files so far, from the page cache or from disk.
fn bytes_read() -> u64 {
    let counters = std::fs::read_to_string("/proc/self/io").expect("the system counts the bytes that a process reads");
    let line = counters.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a count of characters read");
    line.trim().parse().expect("a number")
}
