//! Measures where the time before the first step goes, for the job's events.

use std::fmt::Write;
use std::time::Instant;

/// The phases of a start.
#[derive(Debug)]
pub struct StartupTimer {
    /// Names and seconds.
    phases: Vec<(&'static str, f64)>,
    begun: Instant,
}

impl StartupTimer {
    /// The first phase is the age of the process, during which libtorch was loaded.
    #[must_use]
    pub fn begin() -> Self {
        let phases = age().into_iter().map(|seconds| ("process", seconds)).collect();
        Self { phases, begun: Instant::now() }
    }

    /// Ends a phase.
    pub fn mark(&mut self, phase: &'static str) {
        self.phases.push((phase, self.begun.elapsed().as_secs_f64()));
        self.begun = Instant::now();
    }

    /// `the first step was done after 0.93 s: process 0.21, data 0.40, …`
    #[must_use]
    pub fn summary(&self) -> String {
        let total: f64 = self.phases.iter().map(|(_, seconds)| seconds).sum();
        let mut text = format!("the first step was done after {total:.2} s");
        for (index, (phase, seconds)) in self.phases.iter().enumerate() {
            let _ = write!(text, "{} {phase} {seconds:.2}", if index == 0 { ":" } else { "," });
        }
        text
    }
}

/// The unit of `/proc` on every architecture that libtorch supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds since this process was started, including the time before it started itself once more.
fn age() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may contain anything. The 20th field after it is the start, in ticks since boot.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some((uptime - ticks / TICKS_PER_SECOND).max(0.0))
}
