//! Collects what every job left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::AssertSqlSafe;

use super::actions::{Action, Strike};
use super::checker::{Artifact, Attempt, CleanKill, Event, Expected, History, Point, Written};
use super::world::{EPOCHS, MAX_ATTEMPTS, STEPS_PER_EPOCH, World};

impl World {
    /// Everything about a finished job.
    pub async fn history(&self, job: &str) -> History {
        let row: Value = self.scalar("select to_jsonb(jobs) from jobs where id = $1", job).await;
        let notes = fs::read_to_string(self.dir.path().join("notes").join(job)).unwrap_or_default();
        let (mut written, mut trained) = (Vec::new(), BTreeMap::new());
        for line in notes.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, _, attempt, step, time] = words[..] else { panic!("{line}") };
            let (attempt, step): (i32, u64) = (attempt.parse().unwrap(), step.parse().unwrap());
            // A number may have been given twice, where the database lost a claim.
            let furthest = trained.entry(attempt).or_insert(step);
            *furthest = step.max(*furthest);
            if kind == "checkpoint" {
                let micros: i64 = time.replace('.', "").parse().unwrap();
                written.push(Written { attempt, step, time: DateTime::from_timestamp_micros(micros).unwrap() });
            }
        }
        let attempts: Vec<Attempt> = self.rows("attempts", job, "attempt").await;
        let events: Vec<Event> = self.rows("events", job, "seq").await;
        let mut artifacts: Vec<Artifact> = self.rows("artifacts", job, "attempt, name").await;
        for artifact in &mut artifacts {
            let stored = fs::read(self.dir.path().join("storage").join(&artifact.key)).ok();
            artifact.stored_sha256 = stored.map(|bytes| hex::encode(Sha256::digest(bytes)));
        }
        let succeeded = row["status"] == "succeeded";
        let metrics = if succeeded { self.download(job, "artifacts/metrics.ndjson").await } else { None };
        let points = metrics.unwrap_or_default();
        let points = points.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
        let listing = self.download(job, "artifacts").await.unwrap_or_default();
        let listing: Value = serde_json::from_str(&listing).unwrap_or_default();
        let listed = listing["data"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        History {
            job: job.to_owned(),
            status: text(&row["status"]),
            attempt: serde_json::from_value(row["attempt"].clone()).unwrap(),
            published_attempt: serde_json::from_value(row["published_attempt"].clone()).unwrap(),
            event_seq: row["event_seq"].as_i64().unwrap(),
            points: self.rows::<Point>("metrics", job, "id").await,
            artifacts,
            listed: listed.map(|one| (text(&one["name"]), text(&one["sha256"]))).collect(),
            clean_kills: self.clean_kills(job, &attempts, &events),
            events,
            lost_commits: self.was_there_at_a_loss(&row),
            attempts,
            student: if succeeded { self.download(job, "student").await } else { None },
            metrics_file: points.map(|point| (text(&point["name"]), point["step"].as_u64().unwrap_or(0))).collect(),
            written,
            trained,
        }
    }

    /// Whether the database lost commits after the job was posted and before it finished.
    fn was_there_at_a_loss(&self, row: &Value) -> bool {
        let time = |name: &str| serde_json::from_value::<DateTime<Utc>>(row[name].clone()).unwrap();
        self.losses.iter().any(|(from, to)| time("created_at") < *to && time("finished_at") > *from)
    }

    fn clean_kills(&self, job: &str, attempts: &[Attempt], events: &[Event]) -> Vec<CleanKill> {
        let kills = self.strikes.iter().filter(|strike| strike.job == job && strike.action != Action::StopWorker);
        let is_clean = |strike: &&Strike| {
            let Some(attempt) = attempts.iter().find(|attempt| attempt.attempt == strike.attempt) else { return false };
            let lost = attempt.outcome.as_deref() == Some("worker_lost");
            lost && strike.time >= attempt.started_at
                && !self.broken.iter().any(|(from, to)| *from < strike.time && *to > attempt.started_at)
        };
        let storing_since = |strike: &Strike| {
            let recorded = events.iter().filter(|event| event.kind == "checkpoint" && event.attempt == strike.attempt);
            let recorded = recorded.map(|event| event.time).max();
            strike.stored.iter().copied().filter(|time| recorded.is_none_or(|recorded| *time > recorded)).min()
        };
        let kill = |strike: &Strike| CleanKill {
            attempt: strike.attempt,
            time: strike.time,
            storing_since: storing_since(strike),
        };
        kills.filter(is_clean).map(kill).collect()
    }

    pub fn expected(&self, job: &str) -> Expected {
        let is_poison = self.posted.iter().any(|(key, id)| id == job && key.starts_with("poison"));
        let student = student("beginning");
        let status = if is_poison { "failed" } else { "succeeded" };
        Expected { status, max_attempts: MAX_ATTEMPTS, epochs: EPOCHS, steps_per_epoch: STEPS_PER_EPOCH, student }
    }

    pub async fn all_jobs(&self) -> BTreeSet<String> {
        let found: Vec<String> = sqlx::query_scalar("select id from jobs").fetch_all(&self.pool).await.unwrap();
        found.into_iter().collect()
    }

    async fn scalar(&self, query: &'static str, job: &str) -> Value {
        sqlx::query_scalar(query).bind(job).fetch_one(&self.pool).await.unwrap()
    }

    async fn rows<T: DeserializeOwned>(&self, table: &str, job: &str, order: &str) -> Vec<T> {
        let query = format!("select to_jsonb(t) from {table} as t where job_id = $1 order by {order}");
        let rows: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(query)).bind(job).fetch_all(&self.pool).await.unwrap();
        rows.into_iter().map(|row| serde_json::from_value(row).unwrap()).collect()
    }

    async fn download(&self, job: &str, what: &str) -> Option<String> {
        let answer = self.http.get(format!("{}/v1/jobs/{job}/{what}", self.api_url)).send().await.unwrap();
        if answer.status().is_success() { Some(answer.text().await.unwrap()) } else { None }
    }
}

/// The student of an undisturbed run.
pub fn student(beginning: &str) -> String {
    (1..=EPOCHS).fold(beginning.to_owned(), |hash, epoch| hex::encode(Sha256::digest(format!("{hash} {epoch}"))))
}
