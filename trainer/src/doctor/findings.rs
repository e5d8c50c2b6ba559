//! What the checks found, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::device::card::Card;
use crate::models::FusedCount;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CheckState {
    Fine,
    /// It works, but slowly.
    Warning,
    Failed,
    NotChecked,
}

impl CheckState {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "WARNING",
            Self::Failed => "FAILED",
            Self::NotChecked => "not checked",
        }
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    /// Such as `driver` or `cuda:0 graphs`.
    check: String,
    state: CheckState,
    detail: String,
}

/// A GPU that could be opened.
#[derive(Debug, Serialize)]
pub(super) struct Gpu {
    pub device: String,
    #[serde(flatten)]
    pub card: Option<Card>,
    pub memory_total_bytes: Option<u64>,
    pub memory_free_bytes: Option<u64>,
    pub fused: Vec<Fused>,
}

/// How many of a teacher's convolutions cuDNN fuses.
#[derive(Debug, Serialize)]
pub(super) struct Fused {
    pub precision: &'static str,
    pub fused: usize,
    pub of: usize,
}

impl Fused {
    pub(super) fn new(precision: &'static str, FusedCount { fused, of }: FusedCount) -> Self {
        Self { precision, fused, of }
    }
}

/// All findings.
#[derive(Debug, Serialize)]
pub(super) struct Diagnosis {
    /// Whether no check failed.
    pub healthy: bool,
    findings: Vec<Finding>,
    gpus: Vec<Gpu>,
}

impl Diagnosis {
    pub(super) fn new() -> Self {
        Self { healthy: true, findings: Vec::new(), gpus: Vec::new() }
    }

    pub(super) fn add(&mut self, check: &str, state: CheckState, detail: &str) {
        self.healthy &= state != CheckState::Failed;
        self.findings.push(Finding { check: check.to_owned(), state, detail: detail.to_owned() });
    }

    pub(super) fn add_gpu(&mut self, gpu: Gpu) {
        self.gpus.push(gpu);
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("findings are JSON")
    }

    /// A line for each finding, and the verdict.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for Finding { check, state, detail } in &self.findings {
            // Writing to a string succeeds.
            let _ = writeln!(text, "{check:width$}  {:11}  {detail}", state.word());
        }
        text + if self.healthy { "Jobs can run here." } else { "Jobs cannot run here: see the checks that FAILED." }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_check_is_enough_to_fail_and_warnings_are_not() {
        let mut diagnosis = Diagnosis::new();
        diagnosis.add("driver", CheckState::Fine, "580.65.06");
        diagnosis.add("plugin", CheckState::Warning, "there is none");
        diagnosis.add("cuda:0 graphs", CheckState::NotChecked, "they are in the plugin");
        assert!(diagnosis.healthy);
        let text = diagnosis.to_text();
        assert!(text.contains("plugin         WARNING      there is none\n"), "{text}");
        assert!(text.ends_with("Jobs can run here."), "{text}");
        diagnosis.add("cuda:1", CheckState::Failed, "out of memory");
        assert!(!diagnosis.healthy && diagnosis.to_text().contains("cannot run"));
        let json: serde_json::Value = serde_json::from_str(&diagnosis.to_json()).unwrap();
        assert_eq!(json["healthy"], false);
        assert_eq!(json["findings"][2]["state"], "not_checked");
    }
}
