//! Every job that has not ended, as the messages that tell of it, shared by everybody who watches all jobs: a watcher
//! has a position and nothing else, and the database is queried once for all of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use utoipa::ToSchema;

use super::sse::{PACE, POLL_INTERVAL};
use crate::db;
use crate::db::jobs::Job;
use crate::db::listen::{Changed, Changes, Subscription};
use crate::protocol::Progress;

/// Jobs per query, and messages that a watcher takes at once.
const PAGE: usize = 100;
/// How many messages of jobs that have ended or are gone are kept for watchers that are behind.
const KEPT: usize = 1000;

/// Data of a `progress` message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// Id of the job.
    #[serde(rename = "id")]
    pub job: String,
    /// How far its training has come.
    #[serde(flatten)]
    #[schema(value_type = Progress)]
    pub progress: Value,
}

/// Data of a `deleted` message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// Id of the deleted job.
    pub id: String,
}

/// The board, while somebody watches it.
#[derive(Debug, Clone, Default)]
pub struct Boards(Arc<Mutex<Weak<Board>>>);

/// Dropped with the last watcher.
#[derive(Debug)]
pub struct Board {
    shared: Arc<Shared>,
    _reader: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    messages: Mutex<Messages>,
    /// Changes when there is something new. True once the first messages are there.
    news: watch::Sender<bool>,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub name: &'static str,
    /// JSON.
    pub data: Arc<str>,
}

impl Message {
    fn new(name: &'static str, data: &impl Serialize) -> Self {
        Self { name, data: serde_json::to_string(data).expect("messages can be written as JSON").into() }
    }
}

/// The messages by their position, which ascends. Of each job that has not ended there are the last status and the last
/// progress.
#[derive(Debug, Default)]
struct Messages {
    last: u64,
    by_position: BTreeMap<u64, Message>,
    jobs: BTreeMap<Arc<str>, JobMessages>,
    /// Positions of messages of jobs that have ended or are gone.
    past: VecDeque<u64>,
    /// Messages up to this position may be missing.
    forgotten: u64,
    /// When all jobs were last read, on the database's clock.
    read_at: Option<DateTime<Utc>>,
}

/// Where the messages of a job are.
#[derive(Debug)]
struct JobMessages {
    status: u64,
    progress: Option<u64>,
    /// Hash of the job without its progress.
    hash: u64,
}

impl Boards {
    /// The board, which starts with the first watcher.
    pub fn watch(&self, pool: &PgPool, changes: &Changes) -> Arc<Board> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(board) = current.upgrade() {
            return board;
        }
        let shared = Arc::new(Shared { messages: Mutex::default(), news: watch::Sender::new(false) });
        let reading = read_for_ever(shared.clone(), pool.clone(), changes.subscribe());
        let board = Arc::new(Board { shared, _reader: AbortOnDropHandle::new(tokio::spawn(reading)) });
        *current = Arc::downgrade(&board);
        board
    }
}

impl Board {
    /// Tells when there is something new; true once the first messages are there.
    pub fn news(&self) -> watch::Receiver<bool> {
        self.shared.news.subscribe()
    }

    /// The position from which [`since`](Self::since) continues what [`page`](Self::page) begins.
    pub fn position(&self) -> u64 {
        self.shared.messages().last
    }

    /// Messages of jobs that have not ended, from the one after this id on, with the id of the last; none at the end.
    pub fn page(&self, after: Option<&str>) -> Option<(Arc<str>, Vec<Message>)> {
        let messages = self.shared.messages();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page: Vec<_> = messages.jobs.range::<str, _>((start, Bound::Unbounded)).take(PAGE).collect();
        let (last, _) = page.last()?;
        let positions = page.iter().flat_map(|(_, place)| place.progress.into_iter().chain([place.status]));
        let found = positions.map(|position| messages.by_position[&position].clone()).collect();
        Some(((*last).clone(), found))
    }

    /// The first messages after a position, each with its own. An error if some are no longer there.
    pub fn since(&self, position: u64) -> Result<Vec<(u64, Message)>, Forgotten> {
        let messages = self.shared.messages();
        if position < messages.forgotten {
            return Err(Forgotten);
        }
        let found = messages.by_position.range(position + 1..).take(PAGE);
        Ok(found.map(|(position, message)| (*position, message.clone())).collect())
    }

    /// Whether a job is among those that have not ended.
    pub fn has(&self, id: &str) -> bool {
        self.shared.messages().jobs.contains_key(id)
    }

    /// When all jobs were last read, on the database's clock.
    pub fn read_at(&self) -> Option<DateTime<Utc>> {
        self.shared.messages().read_at
    }
}

/// A watcher is too far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten;

