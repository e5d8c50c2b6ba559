//! Flags of the commands that the trainer runs: `train`, `verify`, `evaluate`, `convert`, `inspect` and `doctor`; and
//! the format of log lines, which all commands have.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;

use crate::dataset::MeanStd;
pub use crate::spec::EvalCrop;
use crate::spec::FINEST_SCALE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The job specification, a JSON file: the body of `POST /v1/jobs`, or the same with `dataset.path` and with files
    /// as checkpoints.
    pub spec: PathBuf,
    /// Directory of the data set, instead of the specification's. A data set that has only a name is also looked for
    /// below --datasets-dir.
    #[arg(long, env = "DISTILLERY_DATASET")]
    pub dataset: Option<PathBuf>,
    /// Directory whose subdirectories are the data sets that specifications name.
    #[arg(long, env = "DISTILLERY_DATASETS_DIR")]
    pub datasets_dir: Option<PathBuf>,
    /// The teacher's checkpoint, instead of the specification's: a file, where that names an id or a job.
    #[arg(long, env = "DISTILLERY_TEACHER")]
    pub teacher: Option<PathBuf>,
    /// The exported network whose weights the teacher's checkpoint has.
    #[arg(long, env = "DISTILLERY_TEACHER_NETWORK")]
    pub teacher_network: Option<PathBuf>,
    /// The checkpoint that the student starts from, instead of the specification's, or the exported network to train.
    #[arg(long, env = "DISTILLERY_STUDENT")]
    pub student: Option<PathBuf>,
    /// Directory for the students, the manifest, the metrics and the state to resume from. Running the same command
    /// again resumes the run, and changes nothing once it has finished. One run at a time may write to it. Not in the
    /// data set's directory, and not where a result would replace the teacher or another input.
    #[arg(long, short, env = "DISTILLERY_OUTPUT")]
    pub output: PathBuf,
    /// Write events to standard output, one JSON object per line, instead of progress for people.
    #[arg(long, env = "DISTILLERY_EVENTS")]
    pub events: bool,
    /// Read commands from standard input, one JSON object per line, and exit at its end.
    #[arg(long, env = "DISTILLERY_SUPERVISED")]
    pub supervised: bool,
    /// With --supervised, follow symbolic links that lead out of the data set's directory. Without, they are always
    /// followed.
    #[arg(long, env = "DISTILLERY_FOLLOW_LINKS")]
    pub follow_links: bool,
    /// Stop once this many epochs are done, as if paused then: the same command with a later epoch, or without this
    /// flag, continues to the same students. Successive halving compares jobs at such stops.
    #[arg(long, env = "DISTILLERY_PAUSE_AFTER", value_name = "EPOCHS",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub pause_after: Option<u32>,
    /// Number of this attempt at the job, for the manifest.
    #[arg(long, env = "DISTILLERY_ATTEMPT", default_value_t = 1)]
    pub attempt: u32,
    /// Directory for the teacher's logits and decoded images, which later runs with the same teacher and data reuse.
    /// Several runs can share it at the same time. Without it, logits are kept in memory until the end of the run.
    #[arg(long, env = "DISTILLERY_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Size limit, in MiB, of the cache directory, or of the cache in memory without one. The least recently used
    /// entries are evicted.
    #[arg(long, env = "DISTILLERY_CACHE_MIB", default_value_t = 4096)]
    pub cache_mib: u64,
    /// Keep the teacher's logits in the cache directory at these scales, too, such as 1,2,4: runs with other scales
    /// then find them there. The student is the same.
    #[arg(long, env = "DISTILLERY_CACHE_SCALES", value_delimiter = ',', value_name = "SCALES",
        value_parser = clap::value_parser!(u32).range(1..=FINEST_SCALE))]
    pub cache_scales: Vec<u32>,
    /// On a GPU, issue the operations of each training step one by one instead of replaying a recorded CUDA graph.
    /// Slower; the student is the same.
    #[arg(long, env = "DISTILLERY_NO_CUDA_GRAPHS")]
    pub no_cuda_graphs: bool,
    /// Use kernels of our own instead of libtorch's operators: one crops and normalises the images of a batch, one
    /// computes the distillation loss with its gradient, for kd, dkd and nkd at any scales, and on a GPU four compute
    /// the student's batch norms with the sum and the ReLU behind them. On a GPU they are compiled first, which takes
    /// some seconds, and no GPU has run them yet. The student differs by rounding.
    #[arg(long, env = "DISTILLERY_OWN_KERNELS")]
    pub own_kernels: bool,
    /// Write no images of the data set: neither samples.safetensors, without which exports of the students are not
    /// checked and have no int8 form, nor the pictures in predictions.safetensors.
    #[arg(long, env = "DISTILLERY_NO_SAMPLES")]
    pub no_samples: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The manifest.json of a finished run. The state from which its last epoch started, before-last-epoch.safetensors,
    /// must be in the same directory.
    pub manifest: PathBuf,
    /// Repeat the whole run from its first step instead of its last epoch.
    #[arg(long, env = "DISTILLERY_FULL")]
    pub full: bool,
    /// Directory of the data set. Default: the directory that the run used.
    #[arg(long, env = "DISTILLERY_DATASET")]
    pub dataset: Option<PathBuf>,
    /// The teacher's checkpoint. Default: the file that the run used.
    #[arg(long, env = "DISTILLERY_TEACHER")]
    pub teacher: Option<PathBuf>,
    /// The exported network whose weights the teacher's checkpoint has, if any. Default: the file that the run used.
    #[arg(long, env = "DISTILLERY_TEACHER_NETWORK")]
    pub teacher_network: Option<PathBuf>,
    /// The checkpoint that the student started from, if any. Default: the file that the run used.
    #[arg(long, env = "DISTILLERY_STUDENT")]
    pub student: Option<PathBuf>,
    /// The exported network whose weights the student's checkpoint has, if any. Default: the file that the run used.
    #[arg(long, env = "DISTILLERY_STUDENT_NETWORK")]
    pub student_network: Option<PathBuf>,
    /// The device. Default: that of the attempt that trained the last epoch.
    #[arg(long, env = "DISTILLERY_DEVICE")]
    pub device: Option<String>,
    /// Threads for computation on the CPU. Default: as many as the attempt that trained the last epoch used.
    #[arg(long, env = "DISTILLERY_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Debug, Clone, Args)]
