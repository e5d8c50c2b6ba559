//! Snapshots of jobs, shared by everybody who watches them: a thousand streams of one job query the database once for
//! each of its changes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sqlx::PgPool;
use tokio::time::Instant;

use crate::db;
use crate::db::events::{self, StoredEvent};
use crate::db::jobs::Job;
use crate::db::metrics::{self, StoredPoint};

/// Rows per query.
pub const PAGE: i64 = 500;
/// How many of the latest events, and of the latest points, a snapshot keeps. A watcher that is further behind reads
/// the database.
const KEPT: usize = 1000;

/// The jobs that somebody watches.
#[derive(Debug, Clone, Default)]
pub struct Feeds(Arc<Mutex<HashMap<String, Weak<Feed>>>>);

/// One job, shared by its watchers and dropped when the last of them leaves.
#[derive(Debug)]
pub struct Feed {
    id: String,
    latest: tokio::sync::Mutex<Option<Arc<JobSnapshot>>>,
}

/// A position in a job's history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// `seq` of the last event before this position.
    pub event: i64,
    /// `id` of the last point before this position.
    pub point: i64,
}

/// A job at one moment, with the end of its history.
#[derive(Debug, Clone)]
pub struct JobSnapshot {
    /// When the queries began. Later changes may be missing.
    began: Instant,
    /// Snapshots share this `Arc` until the job changes. Once the job has ended, `events` and `points` reach to the end
    /// of its history.
    pub job: Arc<Job>,
    pub events: Tail<StoredEvent>,
    pub points: Tail<StoredPoint>,
}

/// The latest rows of a table, each with its position (`seq` or `id`).
#[derive(Debug, Clone)]
pub struct Tail<T> {
    /// All rows after this position are here.
    pub after: i64,
    rows: VecDeque<(i64, Arc<T>)>,
}

impl<T> Tail<T> {
    fn new(after: i64) -> Self {
        Self { after, rows: VecDeque::new() }
    }

    fn end(&self) -> i64 {
        self.rows.back().map_or(self.after, |(position, _)| *position)
    }

    fn push(&mut self, position: i64, row: T) {
        self.rows.push_back((position, Arc::new(row)));
        if self.rows.len() > KEPT
            && let Some((dropped, _)) = self.rows.pop_front()
        {
            self.after = dropped;
        }
    }

    /// The rows after a position, which must not be before [`Tail::after`].
    pub fn since(&self, position: i64) -> impl Iterator<Item = &T> {
        let known = self.rows.partition_point(|(at, _)| *at <= position);
        self.rows.range(known..).map(|(_, row)| &**row)
    }
}

impl Feeds {
    /// The feed of a job, shared with everybody who watches the job now.
    pub fn watch(&self, id: &str) -> Arc<Feed> {
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.get(id).and_then(Weak::upgrade) {
            return feed;
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let feed = Arc::new(Feed { id: id.to_owned(), latest: tokio::sync::Mutex::new(None) });
        feeds.insert(id.to_owned(), Arc::downgrade(&feed));
        feed
    }
}

impl Feed {
    /// A snapshot that began at `since` or later: one taken for another watcher, or a new one, which continues the last
    /// snapshot or else starts at `start`. `None` if the job has been deleted.
    pub async fn snapshot(
        &self,
        pool: &PgPool,
        since: Instant,
        start: Cursor,
    ) -> sqlx::Result<Option<Arc<JobSnapshot>>> {
        let mut latest = self.latest.lock().await;
        if let Some(snapshot) = &*latest
            && snapshot.began >= since
        {
            return Ok(Some(snapshot.clone()));
        }
        let began = Instant::now();
        // The job first: once it has ended, no events or points are added after this query.
        let Some(job) = db::jobs::get(pool, &self.id).await? else { return Ok(None) };
        // What has not changed is shared, not copied.
        let (job, mut events, mut points) = match latest.take() {
            Some(last) if *last.job == job => (last.job.clone(), last.events.clone(), last.points.clone()),
            Some(last) => (Arc::new(job), last.events.clone(), last.points.clone()),
            None => (Arc::new(job), Tail::new(start.event), Tail::new(start.point)),
        };
        loop {
            let page = events::list(pool, &self.id, events.end(), PAGE).await?;
            let more = page.len() as i64 == PAGE;
            page.into_iter().for_each(|event| events.push(event.seq, event));
            if !more {
                break;
            }
        }
        loop {
            let page = metrics::list(pool, &self.id, points.end(), PAGE).await?;
            let more = page.len() as i64 == PAGE;
            page.into_iter().for_each(|point| points.push(point.id, point));
            if !more {
                break;
            }
        }
        let snapshot = Arc::new(JobSnapshot { began, job, events, points });
        *latest = Some(snapshot.clone());
        Ok(Some(snapshot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_knows_from_which_position_on_it_is_complete() {
        let mut tail = Tail::new(7);
        assert_eq!((tail.after, tail.end()), (7, 7));
        // Positions ascend, with gaps.
        for number in 0..KEPT as i64 + 5 {
            tail.push(10 + 2 * number, number);
        }
        assert_eq!(tail.after, 18);
        assert_eq!(tail.since(18).next(), Some(&5));
        assert_eq!(tail.since(tail.end() - 2).collect::<Vec<_>>(), [&(KEPT as i64 + 4)]);
        assert_eq!(tail.since(tail.end()).count(), 0);
    }
}
