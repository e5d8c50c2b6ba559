//! The figures of a run of the crash suite: what was done, and, as a table, how long recovery took.

use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::actions::Strike;
use super::checker::{self, History};
use super::world::World;

/// A report for people.
pub fn of(world: &World, histories: &[History]) -> String {
    let mut text = String::new();
    let attempts: i32 = histories.iter().map(|history| history.attempt).sum();
    let points: usize = histories.iter().map(|history| history.points.len()).sum();
    writeln!(text, "{} jobs, {attempts} attempts, {points} points", histories.len()).unwrap();
    for (action, times) in &world.done {
        writeln!(text, "  {times:4} × {action:?}").unwrap();
    }
    writeln!(text, "crashes that lost an accepted job: {}", world.losses.len()).unwrap();
    text += "\n| what | p50 | p95 | worst | of |\n| --- | --- | --- | --- | --- |\n";
    let (mut noticed, mut again) = (Vec::new(), Vec::new());
    for strike in &world.strikes {
        let Some(history) = histories.iter().find(|history| history.job == strike.job) else { continue };
        noticed.extend(after(strike, history, |attempt| {
            (attempt.attempt == strike.attempt).then_some(attempt.ended_at)?
        }));
        again.extend(after(strike, history, |attempt| {
            (attempt.attempt == strike.attempt + 1).then_some(attempt.started_at)
        }));
    }
    line(&mut text, "from a kill or freeze until it is noticed, s", noticed);
    line(&mut text, "from a kill or freeze to the next attempt, s", again);
    line(
        &mut text,
        "from the API's kill to its next answer, s",
        world.api_back.iter().map(Duration::as_secs_f64).collect(),
    );
    let repeated = histories.iter().flat_map(checker::repeated).map(|steps| steps as f64).collect();
    line(&mut text, "steps done again after a kill", repeated);
    let refused: i64 =
        histories.iter().flat_map(|history| &history.attempts).map(|attempt| attempt.refused_writes).sum();
    writeln!(text, "\nwrites of stale attempts refused: {refused}").unwrap();
    writeln!(text, "processes that ended without being killed: {}", world.ended_by_themselves).unwrap();
    text
}

fn after(strike: &Strike, history: &History, time: impl Fn(&checker::Attempt) -> Option<DateTime<Utc>>) -> Option<f64> {
    let found = history.attempts.iter().find_map(time)?;
    Some((found - strike.time).as_seconds_f64().max(0.0))
}

fn line(text: &mut String, what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return };
    let at = |share: usize| values[last * share / 100];
    let (count, median, late, worst) = (values.len(), at(50), at(95), at(100));
    writeln!(text, "| {what} | {median:.1} | {late:.1} | {worst:.1} | {count} |").unwrap();
}
