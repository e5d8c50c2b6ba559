//! Fetches a job's uploaded data set to this machine, and reports the progress in the job's history.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::WorkerContext;
use super::failure::{AttemptError, on_disk, storage_failure};
use super::lease::LeaseState;
use super::record::{Recorder, held};
use crate::dataset_cache::{self, CopyProgress, LocalCopy};
use crate::db::datasets::{self, StoredDataset};
use crate::db::queue::{self, ReportBatch};
use crate::protocol::{ErrorClass, Failure, Level};

/// Time between two reports.
const REPORTS: Duration = Duration::from_secs(5);

/// This machine's copy of a data set: an existing one, or a new one. Ends early if the job is to stop.
pub(super) async fn fetch(
    context: &WorkerContext,
    id: &str,
    record: &Recorder<'_>,
    drain: &CancellationToken,
) -> Result<LocalCopy, AttemptError> {
    let Some(stored) = record.query(async |pool| datasets::stored(pool, id).await).await? else {
        let message = format!("the data set {id} no longer exists: upload it again");
        return Err(Failure { class: ErrorClass::User, message }.into());
    };
    let (start, is_fetched) = (Instant::now(), Cell::new(false));
    let latest = Cell::new(None);
    let note = |progress: CopyProgress| {
        is_fetched.set(is_fetched.get() || matches!(progress, CopyProgress::Fetched(_)));
        latest.set(Some(progress));
    };
    let mut getting = std::pin::pin!(context.settings.dataset_cache.get(&context.store, &stored, note));
    let mut lease = record.watch();
    let mut reports = tokio::time::interval_at(tokio::time::Instant::now() + REPORTS, REPORTS);
    let got = loop {
        match *lease.borrow_and_update() {
            LeaseState::Lost => return Err(AttemptError::Lost),
            LeaseState::Held(Some(_)) => return Err(AttemptError::Stopped),
            LeaseState::Held(None) if drain.is_cancelled() => return Err(AttemptError::Stopped),
            LeaseState::Held(None) => {}
        }
        tokio::select! {
            got = &mut getting => break got,
            _ = lease.changed() => {}
            () = drain.cancelled() => {}
            _ = reports.tick() => {
                if let Some((level, line)) = latest.take().map(|progress| describe(&stored, progress)) {
                    say(record, level, line).await?;
                }
            }
        }
    };
    let copy = got.map_err(|error| failure(&error))?;
    let seconds = start.elapsed().as_secs_f64();
    let line = if is_fetched.get() {
        let bytes = stored.size_bytes;
        format!("fetched the data set {id} from storage: {bytes} bytes with the right SHA-256, in {seconds:.1} s")
    } else {
        format!("this machine has a copy of the data set {id}")
    };
    say(record, Level::Info, line).await?;
    Ok(copy)
}

async fn say(record: &Recorder<'_>, level: Level, line: String) -> Result<(), AttemptError> {
    let batch = ReportBatch { logs: vec![(level, line)], ..ReportBatch::default() };
    record.persist(async |pool, write| held(queue::record(pool, write, &batch).await)).await
}

fn describe(stored: &StoredDataset, progress: CopyProgress) -> (Level, String) {
    let id = &stored.id;
    match progress {
        CopyProgress::Fetched(bytes) => {
            let size = stored.size_bytes;
            (Level::Info, format!("fetching the data set {id} from storage: {bytes} of {size} bytes"))
        }
        CopyProgress::Shared => (Level::Info, format!("another process on this machine is fetching the data set {id}")),
        CopyProgress::NoRoom => {
            let bytes = stored.unpacked_bytes;
            let line = format!(
                "there is no room for the {bytes} bytes of the data set {id}: running jobs use the other copies. This job \
                 waits; a larger --dataset-cache-mib makes room"
            );
            (Level::Warning, line)
        }
    }
}

fn failure(error: &dataset_cache::Error) -> Failure {
    match error {
        dataset_cache::Error::Stored(error) => storage_failure(error),
        dataset_cache::Error::Unreadable { .. } => Failure { class: ErrorClass::Storage, message: error.to_string() },
        dataset_cache::Error::TooLarge { .. } => Failure { class: ErrorClass::Machine, message: error.to_string() },
        dataset_cache::Error::Disk { path, source } => {
            Failure { class: ErrorClass::Machine, message: on_disk(path, source) }
        }
    }
}
