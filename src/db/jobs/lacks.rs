//! Why no running worker can take a job, and what to do about it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a queued job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The job of its teacher has not succeeded yet.
    Teacher,
    /// It is tried again after a pause.
    Backoff,
    /// No worker is running, or no running worker takes jobs.
    NoWorker,
    /// No worker that takes jobs knows the version of its specification.
    Version,
    /// No worker that takes jobs has as many devices as it asks for.
    Devices,
    /// No worker that takes jobs has its data set, or room for it if it was uploaded.
    Dataset,
    /// The workers that know it, with its devices and its data set, cannot run it; its history says why.
    Declined,
    /// As many jobs of its sweep run as may run at the same time.
    Sweep,
    /// Other jobs come first, or every worker is busy.
    Turn,
    /// A worker is free and is about to take it.
    Start,
}

/// Why no running worker can take a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    pub reason: WaitReason,
    /// The reason as a sentence, with what to do about it.
    pub detail: String,
}

impl Lack {
    /// The warning for the job's history, or for a dry run.
    #[must_use]
    pub fn warning(&self) -> String {
        format!("the job waits: {}", self.detail)
    }
}

/// What a new job needs of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// Version of the format of its specification.
    pub spec_version: i32,
    pub devices: i32,
    /// Name of the data set.
    pub dataset: &'a str,
    /// Bytes of the files of an uploaded data set; `None` for a directory.
    pub dataset_bytes: Option<i64>,
    /// The [fingerprint](crate::dataset::fingerprint) that its copy must have; `None` if any will do.
    pub fingerprint: Option<&'a str>,
}

/// Numbers of running workers from the SQL function `workers_for`. Each adds a condition to the one before.
pub(super) struct Workers {
    pub(super) running: i64,
    /// Those that take jobs.
    pub(super) working: i64,
    /// Why one of the others takes no jobs.
    pub(super) stopped_because: Option<String>,
    /// Those that know the version of the specification.
    pub(super) knowing: i64,
    pub(super) most_devices: i32,
    pub(super) with_devices: i64,
    /// Those with a data set of that name or, for an uploaded one, those that fetch data sets.
    pub(super) with_name: i64,
    /// Those whose copy has the fingerprint, or that have room for the upload.
    pub(super) with_dataset: i64,
    pub(super) willing: i64,
    /// Why a worker that could take this job takes none.
    pub(super) stopped_able_because: Option<String>,
}

impl Workers {
    /// Why none of them can take a job; `None` if one can.
    pub(super) fn lack(&self, needs: Needs<'_>) -> Option<Lack> {
        let Needs { spec_version, devices, .. } = needs;
        let lack = |reason, detail: String| Some(Lack { reason, detail });
        if self.running == 0 {
            let detail = "no worker is running: start one (distillery worker, or distillery serve with --workers)";
            return lack(WaitReason::NoWorker, detail.to_owned());
        }
        if self.working == 0 {
            let because = self.stopped_because.as_deref().unwrap_or("see the workers");
            return lack(WaitReason::NoWorker, format!("no running worker takes jobs: {because}"));
        }
        let because = self.stopped_able_because.as_ref();
        let stopped = because.map(|because| format!("the workers that could run it take no jobs: {because}"));
        if self.knowing == 0 {
            let known =
                || format!("no running worker knows version {spec_version} of specifications: update the workers");
            return lack(WaitReason::Version, stopped.unwrap_or_else(known));
        }
        if self.with_devices == 0 {
            let most = self.most_devices;
            let enough = || {
                format!(
                    "it asks for {devices} devices, and the largest running worker has {most}: start one with as many \
                     (distillery worker --device cuda:0,cuda:1,…), or lower training.devices"
                )
            };
            return lack(WaitReason::Devices, stopped.unwrap_or_else(enough));
        }
        if self.with_dataset == 0 {
            return lack(WaitReason::Dataset, stopped.unwrap_or_else(|| self.no_dataset(needs)));
        }
        let detail = "the running workers cannot run it: its events say why";
        (self.willing == 0).then(|| Lack { reason: WaitReason::Declined, detail: detail.to_owned() })
    }

    fn no_dataset(&self, Needs { devices, dataset, dataset_bytes, .. }: Needs<'_>) -> String {
        let large = if devices > 1 { format!(" with {devices} devices") } else { String::new() };
        if let Some(bytes) = dataset_bytes {
            return if self.with_name == 0 {
                format!(
                    "no running worker{large} fetches uploaded data sets: update it, or raise its --dataset-cache-mib"
                )
            } else {
                format!(
                    "no running worker{large} has room for the {bytes} bytes of the data set {dataset}: start one with a \
                     larger --dataset-cache-mib"
                )
            };
        }
        if self.with_name == 0 {
            return format!(
                "no running worker{large} has the data set {dataset}: copy it into the --datasets-dir of one"
            );
        }
        format!(
            "no running worker{large} has the data set {dataset} with the files that the server had when the job was \
             posted: make the copies the same, or cancel and retry the job to train on what the workers have"
        )
    }
}
