//! Decodes the images of data sets in the background, one data set at a time, and keeps the statistics.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::AppState;
use super::datasets::Located;
use super::error::ApiError;
use crate::dataset::{Dataset, DatasetOptions, DatasetStatistics, ReadProgress, StatisticsLimits};
use crate::db::datasets;

/// Most images that are decoded of each split, and compared of each data set, which takes 112 MB. ImageNet-1k has
/// 145 GiB.
const LIMITS: StatisticsLimits =
    StatisticsLimits { decoded: 100_000, compared: 4_000_000, bytes: 160 << 30, time: Duration::from_secs(3600) };
/// Most threads that decode. They are also at most half of the processors, because the API needs the others.
const MOST_THREADS: usize = 4;
/// How long a request waits for statistics that it has begun to make.
const BRIEFLY: Duration = Duration::from_secs(1);
/// Data sets whose statistics are kept in memory.
const KEPT: usize = 64;

/// The statistics of a data set, or why there are none.
type DecodeOutcome = Result<Arc<DatasetStatistics>, String>;

/// A data set whose images are being decoded or were.
#[derive(Debug, Clone)]
enum Decoding {
    Running(Arc<ReadProgress>),
    Done(DecodeOutcome),
}

/// What is known of the images of a data set.
#[derive(Debug)]
pub enum FoundStatistics {
    Known(DatasetStatistics),
    /// Why there are none.
    Fault(String),
    Reading(Arc<ReadProgress>),
}

/// The data sets that this process decodes or has decoded.
#[derive(Debug)]
pub struct StatisticsTasks {
    /// By version of the data.
    known: Mutex<HashMap<String, Decoding>>,
    /// By version of the data, why its files could not be fetched the last time. Every request tries again.
    unfetched: Mutex<HashMap<String, String>>,
    /// Changes whenever images are no longer being decoded.
    ended: watch::Sender<()>,
    turn: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
}

impl Default for StatisticsTasks {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            unfetched: Mutex::default(),
            ended: watch::Sender::default(),
            turn: Arc::new(Semaphore::new(1)),
            stop: Arc::default(),
        }
    }
}

impl StatisticsTasks {
    /// The state of a data set, and whether the caller must decode the images, because nobody has begun.
    fn known_or_begin(&self, version: &str) -> (Decoding, bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(version) {
            return (found.clone(), false);
        }
        if known.len() >= KEPT {
            known.retain(|_, found| matches!(found, Decoding::Running(_)));
        }
        let begun = Decoding::Running(Arc::default());
        known.insert(version.to_owned(), begun.clone());
        (begun, true)
    }

    /// Notes why the files could not be fetched, or that they could.
    fn fetched(&self, version: &str, fault: Option<String>) {
        let mut unfetched = self.unfetched.lock().unwrap_or_else(PoisonError::into_inner);
        if unfetched.len() >= KEPT {
            unfetched.clear();
        }
        match fault {
            Some(fault) => drop(unfetched.insert(version.to_owned(), fault)),
            None => drop(unfetched.remove(version)),
        }
    }

    fn fetch_fault(&self, version: &str) -> Option<String> {
        self.unfetched.lock().unwrap_or_else(PoisonError::into_inner).get(version).cloned()
    }

    fn keep(&self, version: &str, outcome: Option<DecodeOutcome>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Some(outcome) => drop(known.insert(version.to_owned(), Decoding::Done(outcome))),
            // The next request begins again.
            None => drop(known.remove(version)),
        }
        drop(known);
        self.ended.send_replace(());
    }

    fn get(&self, version: &str) -> Option<Decoding> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(version).cloned()
    }

    fn is_running(&self, version: &str) -> bool {
        matches!(self.get(version), Some(Decoding::Running(_)))
    }
}

/// What a request is told of images.
#[derive(Debug)]
pub enum Told {
    Known(DatasetStatistics),
    /// Why nothing is known, and whether that passes by itself.
    Unknown {
        why: String,
        is_passing: bool,
    },
}

impl From<FoundStatistics> for Told {
    fn from(found: FoundStatistics) -> Self {
        match found {
            FoundStatistics::Known(statistics) => Self::Known(statistics),
            FoundStatistics::Fault(why) => Self::Unknown { why, is_passing: false },
            FoundStatistics::Reading(progress) => {
                let read = match progress.get() {
                    [_, 0] => "begun to read them".to_owned(),
                    [read, images] => format!("read {read} of {images}"),
                };
                let why = format!("the server has {read}. Check again later, or wait for `statistics`");
                Self::Unknown { why, is_passing: true }
            }
        }
    }
}

/// What one request is told of the images of data sets: the same of each whenever it asks, however far the server reads
/// meanwhile. So the combinations of a sweep agree, and none begins again what has failed for another.
#[derive(Debug)]
pub struct Looks {
    /// When the request no longer waits for statistics.
    pub until: Instant,
    /// By version of the data.
    told: HashMap<String, Told>,
}

impl Looks {
    /// For a request that looks from now on.
    pub fn from_now() -> Self {
        Self { until: Instant::now() + BRIEFLY, told: HashMap::new() }
    }

    /// What is told of a version: what is found now, unless the request was told before.
    pub async fn of(&mut self, version: &str, found: impl Future<Output = FoundStatistics>) -> &Told {
        match self.told.entry(version.to_owned()) {
            Entry::Occupied(told) => told.into_mut(),
            Entry::Vacant(free) => free.insert(found.await.into()),
        }
    }
}

