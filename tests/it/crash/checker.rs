//! Compares a job's events, metrics and files with its trainers' own notes, and reports what is wrong.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::losses::{checkpoints, losses, resumption};

/// A row of `events`.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    pub seq: i64,
    pub time: DateTime<Utc>,
    pub kind: String,
    pub message: String,
    pub data: Option<Value>,
    pub attempt: i32,
}

impl Event {
    pub fn status(&self) -> Option<&str> {
        if self.kind == "status" { self.data.as_ref()?["status"].as_str() } else { None }
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.data.as_ref()?[name].as_u64()
    }
}

/// A row of `metrics`.
#[derive(Debug, Clone, Deserialize)]
pub struct Point {
    pub id: i64,
    pub attempt: i32,
    pub name: String,
    pub step: u64,
    pub value: f64,
}

/// A row of `artifacts`, and what is in storage under its key.
#[derive(Debug, Clone, Deserialize)]
pub struct Artifact {
    pub attempt: i32,
    pub name: String,
    pub key: String,
    pub sha256: String,
    #[serde(skip)]
    pub stored_sha256: Option<String>,
}

/// A row of `attempts`.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    pub attempt: i32,
    pub worker_name: Option<String>,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub outcome: Option<String>,
    pub refused_writes: i64,
    pub saved_step: Option<i64>,
    pub counted: Option<bool>,
}

/// A checkpoint that a trainer says it wrote, by its own clock.
#[derive(Debug, Clone)]
pub struct Written {
    pub attempt: i32,
    pub step: u64,
    pub time: DateTime<Utc>,
}

/// A SIGKILL of an attempt's trainer or worker while nothing else was broken.
#[derive(Debug, Clone)]
pub struct CleanKill {
    pub attempt: i32,
    pub time: DateTime<Utc>,
    /// Since when the worker had been storing what its job's history did not name yet, by the files that it left.
    pub storing_since: Option<DateTime<Utc>>,
}

/// A span of time.
pub type Period = (DateTime<Utc>, DateTime<Utc>);

/// Everything about a job.
#[derive(Debug, Clone)]
pub struct History {
    pub job: String,
    pub status: String,
    pub attempt: i32,
    pub published_attempt: Option<i32>,
    pub event_seq: i64,
    pub events: Vec<Event>,
    pub points: Vec<Point>,
    pub artifacts: Vec<Artifact>,
    /// Names and sums as the API lists them.
    pub listed: BTreeMap<String, String>,
    pub attempts: Vec<Attempt>,
    /// The student's text, as downloaded.
    pub student: Option<String>,
    /// The published metrics file: series and steps, in order.
    pub metrics_file: Vec<(String, u64)>,
    pub written: Vec<Written>,
    /// The last step that each attempt's trainer did.
    pub trained: BTreeMap<i32, u64>,
    pub clean_kills: Vec<CleanKill>,
    /// Whether the database lost commits meanwhile, with what they said of files that replaced others.
    pub lost_commits: bool,
}

/// The expected end of a job.
#[derive(Debug, Clone)]
pub struct Expected {
    pub status: &'static str,
    /// Attempts that may fail, of those that count.
    pub max_attempts: usize,
    pub epochs: u64,
    pub steps_per_epoch: u64,
    /// What an undisturbed run writes.
    pub student: String,
}

/// Everything that is wrong with the history. `on_its_way` is how long a checkpoint may take from its trainer to the
/// history.
pub fn objections(history: &History, expected: &Expected, on_its_way: TimeDelta) -> Vec<String> {
    let mut found = Vec::new();
    numbering(history, &mut found);
    repetitions(history, &mut found);
    statuses(history, expected, &mut found);
    stale_writes(history, &mut found);
    metrics(history, expected, &mut found);
    resumption(history, &mut found);
    losses(history, on_its_way, &mut found);
    files(history, expected, &mut found);
    ledger(history, &mut found);
    accounting(history, expected, &mut found);
    found.into_iter().map(|objection| format!("{}: {objection}", history.job)).collect()
}

/// What is wrong with the history of a sweep's job, which pauses at rungs and may be cancelled there.
pub fn objections_in_sweep(history: &History, on_its_way: TimeDelta) -> Vec<String> {
    let mut found = Vec::new();
    numbering(history, &mut found);
    repetitions(history, &mut found);
    stale_writes(history, &mut found);
    resumption(history, &mut found);
    losses(history, on_its_way, &mut found);
    ledger(history, &mut found);
    found.into_iter().map(|objection| format!("{}: {objection}", history.job)).collect()
}

