//! The figures of a run of the crash suite: what was done, as a table how long recovery took, and what went on when it
//! took longest.

use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::actions::Strike;
use super::checker::{self, History};
use super::losses;
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
    let repeated = histories.iter().flat_map(losses::repeated).map(|steps| steps as f64).collect();
    line(&mut text, "steps done again after a kill", repeated);
    let ways = histories.iter().flat_map(|history| losses::on_their_way(history, &world.broken));
    let ways = ways.map(TimeDelta::as_seconds_f64).collect();
    line(&mut text, "from a checkpoint's writing to the history, without a fault, s", ways);
    let refused: i64 =
        histories.iter().flat_map(|history| &history.attempts).map(|attempt| attempt.refused_writes).sum();
    writeln!(text, "\nwrites of stale attempts refused: {refused}").unwrap();
    writeln!(text, "processes that ended without being killed: {}", world.ended_by_themselves).unwrap();
    worst_gap(&mut text, world, histories);
    text
}

/// Faults that ended so long before may still have an effect: a worker that is gone counts as alive for a minute.
const AFTER_EFFECTS: TimeDelta = TimeDelta::seconds(60);

/// What went on during the longest time from a kill or freeze to the next attempt, so that the figure explains itself.
fn worst_gap(text: &mut String, world: &World, histories: &[History]) {
    let gap = |strike: &Strike| {
        let history = histories.iter().find(|history| history.job == strike.job)?;
        let next = history.attempts.iter().find(|attempt| attempt.attempt == strike.attempt + 1)?;
        Some(next.started_at - strike.time)
    };
    let gaps = world.strikes.iter().filter_map(|strike| Some((gap(strike)?, strike)));
    let Some((longest, Strike { action, job, attempt, time: from, .. })) = gaps.max_by_key(|(gap, _)| *gap) else {
        return;
    };
    let until = *from + longest;
    let second = |time: DateTime<Utc>| (time - *from).as_seconds_f64();
    let seconds = longest.as_seconds_f64();
    writeln!(
        text,
        "\nthe longest time to a next attempt: {seconds:.1} s, after {action:?} of attempt {attempt} of {job}"
    )
    .unwrap();
    writeln!(text, "faults until then and in the minute before, with seconds from the kill:").unwrap();
    for act in world.acts.iter().filter(|act| act.to > *from - AFTER_EFFECTS && act.from < until) {
        writeln!(text, "  {:?} from {:.1} to {:.1}", act.action, second(act.from), second(act.to)).unwrap();
    }
    writeln!(text, "all attempts at that job, and attempts of workers until then:").unwrap();
    let attempts =
        histories.iter().flat_map(|history| history.attempts.iter().map(move |attempt| (&history.job, attempt)));
    let mut lines: Vec<(&str, f64, String)> = Vec::new();
    for (of, attempt) in attempts {
        let end = attempt.ended_at.unwrap_or(until);
        if of == job || (attempt.started_at < until && end > *from) {
            let worker = attempt.worker_name.as_deref().unwrap_or("an unknown worker");
            let (begun, ended) = (second(attempt.started_at), second(end));
            let outcome = attempt.outcome.as_deref().unwrap_or("no end");
            let what = format!("attempt {} of {of} from {begun:.1} to {ended:.1}: {outcome}", attempt.attempt);
            lines.push((worker, begun, what));
        }
    }
    lines.sort_by(|one, other| one.0.cmp(other.0).then(one.1.total_cmp(&other.1)));
    for (worker, _, what) in lines {
        writeln!(text, "  {worker}: {what}").unwrap();
    }
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
