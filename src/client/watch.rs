//! `watch` and `logs`: a job's history and its new entries.

use std::io::{self, Write};

use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::display::{self, Display};
use super::error::{Error, Exit};
use super::follow::{self, JobFollower, News};
use super::server::ApiClient;
use crate::cli::LogsArgs;
use distillery_core::tell;

/// Number of earlier entries that are shown.
const EARLIER: usize = 10;

/// The signals that end a command without an effect on the job.
pub(super) struct Interruptions {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruptions {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}

/// Follows a job until it has ended, or a signal ends this command.
///
/// # Errors
/// The server refuses or cannot be reached, or the output cannot be written.
pub async fn watch(server: &ApiClient, job: &str, is_json: bool) -> Result<Exit, Error> {
    let mut interruptions = Interruptions::listen()?;
    let mut display = Display::new(is_json);
    let outcome = tokio::select! {
        outcome = follow_job(server, job, is_json, &mut display) => outcome,
        exit = interruptions.next() => Ok(exit),
    };
    display.end();
    if matches!(outcome, Ok(Exit::Interrupted | Exit::Terminated) | Err(Error::Unreachable { .. })) {
        tell!(
            "the job goes on without this command: `distillery watch {job}` follows it again, `distillery cancel \
             {job}` cancels it"
        );
    }
    outcome
}

async fn follow_job(server: &ApiClient, job: &str, is_json: bool, display: &mut Display) -> Result<Exit, Error> {
    // Asked first, because it fails at once if there is no server or no such job.
    let found = server.job(job).await?;
    let mut last_id = None;
    if !is_json {
        let last_point = follow::last_point(server, job).await?;
        display.job(&found);
        let events = follow::history(server, job, 0).await?;
        let shown = events.len().saturating_sub(EARLIER);
        if shown > 0 {
            display.line(&format!("({shown} earlier entries: `distillery logs {job}` prints them)"))?;
        }
        for event in &events[shown..] {
            display.line(&display::event(event))?;
        }
        last_id = Some(follow::position(&events, last_point));
    }
    let mut follower = JobFollower::new(server, job, last_id);
    while let Some(news) = follower.next().await? {
        display.show(&news)?;
        if let News::Message(message) = &news
            && message.name == "status"
            && let Some(exit) = follow::ending(&message.data)
        {
            return end(&message.data, exit, is_json, display);
        }
    }
    // The stream had ended, and only the connection was lost: everything was received.
    let found = server.job(job).await?;
    let exit = follow::ending(&found).unwrap_or(Exit::Success);
    end(&found, exit, is_json, display)
}

fn end(job: &Value, exit: Exit, is_json: bool, display: &Display) -> Result<Exit, Error> {
    display.end();
    if !is_json {
        display.line(&display::ending(job))?;
    }
    Ok(exit)
}

/// Prints a job's history, and follows it if asked to.
///
/// # Errors
/// The server refuses or cannot be reached, or the output cannot be written.
pub async fn logs(server: &ApiClient, args: &LogsArgs) -> Result<Exit, Error> {
    let (job, is_json) = (args.id.as_str(), args.connection.json);
    let events = follow::history(server, job, 0).await?;
    let skipped = args.tail.map_or(0, |tail| events.len().saturating_sub(tail));
    for event in &events[skipped..] {
        print(event, is_json)?;
    }
    if !args.follow {
        return Ok(Exit::Success);
    }
    let last_id = follow::position(&events, follow::last_point(server, job).await?);
    let mut follower = JobFollower::new(server, job, Some(last_id));
    while let Some(news) = follower.next().await? {
        match news {
            News::Message(message) if message.name == "event" => print(&message.data, is_json)?,
            News::Message(message) if message.name == "status" && follow::ending(&message.data).is_some() => break,
            News::Message(_) => {}
            News::Lost(reason) => tell!("{reason}; trying to connect again"),
            News::Restored => tell!("connected again"),
        }
    }
    Ok(Exit::Success)
}

fn print(event: &Value, is_json: bool) -> io::Result<()> {
    let line = if is_json { event.to_string() } else { display::event(event) };
    writeln!(io::stdout(), "{line}")
}