pub struct EvaluateArgs {
    /// The architecture: a name from `GET /v1/architectures`. Default: the one that the checkpoint's metadata name, or
    /// the only one that it fits. Exported networks have none.
    #[arg(long, env = "DISTILLERY_ARCHITECTURE")]
    pub architecture: Option<String>,
    /// The exported network whose weights the checkpoint has, such as a student's.
    #[arg(long, env = "DISTILLERY_NETWORK", conflicts_with = "architecture")]
    pub network: Option<PathBuf>,
    /// The checkpoint: safetensors, a file written by torch.save, or a network that torch.export.save wrote.
    #[arg(long, env = "DISTILLERY_CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// Directory of the data set.
    #[arg(long, env = "DISTILLERY_DATASET")]
    pub dataset: PathBuf,
    /// The split to evaluate on. Default: the first of test, val and validation that exists, in any usual spelling.
    #[arg(long, env = "DISTILLERY_SPLIT")]
    pub split: Option<String>,
    /// Per-channel mean of pixel values in [0, 1]: three numbers separated by commas. Default: from the checkpoint's
    /// metadata, or else the mean of the training split.
    #[arg(long, env = "DISTILLERY_MEAN", value_parser = parse_mean, requires = "std", allow_hyphen_values = true)]
    pub mean: Option<[f64; 3]>,
    /// Per-channel standard deviation of pixel values in [0, 1]: three numbers separated by commas. Requires --mean.
    #[arg(long, env = "DISTILLERY_STD", value_parser = parse_std, requires = "mean")]
    pub std: Option<[f64; 3]>,
    /// Side, in pixels, to which images are resized. Default: from the checkpoint's metadata, or else the
    /// architecture's own input size.
    #[arg(long, env = "DISTILLERY_IMAGE_SIZE", value_parser = clap::value_parser!(u32).range(8..=1024))]
    pub image_size: Option<u32>,
    /// Part of each image to use. Default: from the checkpoint's metadata, or else the whole image.
    #[arg(long, env = "DISTILLERY_CROP")]
    pub crop: Option<EvalCrop>,
    /// Use the centre of each image, after its shorter side was resized to this many pixels.
    /// Default: from the checkpoint's metadata, or else 8/7 of the image size (256 for 224).
    #[arg(long, env = "DISTILLERY_RESIZE", value_parser = clap::value_parser!(u32).range(8..=4096))]
    pub resize: Option<u32>,
    /// For a file with several state dicts: the key or prefix of the one to evaluate, such as state_dict_ema.
    #[arg(long, env = "DISTILLERY_STATE_DICT")]
    pub state_dict: Option<String>,
    /// Parquet only: the image column, if the schema leaves it ambiguous.
    #[arg(long, env = "DISTILLERY_IMAGE_COLUMN")]
    pub image_column: Option<String>,
    /// The label column of parquet files or a metadata.csv, if it is ambiguous.
    #[arg(long, env = "DISTILLERY_LABEL_COLUMN")]
    pub label_column: Option<String>,
    /// Also write a safetensors file with `logits` [images × classes, float32], in the order of the data set's files.
    /// It may replace another safetensors file, but no other file, and may not be in the data set's directory.
    #[arg(long, env = "DISTILLERY_LOGITS")]
    pub logits: Option<PathBuf>,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    /// Any supported checkpoint, or a network that torch.export.save wrote, of which the state dict is converted.
    pub input: PathBuf,
    /// The safetensors file to write. It may replace another safetensors file, but no other file, and not the input.
    pub output: PathBuf,
    /// For a file with several state dicts: the key or prefix of the one to convert, such as state_dict_ema.
    #[arg(long, env = "DISTILLERY_STATE_DICT")]
    pub state_dict: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// A network that torch.export.save wrote, or any supported checkpoint.
    pub input: PathBuf,
    /// For a file with several state dicts: the key or prefix of the one to describe, such as state_dict_ema.
    #[arg(long, env = "DISTILLERY_STATE_DICT")]
    pub state_dict: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// The devices that have to work: `auto` (all GPUs, or the CPU of a machine without one), `cpu`, `cuda`, `cuda:1`,
    /// or several separated by commas.
    #[arg(long, env = "DISTILLERY_DEVICE", default_value = "auto")]
    pub device: String,
    /// Check what jobs on GPUs need, but no GPU and no driver, as when an image is built on a machine without them.
    #[arg(long, env = "DISTILLERY_WITHOUT_GPU")]
    pub without_gpu: bool,
    /// Print JSON instead of lines for people.
    #[arg(long, env = "DISTILLERY_JSON")]
    pub json: bool,
    /// The architecture of a teacher: each GPU counts how many of its convolutions cuDNN fuses.
    #[arg(long, env = "DISTILLERY_ARCHITECTURE", default_value = "resnet32x4")]
    pub architecture: String,
    /// Side in pixels of the teacher's images.
    #[arg(long, env = "DISTILLERY_IMAGE_SIZE", default_value_t = 32, value_parser = clap::value_parser!(u32).range(8..=1024))]
    pub image_size: u32,
    /// Images of a training batch.
    #[arg(long, env = "DISTILLERY_BATCH_SIZE", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch_size: u32,
}

