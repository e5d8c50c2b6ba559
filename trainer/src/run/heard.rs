//! What other ranks warn of before training begins: rank 0 reports it for them, since nobody reads their events.

use crate::error::Result;
use crate::ranks::Ranks;
use crate::worker_link::report::{Report, warning};
use distillery_core::protocol::{Event, Level};

/// Keeps the warnings that pass. The events of rank 0 go on to its report.
pub(super) struct Heard<'a> {
    /// `None` on other ranks.
    report: Option<&'a mut dyn Report>,
    warnings: Vec<String>,
}

impl<'a> Heard<'a> {
    pub(super) fn new(report: &'a mut dyn Report, rank: u32) -> Self {
        Self { report: (rank == 0).then_some(report), warnings: Vec::new() }
    }

    /// Has rank 0 report what only other ranks warned of, with their numbers. All ranks call it, and wait.
    ///
    /// # Errors
    /// Another rank is gone.
    pub(super) fn exchange(self, ranks: &Ranks) -> Result<()> {
        let own = serde_json::to_string(&self.warnings).expect("texts are JSON");
        let all = ranks.gather_texts(&own)?;
        let Some(report) = self.report else { return Ok(()) };
        let all: Vec<Vec<String>> = all.iter().map(|text| serde_json::from_str(text).unwrap_or_default()).collect();
        of_other_ranks(&all).into_iter().for_each(|message| report.event(&warning(message)));
        Ok(())
    }
}

impl Report for Heard<'_> {
    fn event(&mut self, event: &Event) {
        if let Event::Log { level: Level::Warning, message } = event {
            self.warnings.push(message.clone());
        }
        if let Some(report) = &mut self.report {
            report.event(event);
        }
    }
}

/// The messages that rank 0 does not have, each once and behind the numbers of the ranks that have it.
fn of_other_ranks(all: &[Vec<String>]) -> Vec<String> {
    let [first, others @ ..] = all else { return Vec::new() };
    let mut found: Vec<(&str, Vec<String>)> = Vec::new();
    for (messages, rank) in others.iter().zip(1_u32..) {
        for message in messages.iter().filter(|message| !first.contains(message)) {
            let known = found.iter().position(|(known, _)| known == message);
            let at = known.unwrap_or_else(|| {
                found.push((message.as_str(), Vec::new()));
                found.len() - 1
            });
            let ranks = &mut found[at].1;
            if !ranks.contains(&rank.to_string()) {
                ranks.push(rank.to_string());
            }
        }
    }
    let told = found.into_iter().map(|(message, ranks)| match ranks.as_slice() {
        [rank] => format!("rank {rank}: {message}"),
        _ => format!("ranks {}: {message}", ranks.join(", ")),
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_ranks_warn_of_is_told_once_with_their_numbers_unless_rank_0_warned_of_it() {
        let messages = |all: &[&str]| all.iter().map(|&message| message.to_owned()).collect::<Vec<_>>();
        let all = [
            messages(&["a doubt"]),
            messages(&["a doubt", "no kernel"]),
            messages(&["slow", "slow", "a doubt", "no kernel"]),
        ];
        assert_eq!(of_other_ranks(&all), ["ranks 1, 2: no kernel", "rank 2: slow"]);
        assert!(of_other_ranks(&all[..1]).is_empty());
        assert!(of_other_ranks(&[]).is_empty());
    }
}