fn numbering(history: &History, found: &mut Vec<String>) {
    let seqs: Vec<i64> = history.events.iter().map(|event| event.seq).collect();
    if seqs != (1..=history.event_seq).collect::<Vec<_>>() {
        found.push(format!("the numbers of the history have a gap: {seqs:?}, last {}", history.event_seq));
    }
}

/// A write whose answer was lost is made again, and counts once.
fn repetitions(history: &History, found: &mut Vec<String>) {
    let mut known = BTreeSet::new();
    for event in history.events.iter().filter(|event| event.kind == "checkpoint" || event.kind == "log") {
        if !known.insert((event.attempt, &event.message)) {
            found.push(format!("entry {} stands there twice: {}", event.seq, event.message));
        }
    }
}

fn is_final(status: &str) -> bool {
    ["succeeded", "failed", "cancelled"].contains(&status)
}

fn statuses(history: &History, expected: &Expected, found: &mut Vec<String>) {
    // A job may also have had as many attempts that got nowhere as it is allowed to: `accounting` counts them.
    if history.status != expected.status && history.status != "failed" {
        found.push(format!("it is {} and should be {}", history.status, expected.status));
    }
    let statuses: Vec<&str> = history.events.iter().filter_map(Event::status).collect();
    let finals = statuses.iter().filter(|status| is_final(status)).count();
    if finals != 1 {
        found.push(format!("{finals} final statuses: {statuses:?}"));
    }
    if history.events.last().and_then(Event::status) != Some(history.status.as_str()) {
        found.push("the last entry of the history is not its final status".to_owned());
    }
    let legal = |pair: &[&str]| match pair {
        ["queued", next] => *next == "running",
        ["running", next] => *next == "queued" || is_final(next),
        _ => false,
    };
    if statuses.first() != Some(&"queued") || !statuses.windows(2).all(legal) {
        found.push(format!("statuses follow each other that cannot: {statuses:?}"));
    }
    let started: Vec<i32> =
        history.events.iter().filter(|event| event.status() == Some("running")).map(|event| event.attempt).collect();
    if started != (1..=history.attempt).collect::<Vec<_>>() {
        found.push(format!("not every attempt started once, one after the other: {started:?} of {}", history.attempt));
    }
}

fn stale_writes(history: &History, found: &mut Vec<String>) {
    for pair in history.events.windows(2) {
        if pair[1].attempt < pair[0].attempt {
            found.push(format!("entry {} of attempt {} comes after a later attempt", pair[1].seq, pair[1].attempt));
        }
    }
    // An entry is given the number of the attempt that holds the job, whoever wrote it. So trainers say who they are.
    for event in &history.events {
        let said = event.message.strip_prefix("this is attempt ").and_then(|number| number.parse::<i32>().ok());
        if said.is_some_and(|said| said != event.attempt) {
            found.push(format!(
                "entry {} of attempt {} was written by another: {}",
                event.seq, event.attempt, event.message
            ));
        }
    }
    for pair in history.points.windows(2) {
        if pair[1].attempt < pair[0].attempt {
            found.push(format!("point {} of attempt {} comes after a later attempt", pair[1].id, pair[1].attempt));
        }
    }
}

/// Every step once, with its value: all of them where the job succeeded, else all before its last checkpoint.
fn metrics(history: &History, expected: &Expected, found: &mut Vec<String>) {
    let until = match history.status.as_str() {
        "succeeded" => expected.epochs * expected.steps_per_epoch,
        _ => checkpoints(&history.events).last().map_or(0, |(_, step)| *step),
    };
    for (name, stride) in [("train/loss", 1), ("eval/top1", expected.steps_per_epoch)] {
        let points: Vec<&Point> = history.points.iter().filter(|point| point.name == name).collect();
        let steps: BTreeSet<u64> = points.iter().map(|point| point.step).collect();
        if steps.len() != points.len() {
            found.push(format!("{name} has a step more than once"));
        }
        let missing: Vec<u64> =
            (1..=until).filter(|step| step.is_multiple_of(stride) && !steps.contains(step)).collect();
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            found.push(format!("{name} lost {} of {until} steps, from {first} to {last}", missing.len()));
        }
        if let Some(wrong) = points.iter().find(|point| point.value != value_at(point.step)) {
            found.push(format!("{name} is {} at step {}", wrong.value, wrong.step));
        }
        if history.status == "succeeded" {
            let in_file = history.metrics_file.iter().filter(|(series, _)| series == name).map(|(_, step)| *step);
            if !in_file.eq((1..=until).filter(|step| step.is_multiple_of(stride))) {
                found.push(format!("the published metrics file does not have every step of {name} once, in order"));
            }
        }
    }
}