#[derive(Debug, Clone, Args)]
pub struct ComputeArgs {
    /// The device: `auto` (the first GPU, or the CPU of a machine without one), `cpu`, `cuda` or `cuda:1`. If
    /// training.devices asks for several, `auto`, `cpu` and `cuda` stand for that many; alternatively, list them
    /// separated by commas.
    #[arg(long, env = "DISTILLERY_DEVICE", default_value = "auto")]
    pub device: String,
    /// Threads for computation on the CPU. Default: all cores.
    #[arg(long, env = "DISTILLERY_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Memory for one split's decoded images, in MiB. A larger split is decoded again in every epoch; the limit then
    /// applies to what is unpacked of parquet files at a time.
    #[arg(long, env = "DISTILLERY_DATA_MEMORY_MIB", default_value_t = 4096)]
    pub data_memory_mib: u64,
}

fn parse_mean(text: &str) -> Result<[f64; 3], String> {
    parse_channels(text, &MeanStd::MEANS, "0.5071,0.4867,0.4408")
}

fn parse_std(text: &str) -> Result<[f64; 3], String> {
    parse_channels(text, &MeanStd::DEVIATIONS, "0.2675,0.2565,0.2761")
}

fn parse_channels(text: &str, valid: &RangeInclusive<f64>, example: &str) -> Result<[f64; 3], String> {
    let numbers: Result<Vec<f64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let channels: Option<[f64; 3]> = numbers.ok().and_then(|numbers| numbers.try_into().ok());
    let channels =
        channels.ok_or_else(|| format!("expected three numbers separated by commas, for example {example}"))?;
    if channels.iter().all(|value| valid.contains(value)) {
        return Ok(channels);
    }
    Err(format!(
        "each number must be from {} to {}: pixel values are in [0, 1], so divide what is meant for values up to 255 by \
         255, for example {example}",
        valid.start(),
        valid.end()
    ))
}
