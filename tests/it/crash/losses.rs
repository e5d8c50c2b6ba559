//! What kills and freezes cost: from where each attempt went on, and what work was done again.

use chrono::TimeDelta;

use super::checker::{CleanKill, Event, History, Period};

/// A checkpoint that was written so shortly before a kill may still have been on its way to storage and the history, on
/// any machine. On one whose disk is slow it may take as long as the slowest of the run.
pub const ON_ITS_WAY: TimeDelta = TimeDelta::seconds(2);

/// Attempt and step of every checkpoint in a history.
pub fn checkpoints(events: &[Event]) -> Vec<(i32, u64)> {
    let saved = events.iter().filter(|event| event.kind == "checkpoint");
    saved.filter_map(|event| Some((event.attempt, event.number("step")?))).collect()
}

/// The step from which each attempt that trained resumed.
fn resumptions(events: &[Event]) -> Vec<(usize, i32, u64)> {
    let started = events.iter().enumerate().filter(|(_, event)| event.kind == "log");
    started.filter_map(|(place, event)| Some((place, event.attempt, event.number("resumed_step")?))).collect()
}

/// An attempt goes on from the last state that was saved, and from nothing that nobody did.
pub fn resumption(history: &History, found: &mut Vec<String>) {
    let resumptions = resumptions(&history.events);
    for (place, attempt, resumed) in &resumptions {
        let saved = checkpoints(&history.events[..*place]).iter().map(|(_, step)| *step).max().unwrap_or(0);
        let is_unusable = |event: &Event| event.attempt == *attempt && event.message.contains("cannot be used");
        // The file was deleted after a commit that the database then lost.
        let excused = history.lost_commits && history.events.iter().any(is_unusable);
        if *resumed < saved && !excused {
            found.push(format!("attempt {attempt} went on from step {resumed}, and step {saved} had been saved"));
        }
        // An attempt can only resume from what an earlier one did.
        let done = history.trained.iter().filter(|(earlier, _)| *earlier < attempt).map(|(_, step)| *step).max();
        if *resumed > done.unwrap_or(0) {
            found.push(format!("attempt {attempt} went on from step {resumed}, which nobody had done"));
        }
    }
}

/// What a kill takes is what was on its way: the checkpoint that the worker was storing, and those behind it.
pub fn losses(history: &History, on_its_way: TimeDelta, found: &mut Vec<String>) {
    let resumptions = resumptions(&history.events);
    for kill in &history.clean_kills {
        let Some((_, next, resumed)) = resumptions.iter().find(|(_, attempt, _)| *attempt > kill.attempt) else {
            continue;
        };
        // It waits for the one that is being stored, and is stored then.
        let allowed = if kill.storing_since.is_some() { on_its_way * 2 } else { on_its_way };
        let lost = history.written.iter().filter(|written| written.attempt == kill.attempt && written.step > *resumed);
        let Some(oldest) = lost.min_by_key(|written| written.time) else { continue };
        let age = kill.time - oldest.time;
        if age > allowed {
            let doing = match kill.storing_since {
                Some(since) => format!("had been storing one for {:.1} s", (kill.time - since).as_seconds_f64()),
                None => "was storing none".to_owned(),
            };
            found.push(format!(
                "more than the work of one checkpoint interval was lost: attempt {} had written step {} {:.1} s before \
                 it was killed, its worker {doing}, and attempt {next} went on from {resumed}; {:.1} s are allowed",
                kill.attempt,
                oldest.step,
                age.as_seconds_f64(),
                allowed.as_seconds_f64()
            ));
        }
    }
}

/// How long each checkpoint took from its trainer to the history, of those that met no fault on their way.
pub fn on_their_way(history: &History, broken: &[Period]) -> Vec<TimeDelta> {
    let recorded = history.events.iter().filter(|event| event.kind == "checkpoint");
    let time = |event: &Event| {
        let step = event.number("step")?;
        // A number may have been given twice, where the database lost a claim.
        let own = history
            .written
            .iter()
            .filter(|written| written.attempt == event.attempt && written.step == step && written.time <= event.time);
        let written = own.map(|written| written.time).max()?;
        let met_fault = broken.iter().any(|(from, to)| *from < event.time && *to > written);
        (!met_fault).then(|| event.time - written)
    };
    recorded.filter_map(time).collect()
}

/// How long a checkpoint may be on its way in a run in which others took so long. An objection if most took so long
/// that the run shows nothing.
pub fn allowed_on_its_way(mut ways: Vec<TimeDelta>) -> (TimeDelta, Option<String>) {
    ways.sort_unstable();
    let median = ways.get(ways.len() / 2).copied().unwrap_or_default();
    let objection = (median > ON_ITS_WAY).then(|| {
        format!(
            "half of {} checkpoints took {:.1} s or longer from their trainer to the history: workers wait for \
             something else, or this machine is too busy for this suite",
            ways.len(),
            median.as_seconds_f64()
        )
    });
    (ways.last().copied().unwrap_or_default().max(ON_ITS_WAY), objection)
}

/// Steps that were done again after each clean kill.
pub fn repeated(history: &History) -> Vec<u64> {
    let resumptions = resumptions(&history.events);
    let after = |kill: &CleanKill| {
        let (_, _, resumed) = resumptions.iter().find(|(_, attempt, _)| *attempt > kill.attempt)?;
        Some(history.trained.get(&kill.attempt)?.saturating_sub(*resumed))
    };
    history.clean_kills.iter().filter_map(after).collect()
}
