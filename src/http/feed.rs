//! One look at a job for all who watch it: a thousand streams of one job ask the database once for each of its changes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sqlx::PgPool;
use tokio::time::Instant;

use crate::jobs::events::{self, Event};
use crate::jobs::metrics::{self, Point};
use crate::jobs::store::{self, Job};

/// How many rows are read at a time.
pub const PAGE: i64 = 500;
/// How many events, and points, are kept for those who are not quite up to date.
const KEPT: usize = 1000;

/// The jobs that are watched.
#[derive(Debug, Clone, Default)]
pub struct Feeds(Arc<Mutex<HashMap<String, Weak<Feed>>>>);

/// One job, as all its watchers share it. It is forgotten when the last of them leaves.
#[derive(Debug)]
pub struct Feed {
    id: String,
    latest: tokio::sync::Mutex<Option<Arc<Look>>>,
}

/// What a job was like at some moment.
#[derive(Debug, Clone)]
pub struct Look {
    /// What is younger than this may be missing.
    began: Instant,
    /// The job, the same one as long as nothing changes about it; when it has ended, all of its events and points below
    /// were there already.
    pub job: Arc<Job>,
    /// Its latest events.
    pub events: Tail<Event>,
    /// Its latest points.
    pub points: Tail<Point>,
}

/// The latest rows of a table, each with its place.
#[derive(Debug, Clone)]
pub struct Tail<T> {
    /// The rows after this place are here, all of them.
    pub after: i64,
    rows: VecDeque<(i64, Arc<T>)>,
}

impl<T> Tail<T> {
    fn new(after: i64) -> Self {
        Self { after, rows: VecDeque::new() }
    }

    fn end(&self) -> i64 {
        self.rows.back().map_or(self.after, |(place, _)| *place)
    }

    fn push(&mut self, place: i64, row: T) {
        self.rows.push_back((place, Arc::new(row)));
        if self.rows.len() > KEPT
            && let Some((gone, _)) = self.rows.pop_front()
        {
            self.after = gone;
        }
    }

    /// The rows after a place, which is not before [`Tail::after`].
    pub fn since(&self, place: i64) -> impl Iterator<Item = &T> {
        let known = self.rows.partition_point(|(at, _)| *at <= place);
        self.rows.range(known..).map(|(_, row)| &**row)
    }
}

impl Feeds {
    /// The feed of a job, shared with everybody who watches it now.
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
    /// A look that began at `since` or later: one that another watcher took, or a new one, which goes on from the last,
    /// or else from these places. None if the job is no more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn look(&self, pool: &PgPool, since: Instant, places: (i64, i64)) -> sqlx::Result<Option<Arc<Look>>> {
        let mut latest = self.latest.lock().await;
        if let Some(look) = &*latest
            && look.began >= since
        {
            return Ok(Some(look.clone()));
        }
        let began = Instant::now();
        // The job first: when it has ended, all of its events and points are there to be read afterwards.
        let Some(job) = store::get(pool, &self.id).await? else { return Ok(None) };
        // What has not changed is shared, not copied.
        let (job, mut events, mut points) = match latest.take() {
            Some(last) if *last.job == job => (last.job.clone(), last.events.clone(), last.points.clone()),
            Some(last) => (Arc::new(job), last.events.clone(), last.points.clone()),
            None => (Arc::new(job), Tail::new(places.0), Tail::new(places.1)),
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
        let look = Arc::new(Look { began, job, events, points });
        *latest = Some(look.clone());
        Ok(Some(look))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_says_from_where_on_it_is_whole() {
        let mut tail = Tail::new(7);
        assert_eq!((tail.after, tail.end()), (7, 7));
        // Places ascend, with gaps.
        for number in 0..KEPT as i64 + 5 {
            tail.push(10 + 2 * number, number);
        }
        assert_eq!(tail.after, 18);
        assert_eq!(tail.since(18).next(), Some(&5));
        assert_eq!(tail.since(tail.end() - 2).collect::<Vec<_>>(), [&(KEPT as i64 + 4)]);
        assert_eq!(tail.since(tail.end()).count(), 0);
    }
}
