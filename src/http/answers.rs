//! Memory of answers that wait for clients to read them: it has a limit, and once that is reached the slowest clients
//! give way.
//!
//! An answer is in memory until the kernel has taken its last byte, so a client that asks for much and reads nothing
//! keeps much. Each answer that is made in one piece, and each piece of one that is made as it is read, reserves memory
//! before it goes to its connection and frees it when it has gone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::ACCEPT_ENCODING;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use futures::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::ServerSettings;
use super::connections::Connection;
use super::error::ApiError;

/// Bytes of an answer for which no memory is reserved: the buffers of its connection take more.
const SMALL: u64 = 8 << 10;
/// Memory in bytes of the encoder of an answer, which is kept until the last byte is taken.
const ENCODER: usize = 320 << 10;
/// How long an answer that is made already waits for memory.
const PATIENCE: Duration = Duration::from_secs(2);
/// Answers that wait for memory may take the limit divided by this together, in addition to it.
const WAITING_PART: usize = 4;
/// Slow clients give up the limit divided by this at a time.
const GIVEN_UP_PART: usize = 8;
/// Shortest time between two rounds in which slow clients give way.
const PACE: Duration = Duration::from_millis(200);

/// The answers of this process that wait to be read.
#[derive(Debug)]
pub struct Answers {
    /// In KiB.
    free: Arc<Semaphore>,
    /// For those that wait for memory, in KiB.
    waiting: Arc<Semaphore>,
    all_kib: usize,
    held: Mutex<Held>,
    /// How long a client keeps its memory however slow it is.
    patience: Duration,
    /// Bytes per second with which it keeps its memory after that.
    fair: u64,
}

#[derive(Debug, Default)]
struct Held {
    last: u64,
    /// By number, in the order in which they came.
    answers: BTreeMap<u64, HeldAnswer>,
    /// When slow clients last gave way.
    gave_way: Option<Instant>,
}

#[derive(Debug)]
struct HeldAnswer {
    since: Instant,
    kib: usize,
    connection: Connection,
}

impl HeldAnswer {
    /// Bytes per second if the client had read all of it by now: it is no faster.
    fn rate(&self) -> f64 {
        (self.kib << 10) as f64 / self.since.elapsed().as_secs_f64()
    }
}

/// The client that an answer is for: its connection, and what its answer costs besides its bytes.
#[derive(Debug, Clone)]
pub struct AnswerClient {
    connection: Connection,
    /// Memory in bytes that compressing the answer takes.
    encoder: usize,
}

impl AnswerClient {
    /// The same client, whose answer is not compressed.
    pub fn without_compression(self) -> Self {
        Self { encoder: 0, ..self }
    }
}

impl<S: Sync> FromRequestParts<S> for AnswerClient {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let mut accepted = parts.headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let encoder = if accepted.any(|value| value.contains("gzip")) { ENCODER } else { 0 };
        Ok(Self { connection: parts.extensions.get().cloned().unwrap_or_default(), encoder })
    }
}

/// Memory that is reserved for one answer or one piece of it.
#[derive(Debug)]
pub struct ReservedMemory {
    answers: Arc<Answers>,
    permit: OwnedSemaphorePermit,
    client: AnswerClient,
}

/// Bytes on their way to a client, with their memory.
#[derive(Debug)]
struct Sent {
    bytes: Bytes,
    number: u64,
    memory: ReservedMemory,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.memory.answers.held().answers.remove(&self.number);
    }
}

impl Answers {
    pub fn new(settings: &ServerSettings) -> Self {
        let all_kib = usize::try_from(settings.answers_limit >> 10).unwrap_or(usize::MAX);
        let all_kib = all_kib.clamp(WAITING_PART, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            free: Arc::new(Semaphore::new(all_kib)),
            waiting: Arc::new(Semaphore::new(all_kib / WAITING_PART)),
            all_kib,
            held: Mutex::default(),
            patience: settings.answer_patience,
            fair: settings.answer_fair,
        }
    }