/// The statistics of a data set if its images have been decoded. `version` identifies the files.
pub fn known(state: &AppState, located: &Located, version: &str) -> Option<DatasetStatistics> {
    let stored = located.uploaded().and_then(|upload| upload.statistics.as_ref());
    if let Some(statistics) = stored.and_then(|stored| serde_json::from_value(stored.clone()).ok()) {
        return Some(statistics);
    }
    match state.statistics.get(version) {
        Some(Decoding::Done(Ok(statistics))) => Some((*statistics).clone()),
        _ => None,
    }
}

/// The statistics of a data set. The first call begins to decode the images. `version` identifies the files.
pub fn of(state: &AppState, located: &Located, version: &str) -> FoundStatistics {
    if let Some(stored) = located.uploaded().and_then(|upload| upload.statistics.as_ref())
        // Statistics of another format, from another version of this program, are computed again.
        && let Ok(statistics) = serde_json::from_value(stored.clone())
    {
        return FoundStatistics::Known(statistics);
    }
    let (known, is_mine) = state.statistics.known_or_begin(version);
    match known {
        Decoding::Done(Ok(statistics)) => FoundStatistics::Known((*statistics).clone()),
        Decoding::Done(Err(fault)) => FoundStatistics::Fault(fault),
        Decoding::Running(progress) => {
            if is_mine {
                tokio::spawn(decode(state.clone(), located.clone(), version.to_owned(), progress.clone()));
            }
            let fault = state.statistics.fetch_fault(version);
            fault.map_or(FoundStatistics::Reading(progress), FoundStatistics::Fault)
        }
    }
}

/// The same, but the first call waits until then, because a small data set is decoded at once.
pub async fn soon(state: &AppState, located: &Located, version: &str, until: Instant) -> FoundStatistics {
    let tasks = &state.statistics;
    let mut ended = tasks.ended.subscribe();
    let is_begun = tasks.is_running(version);
    let found = of(state, located, version);
    if is_begun || !matches!(found, FoundStatistics::Reading(_)) {
        return found;
    }
    let end = ended.wait_for(|()| !tasks.is_running(version));
    if tokio::time::timeout_at(until, end).await.is_err() {
        return found;
    }
    match tasks.get(version) {
        Some(Decoding::Done(Ok(statistics))) => FoundStatistics::Known((*statistics).clone()),
        Some(Decoding::Done(Err(fault))) => FoundStatistics::Fault(fault),
        _ => tasks.fetch_fault(version).map_or(found, FoundStatistics::Fault),
    }
}

async fn decode(state: AppState, located: Located, version: String, progress: Arc<ReadProgress>) {
    let Ok(_turn) = state.statistics.turn.clone().acquire_owned().await else { return };
    let files = match located.files(&state).await {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(version, ?error, "cannot get the files of a data set to decode its images");
            // Whoever waits for the statistics should know what does not pass by itself.
            let fault = match error {
                ApiError::Conflict(reason) | ApiError::Gone(reason) => Some(reason.into_owned()),
                _ => None,
            };
            state.statistics.fetched(&version, fault);
            state.statistics.keep(&version, None);
            return;
        }
    };
    state.statistics.fetched(&version, None);
    let id = located.uploaded().map(|upload| upload.id.clone());
    let (stop, follow_links) = (state.statistics.stop.clone(), state.settings.follow_links && id.is_none());
    let base = files.base().to_owned();
    let decoding = tokio::task::spawn_blocking(move || {
        let options = DatasetOptions { follow_links, ..DatasetOptions::default() };
        let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).clamp(1, MOST_THREADS);
        Dataset::open(&files.path, &options)?.statistics(LIMITS, threads, &stop, &progress)
    });
    let outcome = tokio::select! {
        outcome = decoding => outcome,
        () = state.stopping.cancelled() => {
            state.statistics.stop.store(true, Ordering::Relaxed);
            return;
        }
    };
    let outcome = match outcome {
        Ok(Ok(Some(statistics))) => Some(Ok(Arc::new(statistics))),
        Ok(Ok(None)) => None,
        Ok(Err(error)) if error.is_users() => Some(Err(error.relative_to(&base))),
        Ok(Err(error)) => {
            tracing::warn!(version, %error, "cannot read a data set to decode its images");
            None
        }
        Err(error) => {
            tracing::error!(version, %error, "decoding the images of a data set failed");
            Some(Err("decoding its images failed: the server's log has the reason".to_owned()))
        }
    };
    if let (Some(id), Some(Ok(statistics))) = (id, &outcome) {
        let stored = serde_json::to_value(&**statistics).unwrap_or(Value::Null);
        if let Err(error) = datasets::set_statistics(&state.pool, &id, &stored).await {
            tracing::warn!(id, %error, "cannot store the statistics of a data set");
        }
    }
    state.statistics.keep(&version, outcome);
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn a_request_is_told_the_same_of_a_version_whenever_it_asks() {
        let mut looks = Looks::from_now();
        let reading = || FoundStatistics::Reading(Arc::default());
        let fault = || FoundStatistics::Fault("its file is lost".to_owned());
        let shown = |told: &Told| format!("{told:?}");
        let first = shown(looks.of("one", ready(reading())).await);
        assert!(first.contains("begun to read them") && first.contains("is_passing: true"), "{first}");
        assert_eq!(shown(looks.of("one", ready(fault())).await), first);
        let other = shown(looks.of("two", ready(fault())).await);
        assert!(other.contains("its file is lost") && other.contains("is_passing: false"), "{other}");
    }
}