/// What the trainer records at a step.
pub fn value_at(step: u64) -> f64 {
    (step * 3) as f64
}

fn files(history: &History, expected: &Expected, found: &mut Vec<String>) {
    if history.status != "succeeded" {
        if history.published_attempt.is_some() || !history.artifacts.is_empty() || !history.listed.is_empty() {
            found.push("it has files and did not succeed".to_owned());
        }
        return;
    }
    let owners: BTreeSet<i32> = history.artifacts.iter().map(|artifact| artifact.attempt).collect();
    if owners != BTreeSet::from([history.attempt]) || history.published_attempt != Some(history.attempt) {
        found.push(format!(
            "not the last attempt's files alone are published: those of {owners:?}, published {:?}, last {}",
            history.published_attempt, history.attempt
        ));
    }
    for name in ["student.safetensors", "student-last.safetensors", "manifest.json", "metrics.ndjson"] {
        if !history.artifacts.iter().any(|artifact| artifact.name == name) {
            found.push(format!("{name} is not published"));
        }
    }
    for artifact in &history.artifacts {
        if artifact.stored_sha256.as_ref() != Some(&artifact.sha256) {
            found.push(format!("{} is not what was published: {:?}", artifact.key, artifact.stored_sha256));
        }
    }
    let published: BTreeMap<_, _> =
        history.artifacts.iter().map(|artifact| (artifact.name.clone(), artifact.sha256.clone())).collect();
    if published != history.listed {
        found.push(format!("the API lists other files than are published: {:?}", history.listed));
    }
    if history.student.as_ref() != Some(&expected.student) {
        found.push(format!("the student is not that of an undisturbed run: {:?}", history.student));
    }
}

fn ledger(history: &History, found: &mut Vec<String>) {
    let numbers: Vec<i32> = history.attempts.iter().map(|attempt| attempt.attempt).collect();
    if numbers != (1..=history.attempt).collect::<Vec<_>>() {
        found.push(format!("the ledger has attempts {numbers:?} of {}", history.attempt));
    }
    if history.attempts.iter().any(|attempt| attempt.outcome.is_none()) {
        found.push("the ledger has an attempt without an end".to_owned());
    }
    // What is killed is no fault of the program.
    if let Some(blamed) = history.attempts.iter().find(|attempt| attempt.outcome.as_deref() == Some("internal")) {
        found.push(format!("the program is to blame for the end of attempt {}", blamed.attempt));
    }
    let succeeded = history.attempts.iter().filter(|attempt| attempt.outcome.as_deref() == Some("succeeded")).count();
    if succeeded != usize::from(history.status == "succeeded") {
        found.push(format!("{succeeded} attempts of the ledger succeeded"));
    }
}

/// A failure counts unless the machine was at fault or the attempt had got further than all before.
fn accounting(history: &History, expected: &Expected, found: &mut Vec<String>) {
    let (mut furthest, mut counted) = (0, 0);
    for attempt in &history.attempts {
        let reached = attempt.saved_step.unwrap_or(0);
        let counts = match attempt.outcome.as_deref() {
            Some("stopped" | "machine") => false,
            Some("worker_lost" | "storage" | "internal") => reached <= furthest,
            _ => true,
        };
        furthest = reached.max(furthest);
        counted += usize::from(counts);
        if attempt.counted != Some(counts) {
            let which = if counts { "counts" } else { "does not count" };
            found.push(format!("attempt {} {which}, and the ledger says otherwise", attempt.attempt));
        }
    }
    if history.status == "failed" && counted != expected.max_attempts {
        found.push(format!("it failed after {counted} attempts that count, of {}", expected.max_attempts));
    }
}