    /// Waits until this many bytes are free, for which slow clients give way. To be called before the bytes are made.
    pub async fn reserve(self: &Arc<Self>, bytes: usize, client: &AnswerClient) -> ReservedMemory {
        let mut acquiring = pin!(self.free.clone().acquire_many_owned(self.kib(bytes, client)));
        loop {
            tokio::select! {
                biased;
                permit = &mut acquiring => {
                    let permit = permit.expect("nobody closes it");
                    return ReservedMemory { answers: self.clone(), permit, client: client.clone() };
                }
                () = tokio::time::sleep(PACE) => self.end_slow(),
            }
        }
    }

    /// Reserves memory for an answer that is made already. Few of those wait, and not for long.
    async fn reserve_soon(self: &Arc<Self>, bytes: usize, client: &AnswerClient) -> Result<ReservedMemory, ApiError> {
        let needed = self.kib(bytes, client);
        if let Ok(permit) = self.free.clone().try_acquire_many_owned(needed) {
            return Ok(ReservedMemory { answers: self.clone(), permit, client: client.clone() });
        }
        self.end_slow();
        let too_many =
            || ApiError::Unavailable("too many answers wait for clients that read them slowly: try again".into());
        let _waiting = self.waiting.clone().try_acquire_many_owned(needed).map_err(|_| too_many())?;
        tokio::time::timeout(PATIENCE, self.reserve(bytes, client)).await.map_err(|_| too_many())
    }

    /// KiB that this many bytes take, and no more than there are.
    fn kib(&self, bytes: usize, client: &AnswerClient) -> u32 {
        u32::try_from((bytes + client.encoder).div_ceil(1024).clamp(1, self.all_kib)).unwrap_or(u32::MAX)
    }

    /// Closes the connections of the slowest clients that have had their time.
    fn end_slow(&self) {
        let mut held = self.held();
        if held.gave_way.is_some_and(|last| last.elapsed() < PACE) {
            return;
        }
        held.gave_way = Some(Instant::now());
        let is_slow =
            |answer: &&HeldAnswer| answer.since.elapsed() >= self.patience && answer.rate() < self.fair as f64;
        let mut slow: Vec<&HeldAnswer> = held.answers.values().filter(is_slow).collect();
        slow.sort_by(|one, other| one.rate().total_cmp(&other.rate()));
        let (mut given_up, mut ended) = (0, 0);
        for answer in slow {
            if given_up >= self.all_kib.div_ceil(GIVEN_UP_PART) {
                break;
            }
            answer.connection.close();
            given_up += answer.kib;
            ended += 1;
        }
        if ended > 0 {
            tracing::warn!(
                ended,
                "closed connections of clients that read their answers too slowly, because memory for answers ran out"
            );
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReservedMemory {
    /// The bytes, which keep what they need of the memory until they are sent or their connection is closed.
    pub fn hold(mut self, bytes: impl Into<Bytes>) -> Bytes {
        let bytes = bytes.into();
        let needed = self.answers.kib(bytes.len(), &self.client) as usize;
        drop(self.permit.split(self.permit.num_permits().saturating_sub(needed)));
        let answers = self.answers.clone();
        let (since, connection) = (Instant::now(), self.client.connection.clone());
        let mut held = answers.held();
        held.last += 1;
        let number = held.last;
        held.answers.insert(number, HeldAnswer { since, kib: self.permit.num_permits(), connection });
        drop(held);
        Bytes::from_owner(Sent { bytes, number, memory: self })
    }
}

/// The pieces of an answer, each followed by an empty one. What compresses them lets go of a piece only when it gets
/// another, and the next one may have to wait for the memory of this one.
pub fn let_go<E>(pieces: impl Stream<Item = Result<Bytes, E>>) -> impl Stream<Item = Result<Bytes, E>> {
    pieces.flat_map(|piece| {
        let empty = piece.is_ok().then(|| Ok(Bytes::new()));
        stream::iter(std::iter::once(piece).chain(empty))
    })
}

/// Holds answers that are made in one piece, inside of what compresses them.
pub async fn hold(
    State(answers): State<Arc<Answers>>,
    client: AnswerClient,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let response = next.run(request).await;
    if response.body().size_hint().exact().is_none_or(|size| size <= SMALL) {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(anyhow::Error::from)?;
    let memory = answers.reserve_soon(bytes.len(), &client).await?;
    Ok(Response::from_parts(head, Body::from(memory.hold(bytes))))
}
