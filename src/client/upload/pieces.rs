//! Sends a data set in pieces. After a lost connection, or in a later command, it goes on where the server has got to.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use indicatif::ProgressBar;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Body, Method};
use serde_json::Value;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;

use super::sending::answer;
use super::source::UploadSource;
use crate::archive::ChannelWriter;
use crate::client::error::Error;
use crate::client::server::ApiClient;
use distillery_core::tell;

/// Most pieces of an upload that the server takes.
const MOST_PIECES: u64 = 10_000;
/// Wait before the first attempt to connect again; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Most times that the server may refuse the place of a piece before one is stored.
const MOST_CONFLICTS: u32 = 5;

/// Query parameters that say which shard an upload is.
pub type ShardPlace = [(&'static str, String)];

/// Sends uploads of a data set, one after the other.
#[derive(Debug)]
pub struct PieceSender<'a> {
    server: &'a ApiClient,
    /// Of the data set.
    name: &'a str,
    /// Least size of a piece, in bytes.
    least: u64,
    bar: ProgressBar,
    /// Bytes of the uploads before.
    done: u64,
    current: Current,
}

/// The upload that is being sent.
#[derive(Debug, Default)]
struct Current {
    upload: String,
    size: u64,
    /// Bytes that the server has.
    received: u64,
    /// Whether the server has answered.
    is_begun: bool,
    /// Since when no piece was stored.
    lost: Option<Instant>,
    pause: Duration,
    conflicts: u32,
}

impl<'a> PieceSender<'a> {
    pub fn new(server: &'a ApiClient, name: &'a str, least: u64, bar: ProgressBar) -> Self {
        Self { server, name, least, bar, done: 0, current: Current::default() }
    }

    /// Counts an upload that need not be sent.
    pub fn pass(&mut self, source: &UploadSource) {
        self.done += source.size;
        self.bar.set_position(self.done);
    }

    /// Sends an upload to its end, and returns the server's last answer.
    ///
    /// # Errors
    /// The source cannot be read, or the server refuses the upload or cannot be reached.
    pub async fn send(&mut self, source: &Arc<UploadSource>, place: &ShardPlace) -> Result<Value, Error> {
        let size = source.size;
        let piece = self.least.max(size.div_ceil(MOST_PIECES));
        let upload = source.upload_name(&format!("{piece} {place:?}"));
        self.current = Current { upload, size, pause: FIRST_PAUSE, ..Current::default() };
        // If the server has all pieces, it did not put them together: the last one makes it do so.
        let last = piece * ((size - 1) / piece);
        if last > 0 {
            self.current.received = self.received().await?;
            self.current.is_begun = true;
        }
        if self.current.received > 0 {
            self.note(&format!("the server has {} bytes of {size}: continuing after them", self.current.received));
        }
        let mut start = self.current.received.min(last);
        loop {
            let end = (start + piece).min(size);
            match self.send_piece(source, place, start..end).await {
                Ok(answer) if end == size => {
                    self.done += size;
                    return Ok(answer);
                }
                Ok(_) => {
                    let Current { received, is_begun, lost, pause, conflicts, .. } = &mut self.current;
                    (*received, *is_begun, *lost, *pause, *conflicts) = (end, true, None, FIRST_PAUSE, 0);
                    start = end;
                }
                Err(failure) => start = self.recover(failure, start).await?.min(last),
            }
        }
    }

    /// Waits after a failure for which another attempt may help, and returns where to continue.
    async fn recover(&mut self, failure: Error, start: u64) -> Result<u64, Error> {
        let is_conflict = matches!(failure, Error::Refused { status: 409, .. });
        let retry_after = match &failure {
            Error::Unreachable { is_final: true, .. } if !self.current.is_begun => return Err(failure),
            Error::Unreachable { retry_after, .. } => *retry_after,
            Error::Refused { status: 409, .. } if self.current.conflicts < MOST_CONFLICTS => None,
            _ => return Err(failure),
        };
        if is_conflict {
            self.current.conflicts += 1;
        } else {
            let pause = retry_after.unwrap_or(self.current.pause).min(LONGEST_PAUSE);
            let since = *self.current.lost.get_or_insert_with(Instant::now);
            if since.elapsed() + pause > self.server.reconnect {
                return Err(failure.context(&self.progress()));
            }
            self.note(&format!("{failure}; trying again in {:.1} s", pause.as_secs_f64()));
            tokio::time::sleep(pause).await;
            self.current.pause = (self.current.pause * 2).min(LONGEST_PAUSE);
        }
        match self.received().await {
            // Not the refusal of a piece that the server has, whose answer was lost.
            Ok(received) if is_conflict && received == start => Err(failure),
            Ok(received) => {
                self.current.received = received;
                Ok(received)
            }
            // The next piece finds that out, too.
            Err(Error::Unreachable { .. }) => Ok(start),
            Err(refusal) => Err(refusal),
        }
    }

    /// Bytes of the current upload that the server has.
    async fn received(&self) -> Result<u64, Error> {
        let path = ["v1", "datasets", self.name, "uploads", &self.current.upload];
        match self.server.get(&path, &[]).await {
            Ok(found) => Ok(found["received_bytes"].as_u64().unwrap_or(0)),
            Err(Error::Refused { status: 404, .. }) => Ok(0),
            Err(failure) => Err(failure),
        }
    }

    async fn send_piece(
        &self,
        source: &Arc<UploadSource>,
        place: &ShardPlace,
        part: Range<u64>,
    ) -> Result<Value, Error> {
        let (mut writer, errors, pieces) = ChannelWriter::new();
        let failed = Arc::new(Mutex::new(None));
        let (source, reading, failure) = (source.clone(), part.clone(), failed.clone());
        tokio::task::spawn_blocking(move || {
            let Err(error) = source.copy(reading, &mut writer) else { return };
            let text = error.to_string();
            // Nobody takes the rest if the request has failed, which then says why.
            if error.kind() != io::ErrorKind::BrokenPipe {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            let _ = errors.blocking_send(Err(io::Error::other(text)));
        });
        let (sent, mut progress) = watch::channel(0);
        let bar = self.bar.clone();
        bar.set_position(self.done + part.start);
        let body = ReceiverStream::new(pieces).inspect(move |piece| {
            let Ok(piece) = piece else { return };
            sent.send_modify(|sent| *sent += piece.len() as u64);
            bar.inc(piece.len() as u64);
        });
        let Range { start, end } = part;
        let Current { upload, size, .. } = &self.current;
        let request = self.server.request(Method::PUT, &["v1", "datasets", self.name]);
        let request = request.query(&[("upload", upload)]).query(place);
        let request = request
            .header(CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1))
            .header(CONTENT_LENGTH, end - start)
            .header(CONTENT_TYPE, "application/octet-stream");
        match answer(self.server, request.body(Body::wrap_stream(body)), &mut progress, end - start).await {
            Ok(answer) => self.server.json(answer).await,
            Err(failure) => {
                let of_source = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(of_source.map_or(failure, Error::from))
            }
        }
    }

    fn note(&self, note: &str) {
        self.bar.suspend(|| tell!("{note}"));
    }

    /// How much the server has of the current upload, and how to continue: a sentence without its end.
    fn progress(&self) -> String {
        let Current { received, size, .. } = &self.current;
        if *received == 0 {
            return "nothing was stored yet, and the same command begins again".to_owned();
        }
        format!("{received} of {size} bytes are on the server for a day, and the same command continues after them")
    }

    /// What to tell who has interrupted the upload.
    #[must_use]
    pub fn ending(&self) -> String {
        let Current { upload, received, .. } = &self.current;
        let progress = self.progress();
        if *received == 0 {
            return progress;
        }
        let url = self.server.url(&["v1", "datasets", self.name, "uploads", upload]);
        format!("{progress}; DELETE {url} gives the upload up")
    }
}
