//! The checker objects to every impossible history: each test forges one.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::checker::*;
use super::losses::{ON_ITS_WAY, allowed_on_its_way, on_their_way, repeated};

const STEPS: u64 = 4;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

/// A job of two epochs of four steps whose first worker was killed in the second epoch.
fn honest() -> History {
    let mut events = Vec::new();
    let mut add = |attempt: i32, kind: &str, message: &str, data: Value| {
        let seq = events.len() as i64 + 1;
        events.push(Event {
            seq,
            time: at(seq),
            kind: kind.into(),
            message: message.into(),
            data: (!data.is_null()).then_some(data),
            attempt,
        });
    };
    add(0, "status", "submitted", json!({"status": "queued"}));
    add(1, "status", "attempt 1 started", json!({"status": "running"}));
    add(1, "log", "training", json!({"resumed_step": 0}));
    add(1, "log", "this is attempt 1", Value::Null);
    add(1, "checkpoint", "checkpoint after epoch 1", json!({"epoch": 1, "step": 4}));
    add(1, "status", "attempt 1 failed", json!({"status": "queued"}));
    add(2, "status", "attempt 2 started", json!({"status": "running"}));
    add(2, "log", "training", json!({"resumed_step": 4}));
    add(2, "log", "this is attempt 2", Value::Null);
    add(2, "checkpoint", "checkpoint after epoch 2", json!({"epoch": 2, "step": 8}));
    add(2, "status", "the student", json!({"status": "succeeded"}));
    let (points, artifacts) = (honest_points(), honest_artifacts());
    let attempt = |attempt: i32, outcome: &str, counted: bool| Attempt {
        attempt,
        worker_name: None,
        started_at: at(attempt.into()),
        ended_at: Some(at(i64::from(attempt) + 4)),
        outcome: Some(outcome.into()),
        refused_writes: 0,
        saved_step: Some(4 * i64::from(attempt)),
        counted: Some(counted),
    };
    History {
        job: "j".into(),
        status: "succeeded".into(),
        attempt: 2,
        published_attempt: Some(2),
        event_seq: events.len() as i64,
        metrics_file: points.iter().map(|point| (point.name.clone(), point.step)).collect(),
        listed: artifacts.iter().map(|artifact| (artifact.name.clone(), artifact.sha256.clone())).collect(),
        events,
        points,
        artifacts,
        attempts: vec![attempt(1, "worker_lost", false), attempt(2, "succeeded", true)],
        student: Some("weights".into()),
        written: vec![Written { attempt: 1, step: 4, time: at(4) }],
        trained: BTreeMap::from([(1, 6), (2, 8)]),
        clean_kills: vec![CleanKill { attempt: 1, time: at(60), storing_since: None }],
        lost_commits: false,
    }
}

fn honest_points() -> Vec<Point> {
    let mut points = Vec::new();
    for step in 1..=2 * STEPS {
        for name in ["train/loss", "eval/top1"] {
            if name == "train/loss" || step.is_multiple_of(STEPS) {
                let attempt = if step <= STEPS { 1 } else { 2 };
                let id = points.len() as i64;
                points.push(Point { id, attempt, name: name.into(), step, value: value_at(step) });
            }
        }
    }
    points
}

fn honest_artifacts() -> Vec<Artifact> {
    let files = ["student.safetensors", "student-last.safetensors", "manifest.json", "metrics.ndjson"];
    files
        .map(|name| Artifact {
            attempt: 2,
            name: name.into(),
            key: format!("jobs/j/attempts/2/{name}"),
            sha256: format!("sum of {name}"),
            stored_sha256: Some(format!("sum of {name}")),
        })
        .into()
}

fn all_objections(history: &History) -> Vec<String> {
    let expected =
        Expected { status: "succeeded", max_attempts: 3, epochs: 2, steps_per_epoch: STEPS, student: "weights".into() };
    objections(history, &expected, ON_ITS_WAY)
}

#[track_caller]
fn is_found(what: &str, forge: impl Fn(&mut History)) {
    let mut history = honest();
    forge(&mut history);
    let found = all_objections(&history);
    assert!(found.iter().any(|objection| objection.contains(what)), "{what:?} is not among {found:#?}");
}

#[test]
fn an_honest_history_meets_no_objection() {
    assert_eq!(all_objections(&honest()), Vec::<String>::new());
    assert_eq!(repeated(&honest()), [2]);
}

#[test]
fn gaps_in_the_numbering_are_found() {
    is_found("have a gap", |history| drop(history.events.remove(3)));
    is_found("have a gap", |history| history.event_seq += 1);
}

#[test]
fn an_entry_that_was_written_twice_is_found() {
    is_found("stands there twice", |history| history.events[3] = Event { seq: 4, ..history.events[2].clone() });
}

#[test]
fn a_second_end_and_impossible_changes_of_status_are_found() {
    is_found("2 final statuses", |history| {
        history.events[5].data = Some(json!({"status": "failed"}));
    });
    is_found("the last entry of the history", |history| {
        let last = history.events.last().unwrap().clone();
        history.events.push(Event { kind: "log".into(), seq: last.seq + 1, ..last });
    });
    is_found("that cannot", |history| history.events[5].data = Some(json!({"status": "paused"})));
    is_found("should be succeeded", |history| history.status = "cancelled".into());
    is_found("one after the other", |history| history.events[6].attempt = 3);
}

