//! Flags of the commands that use a server over its HTTP API, wherever it runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;
use distillery_core::export::ExportFormat;

use super::connection::{ConnectionArgs, idempotency_key};
use super::constraints::ConstraintArgs;
use super::ids::{architecture_or_id, file_or_id, job_id, sweep_id};
use super::sweep::SweepCommand;

/// The commands that use a server. They need neither its database nor its files.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Write a first job from a data set of the server and a teacher, and check it.
    Init(InitArgs),
    /// Post a job, and print its id.
    Submit(SubmitArgs),
    /// Follow a job until it has ended. Ctrl-C ends this command and not the job.
    Watch(OneJobArgs),
    /// List jobs, newest first, or show one.
    Jobs(JobsArgs),
    /// Print a job's history: changes of its status, log lines, warnings.
    Logs(LogsArgs),
    /// Download a job's student or another of its files. An interrupted download continues where it stopped.
    Download(DownloadArgs),
    /// Upload a checkpoint, an exported network or a data set, and print its id. An interrupted upload of a data set
    /// continues where it stopped.
    Upload(UploadArgs),
    /// Cancel jobs. A running job stops at its next step.
    Cancel(JobIdsArgs),
    /// Pause jobs. A running job writes a checkpoint and frees its device.
    Pause(JobIdsArgs),
    /// Resume paused jobs from their checkpoints.
    Resume(JobIdsArgs),
    /// Retry failed and cancelled jobs from their checkpoints.
    Retry(JobIdsArgs),
    /// Change a job's name, labels, priority or notes.
    Edit(EditArgs),
    /// Post sets of jobs that differ in a few settings, show their results, and control them.
    #[command(subcommand)]
    Sweep(SweepCommand),
    /// Open the dashboard, or a job's page on it, in a browser.
    Open(OpenArgs),
    /// Print a script that completes this program's commands and flags in a shell.
    Completions {
        /// The shell to complete commands in.
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Clone, Args)]
pub struct SubmitArgs {
    /// The job's document; - reads it from standard input.
    pub job: PathBuf,
    /// Follow the job until it has ended, as `watch` does.
    #[arg(long, env = "DISTILLERY_WATCH")]
    pub watch: bool,
    /// Check the document, fill in defaults and estimate memory and time, but create no job.
    #[arg(long, env = "DISTILLERY_SUBMIT_DRY_RUN", conflicts_with = "watch")]
    pub dry_run: bool,
    /// Tell this webhook of the server when the job has ended. Can be repeated. The error for a wrong name lists
    /// all names.
    #[arg(long, env = "DISTILLERY_SUBMIT_WEBHOOK", value_name = "NAME", value_delimiter = ',')]
    pub webhook: Vec<String>,
    /// Posting the same document twice with the same key creates one job. Default: a new key for each call.
    #[arg(long, env = "DISTILLERY_IDEMPOTENCY_KEY", value_name = "KEY", value_parser = idempotency_key)]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    pub constraints: ConstraintArgs,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct OneJobArgs {
    /// Id of the job, `job_…`.
    #[arg(value_parser = job_id)]
    pub id: String,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct JobIdsArgs {
    /// Ids of jobs, `job_…`.
    #[arg(required = true, value_name = "ID", value_parser = job_id)]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct EditArgs {
    /// Id of the job, `job_…`.
    #[arg(value_parser = job_id)]
    pub id: String,
    #[command(flatten)]
    pub edits: JobEdits,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// What to change about a job; at least one.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub struct JobEdits {
    /// New name.
    #[arg(long, env = "DISTILLERY_EDIT_NAME")]
    pub name: Option<String>,
    /// Set a label. Can be repeated; other labels stay.
    #[arg(long, env = "DISTILLERY_EDIT_LABEL", value_name = "KEY:VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Remove a label. Can be repeated.
    #[arg(long, env = "DISTILLERY_EDIT_REMOVE_LABEL", value_name = "KEY")]
    pub remove_label: Vec<String>,
    /// New priority: jobs with a higher one run first.
    #[arg(long, env = "DISTILLERY_EDIT_PRIORITY", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Notes, which replace the present ones; an empty text removes them.
    #[arg(long, env = "DISTILLERY_EDIT_NOTES", value_name = "TEXT")]
    pub notes: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct JobsArgs {
    /// Show only this job, in detail.
    #[arg(value_parser = job_id, conflicts_with_all = ["status", "label", "sweep", "limit"])]
    pub id: Option<String>,
    /// Only jobs with this status. Can be repeated.
    #[arg(long, env = "DISTILLERY_JOBS_STATUS", value_delimiter = ',')]
    pub status: Vec<String>,
    /// Only jobs with this label. Can be repeated.
    #[arg(long, env = "DISTILLERY_JOBS_LABEL", value_name = "KEY:VALUE")]
    pub label: Vec<String>,
    /// Only jobs of this sweep.
    #[arg(long, env = "DISTILLERY_JOBS_SWEEP", value_name = "ID", value_parser = sweep_id)]
    pub sweep: Option<String>,
    /// Most jobs to list.
    #[arg(long, env = "DISTILLERY_JOBS_LIMIT", value_name = "JOBS", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Id of the job, `job_…`.
    #[arg(value_parser = job_id)]
    pub id: String,
    /// Keep printing new entries until the job has ended.
    #[arg(long, short, env = "DISTILLERY_FOLLOW")]
    pub follow: bool,
    /// Begin with this number of the newest entries instead of the first.
    #[arg(long, env = "DISTILLERY_TAIL", value_name = "ENTRIES")]
    pub tail: Option<usize>,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct DownloadArgs {
    /// Id of the job, `job_…`.
    #[arg(value_parser = job_id)]
    pub id: String,
    /// The file to write, a directory for it, or - for standard output. Default: the server's name for the file, here.
    #[arg(long, short, env = "DISTILLERY_DOWNLOAD_OUTPUT", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace an existing file.
    #[arg(long, env = "DISTILLERY_FORCE")]
    pub force: bool,
    /// Format of the student.
    #[arg(long, env = "DISTILLERY_FORMAT", value_enum, default_value_t)]
    pub format: ExportFormat,
    /// The best student, or the one after the last epoch.
    #[arg(long, env = "DISTILLERY_WHICH", value_parser = ["best", "last"], default_value = "best")]
    pub which: String,
    /// ONNX: normalise images in the graph, whose input is then RGB pixels in [0, 1].
    #[arg(long, env = "DISTILLERY_PREPROCESS")]
    pub preprocess: bool,
    /// Bundle: the formats in it. Default: safetensors, onnx and, for exported networks, pt2.
    #[arg(long = "with", env = "DISTILLERY_WITH", value_enum, value_delimiter = ',')]
    pub with: Vec<ExportFormat>,
    /// Instead of the student, this file of the job, such as `manifest.json`. The error for a wrong name lists all
    /// names.
    #[arg(long, env = "DISTILLERY_ARTIFACT", value_name = "NAME",
        conflicts_with_all = ["format", "which", "preprocess", "with"])]
    pub artifact: Option<String>,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// What an upload says about its file.
#[derive(Debug, Clone, Args)]
pub struct UploadFacts {
    /// Name of the checkpoint or the data set. Default: the file's or the directory's.
    #[arg(long, env = "DISTILLERY_UPLOAD_NAME")]
    pub name: Option<String>,
    /// The expected architecture. The server refuses another.
    #[arg(long, env = "DISTILLERY_UPLOAD_ARCHITECTURE")]
    pub architecture: Option<String>,
    /// The expected number of classes. The server refuses another.
    #[arg(long, env = "DISTILLERY_UPLOAD_NUM_CLASSES", value_name = "CLASSES")]
    pub num_classes: Option<u32>,
    /// For a file with several state dicts or networks: the key or prefix of the one to store.
    #[arg(long, env = "DISTILLERY_UPLOAD_STATE_DICT", value_name = "KEY")]
    pub state_dict: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct UploadArgs {
    /// A checkpoint (safetensors, `torch.save`), an exported network (`.pt2`), or a data set: a zip, a tar that may be
    /// compressed by gzip or zstd, or a directory. With --split, all shards of that split in their order: parquet
    /// files, or tars of WebDataset.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub facts: UploadFacts,
    /// The files are the shards of this split of the data set --name. They replace the split, and other splits stay.
    #[arg(long, env = "DISTILLERY_UPLOAD_SPLIT", value_name = "SPLIT")]
    pub split: Option<String>,
    /// Size of the pieces in which a data set is sent. A lost connection costs at most one of them.
    #[arg(long, env = "DISTILLERY_UPLOAD_PIECE_MIB", value_name = "MIB", default_value_t = 32,
        value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub piece_mib: u64,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct OpenArgs {
    /// Id of the job, `job_…`. Default: the list of jobs.
    #[arg(value_parser = job_id)]
    pub id: Option<String>,
    /// Print the address without opening it.
    #[arg(long, env = "DISTILLERY_PRINT")]
    pub print: bool,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Name of one of the server's data sets. The error for a wrong name lists all names.
    #[arg(long, env = "DISTILLERY_INIT_DATASET", value_name = "NAME")]
    pub dataset: String,
    /// The teacher: a file, which is uploaded, the id of a checkpoint (`ckpt_…`), or that of a job (`job_…`) whose
    /// student becomes the teacher.
    #[arg(long, env = "DISTILLERY_INIT_TEACHER", value_name = "FILE|ID", value_parser = file_or_id)]
    pub teacher: String,
    /// The student: an architecture, or the id of an exported network (`ckpt_…`). Default: the largest network of the
    /// teacher's family that has at most half of its parameters.
    #[arg(long, env = "DISTILLERY_INIT_STUDENT", value_name = "ARCHITECTURE|ID",
        value_parser = architecture_or_id)]
    pub student: Option<String>,
    /// The file to write.
    #[arg(long, short, env = "DISTILLERY_INIT_OUTPUT", value_name = "FILE", default_value = "job.json")]
    pub output: PathBuf,
    /// Write every field with its default, instead of those that are changed most often.
    #[arg(long, env = "DISTILLERY_INIT_FULL")]
    pub full: bool,
    /// Replace an existing file.
    #[arg(long, env = "DISTILLERY_FORCE")]
    pub force: bool,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once(':').ok_or("expected KEY:VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
