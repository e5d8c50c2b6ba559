//! What `watch` and `submit --watch` print: a progress bar and lines on a terminal, lines elsewhere, or JSON.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::follow::News;
use super::text::{clock, member, message, percent, plain, time};
use crate::protocol::series::EVAL_TOP1;
use distillery_core::tell;

/// Number of steps of the bar.
const BAR: u64 = 1000;

/// Lines and a bar, or JSON.
#[derive(Debug)]
pub struct Display {
    is_json: bool,
    /// On standard error, if that is a terminal. Lines go to standard output.
    bar: Option<ProgressBar>,
    status: String,
    worker: String,
    progress: Value,
    /// Top-1 accuracy of the last evaluation, in percent.
    top1: Option<f64>,
}

impl Display {
    /// Draws nothing yet.
    #[must_use]
    pub fn new(is_json: bool) -> Self {
        let bar = io::IsTerminal::is_terminal(&io::stderr()).then(|| {
            let style = ProgressStyle::with_template("{msg}\n{bar:40} {percent:>3} %").expect("the template is valid");
            ProgressBar::with_draw_target(Some(BAR), ProgressDrawTarget::stderr()).with_style(style)
        });
        let bar = bar.filter(|_| !is_json);
        let (status, worker) = (String::new(), String::new());
        Self { is_json, bar, status, worker, progress: Value::Null, top1: None }
    }

    /// Shows what has happened.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub fn show(&mut self, news: &News) -> io::Result<()> {
        let message = match news {
            News::Message(message) => message,
            News::Lost(reason) => {
                self.note(&format!("{reason}; trying to connect again"));
                return Ok(());
            }
            News::Restored => {
                self.note("connected again");
                return Ok(());
            }
        };
        if self.is_json {
            return self.line(&json!({"type": message.name, "data": message.data}).to_string());
        }
        match message.name.as_str() {
            "event" => self.line(&event(&message.data))?,
            "status" => self.job(&message.data),
            "progress" => self.progress.clone_from(&message.data),
            "metric" if message.data["name"] == EVAL_TOP1 => {
                self.top1 = message.data["value"].as_f64();
                if let (None, Some(top1)) = (&self.bar, percent(message.data.get("value"))) {
                    self.line(&format!(
                        "{}  top-1 accuracy is {top1} after epoch {}",
                        time(&message.data["time"]),
                        message.data["epoch"].as_f64().unwrap_or_default()
                    ))?;
                }
            }
            _ => {}
        }
        self.draw();
        Ok(())
    }

    /// Takes the status from a job, and shows it: a bar that is drawn before it has a text begins with an empty line.
    pub fn job(&mut self, job: &Value) {
        self.status = member(job, "/status");
        self.worker = member(job, "/worker");
        if !job["progress"].is_null() {
            self.progress.clone_from(&job["progress"]);
        }
        self.draw();
    }

    /// Prints a line to standard output.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn line(&self, line: &str) -> io::Result<()> {
        let write = || writeln!(io::stdout(), "{line}");
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Prints a note about this command itself, to standard error.
    pub fn note(&self, note: &str) {
        let write = || tell!("{note}");
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Removes the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn draw(&self) {
        let Some(bar) = &self.bar else { return };
        bar.set_position((self.progress["fraction"].as_f64().unwrap_or(0.0).clamp(0.0, 1.0) * BAR as f64) as u64);
        bar.set_message(self.summary());
    }

    fn summary(&self) -> String {
        let mut parts = vec![self.status.clone()];
        if !self.worker.is_empty() {
            parts[0] += &format!(" on {}", self.worker);
        }
        let number = |name: &str| self.progress[name].as_f64();
        if let (Some(epoch), Some(epochs)) = (number("epoch"), number("epochs")) {
            parts.push(format!("epoch {epoch} of {epochs}"));
        }
        if let Some(rate) = number("images_per_second").filter(|rate| *rate > 0.0) {
            parts.push(format!("{rate:.0} images/s"));
        }
        if let Some(seconds) = number("eta_seconds") {
            parts.push(format!("{} left", clock(seconds)));
        }
        if let Some(top1) = self.top1 {
            parts.push(format!("top-1 {top1:.2} %"));
        }
        parts.join(", ")
    }
}

/// An entry of a history as a line.
#[must_use]
pub fn event(event: &Value) -> String {
    let mark = if event["kind"] == "warning" { "warning: " } else { "" };
    format!("{}  {mark}{}", time(&event["time"]), message(event, "/message"))
}

/// Why a job failed: the kind of failure in words, and what happened.
#[must_use]
pub fn failure(error: &Value) -> String {
    let class = member(error, "/class");
    let kind = match class.as_str() {
        "user" => "the job, a checkpoint or the data is at fault",
        "oom" => "out of memory",
        "numeric" => "the loss is not finite",
        "worker_lost" => "the worker was lost",
        "storage" => "a file cannot be read or written",
        "machine" => "the worker's machine cannot run it",
        "internal" => "a bug",
        other => other,
    };
    format!("{kind}: {}", message(error, "/message"))
}

/// One line on how a job ended, and what to do next.
#[must_use]
pub fn ending(job: &Value) -> String {
    let id = member(job, "/id");
    match job["status"].as_str() {
        Some("succeeded") => {
            let result = &job["result"];
            let top1 = percent(result.get("best_top1")).unwrap_or_else(|| "unknown".to_owned());
            let teacher = percent(result.get("teacher_top1")).map(|top1| format!(", the teacher's is {top1}"));
            format!(
                "{id} succeeded: the student's top-1 accuracy is {top1} (epoch {}){}. `distillery download \
                 {id}` downloads it",
                result["best_epoch"],
                teacher.unwrap_or_default()
            )
        }
        Some("failed") => {
            format!("{id} failed: {}", failure(&job["error"]))
        }
        Some(status) => format!("{id} is {}", plain(status)),
        None => id,
    }
}