impl Shared {
    fn messages(&self) -> MutexGuard<'_, Messages> {
        // Consistent after every statement that can panic.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Messages {
    fn add(&mut self, message: Message) -> u64 {
        self.last += 1;
        self.by_position.insert(self.last, message);
        self.last
    }

    fn remove(&mut self, position: Option<u64>) {
        if let Some(position) = position {
            self.by_position.remove(&position);
        }
    }

    /// Notes a job as it is now.
    fn note(&mut self, mut job: Job) {
        let message = Message::new("status", &job);
        let told = job.progress.take().map(|progress| JobProgress { job: job.id.clone(), progress });
        let hash = hash(&job);
        let known = self.jobs.remove(job.id.as_str());
        let (old_status, old_progress) =
            known.map_or((None, None), |place| (Some((place.status, place.hash)), place.progress));
        let told = told.map(|told| Message::new("progress", &told));
        let progress = match (told, old_progress) {
            (Some(told), Some(old)) if self.by_position.get(&old) == Some(&told) => Some(old),
            (told, old) => {
                self.remove(old);
                told.map(|told| self.add(told))
            }
        };
        let status = match old_status {
            // Whoever starts to watch is told of the progress too.
            Some((old, known)) if known == hash => {
                self.by_position.insert(old, message);
                old
            }
            old => {
                self.remove(old.map(|(old, _)| old));
                self.add(message)
            }
        };
        if job.finished_at.is_some() {
            self.forget_later(progress.into_iter().chain([status]));
        } else {
            self.jobs.insert(job.id.as_str().into(), JobMessages { status, progress, hash });
        }
    }

    /// Notes that a job is gone.
    fn note_deleted(&mut self, id: &str) {
        if let Some(JobMessages { status, progress, .. }) = self.jobs.remove(id) {
            self.remove(Some(status));
            self.remove(progress);
        }
        let position = self.add(Message::new("deleted", &Deleted { id: id.to_owned() }));
        self.forget_later([position]);
    }

    fn forget_later(&mut self, positions: impl IntoIterator<Item = u64>) {
        self.past.extend(positions);
        while self.past.len() > KEPT
            && let Some(first) = self.past.pop_front()
        {
            self.by_position.remove(&first);
            self.forgotten = self.forgotten.max(first);
        }
    }
}

fn hash(job: &Job) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(job).expect("a job can be written as JSON").hash(&mut hasher);
    hasher.finish()
}

async fn read_for_ever(shared: Arc<Shared>, pool: PgPool, mut subscription: Subscription) {
    let mut all_due = Instant::now();
    let mut changed = BTreeSet::new();
    loop {
        let began = Instant::now();
        let read = if all_due <= began {
            read_all(&shared, &pool).await.map(|()| all_due = began + POLL_INTERVAL)
        } else {
            read(&shared, &pool, &changed.iter().cloned().collect::<Vec<_>>()).await
        };
        match read {
            Ok(()) => drop(shared.news.send_replace(true)),
            Err(error) => {
                tracing::warn!(%error, "cannot read the jobs for those who watch them; trying again");
                all_due = Instant::now();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        changed.clear();
        match timeout_at(all_due, subscription.next()).await {
            Ok(next) => note(next, &mut changed, &mut all_due),
            Err(_) => continue,
        }
        // Whatever else changes within the pace is sent together.
        while let Ok(next) = timeout_at(began + PACE, subscription.next()).await {
            note(next, &mut changed, &mut all_due);
        }
    }
}

/// Adds a changed job to `changed`, or makes it time to read all of them.
fn note(next: Changed, changed: &mut BTreeSet<String>, all_due: &mut Instant) {
    match next.job {
        Some(id) => drop(changed.insert(id.to_string())),
        None => *all_due = Instant::now(),
    }
}

async fn read_all(shared: &Shared, pool: &PgPool) -> sqlx::Result<()> {
    let (now, ids) = db::jobs::current(pool, None).await?;
    let mut ids: BTreeSet<String> = ids.into_iter().collect();
    ids.extend(shared.messages().jobs.keys().map(ToString::to_string));
    read(shared, pool, &ids.into_iter().collect::<Vec<_>>()).await?;
    shared.messages().read_at = Some(now);
    Ok(())
}

/// Reads these jobs.
async fn read(shared: &Shared, pool: &PgPool, ids: &[String]) -> sqlx::Result<()> {
    for ids in ids.chunks(PAGE) {
        let mut jobs = db::jobs::list_where(pool, ids).await?;
        let mut messages = shared.messages();
        let found: BTreeSet<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
        for id in ids.iter().filter(|id| !found.contains(id.as_str())) {
            messages.note_deleted(id);
        }
        // Oldest first.
        while let Some(job) = jobs.pop() {
            messages.note(job);
        }
    }
    Ok(())
}
