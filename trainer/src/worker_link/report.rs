//! Reports how training goes: as events for a worker, or as a progress bar or lines for people.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::device::exit_now;
use distillery_core::device_fault;
use distillery_core::protocol::{Event, Level, Point, Progress, series};
use distillery_core::text::counted;

/// A receiver of events.
pub trait Report {
    /// Receives the next event.
    fn event(&mut self, event: &Event);
}

/// A warning for the job's event history.
#[must_use]
pub fn warning(message: String) -> Event {
    Event::Log { level: Level::Warning, message }
}

/// Writes one JSON object per line to standard output.
#[derive(Debug)]
pub struct Ndjson;

impl Report for Ndjson {
    fn event(&mut self, event: &Event) {
        let line = serde_json::to_string(event).expect("events are JSON");
        let mut out = io::stdout().lock();
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            // The reader is gone.
            exit_now(1);
        }
    }
}

/// Ignores all events.
#[derive(Debug)]
pub struct Silent;

impl Report for Silent {
    fn event(&mut self, _: &Event) {}
}

/// Writes a line to standard error, whether somebody reads it or not.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Reports from another rank than 0, whose events nobody reads: what it warns of while it trains goes to standard
/// error, with its number.
#[derive(Debug)]
pub struct OtherRank(pub u32);

impl Report for OtherRank {
    fn event(&mut self, event: &Event) {
        if let Event::Log { level: Level::Warning, message } = event {
            complain(&format!("warning: {}", device_fault::of_rank(self.0, message)));
        }
    }
}

/// Reports to people: with a progress bar on a terminal, with a line per epoch elsewhere.
#[derive(Debug)]
pub struct Human {
    bar: Option<ProgressBar>,
    /// Whether somebody reads standard output, as far as is known.
    is_read: bool,
    progress: Option<Progress>,
    loss: f64,
    top1: Option<f64>,
}

impl Default for Human {
    fn default() -> Self {
        let bar = io::stdout().is_terminal().then(|| {
            let template = "{msg}\n{bar:40} {percent:>3} %  {elapsed} elapsed";
            let style = ProgressStyle::with_template(template).expect("the template is valid");
            ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stdout()).with_style(style)
        });
        Self { bar, is_read: true, progress: None, loss: f64::NAN, top1: None }
    }
}

impl Human {
    fn line(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None if !self.is_read => {}
            // As after `| head -1`. The files of the run are what counts.
            None if writeln!(io::stdout(), "{line}").is_err() => {
                self.is_read = false;
                complain("warning: nobody reads standard output any more: the run goes on without its lines");
            }
            None => {}
        }
    }

    fn status(&self) -> Option<String> {
        let progress = self.progress?;
        let top1 = self.top1.map_or_else(String::new, |top1| format!("  top-1 {top1:.2} %"));
        let left = HumanDuration(Duration::try_from_secs_f64(progress.eta_seconds).unwrap_or_default());
        Some(format!(
            "epoch {}/{}  loss {:.4}{top1}  {:.0} images/s  {left} left",
            progress.epoch, progress.epochs, self.loss, progress.images_per_second
        ))
    }

    fn metrics(&mut self, points: &[Point]) {
        let value = |name: &str| points.iter().rev().find(|point| point.name == name).map(|point| point.value);
        self.loss = value(series::TRAIN_LOSS).unwrap_or(self.loss);
        if let Some(top1) = value(series::EVAL_TOP1) {
            self.top1 = Some(top1);
            if let Some(status) = self.status().filter(|_| self.bar.is_none()) {
                self.line(&status);
            }
        }
    }
}

impl Report for Human {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started(started) => {
                let (device, precision) = (&started.device, &started.precision);
                let threads = counted(started.threads, "thread", "threads");
                let images = counted(started.train_images, "image", "images");
                let classes = counted(started.classes, "class", "classes");
                let evaluated = counted(started.eval_images, "evaluation image", "evaluation images");
                self.line(&format!(
                    "training on {device} in {precision} with {threads}: {images} of {classes}, and {evaluated}"
                ));
                if started.resumed_step > 0 {
                    let epochs = counted(started.resumed_epochs, "epoch", "epochs");
                    self.line(&format!("resuming after {epochs}, at step {}", started.resumed_step));
                }
            }
            Event::Teacher(teacher) => self.line(&format!("teacher: top-1 {:.2} %", teacher.top1)),
            Event::Metrics { points } => self.metrics(points),
            Event::Progress(progress) => {
                self.progress = Some(*progress);
                if let (Some(bar), Some(status)) = (&self.bar, self.status()) {
                    bar.set_length(progress.steps);
                    bar.set_position(progress.step);
                    bar.set_message(status);
                }
            }
            Event::Log { level, message } => {
                let mark = if *level == Level::Warning { "warning: " } else { "" };
                self.line(&format!("{mark}{message}"));
            }
            Event::Checkpoint { .. } => {}
            Event::Finished(outcome) => {
                let (best, epoch, last) = (outcome.best_top1, outcome.best_epoch, outcome.last_top1);
                self.line(&format!("finished: best top-1 {best:.2} % after epoch {epoch}, last {last:.2} %"));
            }
            Event::Stopped { epoch, step } => {
                let epochs = counted(*epoch, "epoch", "epochs");
                self.line(&format!("stopped after {epochs}, at step {step}; run the same command to resume"));
            }
            Event::Failed(failure) => complain(&format!("error: {}", failure.message)),
        }
        if let (Some(bar), Event::Finished(_) | Event::Stopped { .. } | Event::Failed(_)) = (&self.bar, event) {
            bar.abandon();
        }
    }
}