#[test]
fn writes_of_an_attempt_that_lost_its_job_are_found() {
    is_found("comes after a later attempt", |history| history.events[9].attempt = 1);
    // The database gives an entry the number of whoever holds the job: the trainer's own word tells.
    is_found("was written by another", |history| history.events[8].message = "this is attempt 1".into());
    is_found("comes after a later attempt", |history| history.points.last_mut().unwrap().attempt = 1);
}

#[test]
fn lost_doubled_and_changed_points_are_found() {
    is_found("lost 1 of 8 steps, from 3 to 3", |history| drop(history.points.remove(2)));
    is_found("a step more than once", |history| history.points.push(history.points[1].clone()));
    is_found("at step 2", |history| history.points[1].value += 1.0);
    is_found("does not have every step", |history| history.metrics_file.swap(1, 2));
    is_found("eval/top1 lost", |history| history.points.retain(|point| point.name != "eval/top1"));
}

#[test]
fn work_that_was_saved_and_done_again_is_found() {
    is_found("step 4 had been saved", |history| history.events[7].data = Some(json!({"resumed_step": 0})));
    is_found("which nobody had done", |history| history.events[7].data = Some(json!({"resumed_step": 7})));
    is_found("more than the work of one checkpoint interval", |history| {
        history.written.push(Written { attempt: 1, step: 6, time: at(60) - TimeDelta::seconds(9) });
    });
}

#[test]
fn a_checkpoint_behind_one_that_is_being_stored_may_be_lost_unless_it_is_old() {
    let lost = |age: i64, storing: Option<i64>| {
        let mut history = honest();
        history.written.push(Written { attempt: 1, step: 6, time: at(60 - age) });
        history.clean_kills[0].storing_since = storing.map(|seconds| at(60 - seconds));
        all_objections(&history)
    };
    assert_eq!(lost(2, None), Vec::<String>::new());
    assert!(lost(3, None)[0].contains("was storing none"), "{:?}", lost(3, None));
    assert_eq!(lost(4, Some(1)), Vec::<String>::new());
    assert!(lost(5, Some(1))[0].contains("had been storing one for 1.0 s"), "{:?}", lost(5, Some(1)));
}

#[test]
fn a_checkpoint_may_be_on_its_way_as_long_as_the_slowest_that_met_no_fault() {
    let of = |broken: &[Period]| on_their_way(&honest(), broken);
    // Entry 5 of the history names what was written a second before.
    assert_eq!(of(&[]), [TimeDelta::seconds(1)]);
    assert_eq!(of(&[(at(2), at(4)), (at(5), at(9))]), [TimeDelta::seconds(1)]);
    assert_eq!(of(&[(at(2), at(60))]), Vec::<TimeDelta>::new());
    let seconds = |seconds: &[i64]| allowed_on_its_way(seconds.iter().copied().map(TimeDelta::seconds).collect());
    assert_eq!(seconds(&[]), (ON_ITS_WAY, None));
    assert_eq!(seconds(&[1, 0, 1]), (ON_ITS_WAY, None));
    assert_eq!(seconds(&[1, 7, 2]), (TimeDelta::seconds(7), None));
    let (_, objection) = seconds(&[3, 7, 1]);
    assert!(objection.unwrap().contains("half of 3 checkpoints took 3.0 s"));
}

#[test]
fn files_that_are_not_the_last_attempts_whole_are_found() {
    is_found("not the last attempt's files alone", |history| history.artifacts[0].attempt = 1);
    is_found("not the last attempt's files alone", |history| history.published_attempt = Some(1));
    is_found("manifest.json is not published", |history| drop(history.artifacts.remove(2)));
    is_found("is not what was published", |history| history.artifacts[0].stored_sha256 = None);
    is_found("the API lists other files", |history| drop(history.listed.remove("manifest.json")));
    is_found("not that of an undisturbed run", |history| history.student = Some("others".into()));
    let failed = |history: &mut History| history.status = "failed".into();
    is_found("did not succeed", failed);
}

#[test]
fn a_ledger_that_does_not_add_up_is_found() {
    is_found("the ledger has attempts", |history| drop(history.attempts.remove(0)));
    is_found("without an end", |history| history.attempts[0].outcome = None);
    is_found("2 attempts of the ledger succeeded", |history| {
        history.attempts[0].outcome = Some("succeeded".into());
    });
    is_found("is to blame", |history| history.attempts[0].outcome = Some("internal".into()));
}

#[test]
fn attempts_that_are_counted_wrongly_are_found() {
    is_found("attempt 1 does not count", |history| history.attempts[0].counted = Some(true));
    is_found("attempt 1 counts", |history| history.attempts[0].saved_step = None);
    is_found("attempt 1 does not count", |history| {
        history.attempts[0].outcome = Some("machine".into());
        history.attempts[0].counted = Some(true);
    });
    is_found("failed after 1 attempts that count, of 3", |history| history.status = "failed".into());
}

#[test]
fn a_lost_checkpoint_is_excused_only_where_commits_were_lost_and_the_job_says_so() {
    let start_over = |history: &mut History| history.events[7].data = Some(json!({"resumed_step": 0}));
    is_found("step 4 had been saved", |history| {
        start_over(history);
        history.lost_commits = true;
    });
    let mut history = honest();
    start_over(&mut history);
    history.lost_commits = true;
    history.clean_kills.clear();
    history.events[8].message = "the checkpoint cannot be used, so training starts from the beginning".into();
    assert_eq!(all_objections(&history), Vec::<String>::new());
}
