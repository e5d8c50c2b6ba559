//! Extractors whose rejections are [`ApiError`]s, so that clients get problem documents.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use bytes::BytesMut;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AppState;
use super::error::ApiError;
use crate::ids::{self, IdForm};
use crate::spec::Fault;
use crate::text::{self, quoted, without_mark};

/// Largest body read into memory, in bytes.
pub const BODY_LIMIT: usize = 1 << 20;
/// Bytes of a body that need no permit while they arrive: most bodies have fewer.
const SMALL_BODY: usize = 16 << 10;
/// Most KiB of larger bodies while they arrive.
const ARRIVING_KIB: usize = 32 << 10;
/// Most KiB of all bodies that are parsed. A parsed document takes up to 16 times its text.
const PARSED_KIB: usize = 16 << 10;
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// How long the rest of a body that is refused may take.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);

/// Memory for bodies.
///
/// A body gets it as its bytes arrive, and the large share that parsing takes once they are all there, so that a client
/// takes no more from others than it has sent.
#[derive(Debug)]
pub struct Bodies {
    arriving: Arc<Semaphore>,
    parsed: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { arriving: Arc::new(Semaphore::new(ARRIVING_KIB)), parsed: Arc::new(Semaphore::new(PARSED_KIB)) }
    }
}

/// The memory of one body, which is free again once this is dropped.
#[derive(Debug)]
struct BodyPermit {
    _arriving: Arriving,
    _parsed: OwnedSemaphorePermit,
}

/// The memory of a body that arrives.
#[derive(Debug, Default)]
struct Arriving {
    permit: Option<OwnedSemaphorePermit>,
    /// Bytes that the permit is for.
    paid: usize,
}

impl Bodies {
    /// Receives a body, and waits for the memory to parse it.
    async fn receive(&self, request: Request) -> Result<(Bytes, BodyPermit), ApiError> {
        let slow = |_| ApiError::TooSlow("the body took too long to arrive: try again".into());
        let arrived = tokio::time::timeout(BODY_PATIENCE, self.arrive(request)).await.map_err(slow)?;
        let (bytes, arriving) = arrived?;
        let parsed = self.parsed.clone().acquire_many_owned(kib(bytes.len())).await.expect("nobody closes it");
        Ok((bytes, BodyPermit { _arriving: arriving, _parsed: parsed }))
    }

    async fn arrive(&self, request: Request) -> Result<(Bytes, Arriving), ApiError> {
        let (mut bytes, mut arriving) = (BytesMut::new(), Arriving::default());
        let mut pieces = request.into_body().into_data_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|_| ApiError::malformed("the body ended early"))?;
            let length = bytes.len() + piece.len();
            if length > BODY_LIMIT {
                return Err(ApiError::TooLarge(BODY_LIMIT as u64));
            }
            if length > SMALL_BODY.max(arriving.paid)
                && let Err(refusal) = arriving.grow(&self.arriving, length)
            {
                drop((bytes, arriving));
                // A client that is answered while it sends may not see the answer.
                let rest = pieces.for_each(|_| std::future::ready(()));
                let _ = tokio::time::timeout(REFUSED_PATIENCE, rest).await;
                return Err(refusal);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes.freeze(), arriving))
    }
}

impl Arriving {
    /// Takes memory for a body of this length so far, whose buffer grows by doubling.
    fn grow(&mut self, memory: &Arc<Semaphore>, length: usize) -> Result<(), ApiError> {
        let needed = length.next_power_of_two();
        let Ok(more) = memory.clone().try_acquire_many_owned(kib(needed - self.paid)) else {
            return Err(ApiError::Unavailable("too many large bodies arrive at the same time: try again".into()));
        };
        self.paid = needed;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// This many bytes in KiB, rounded up, and at least 1.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX)
}

/// A JSON document, with the bytes it was parsed from: those of the body, without a byte-order mark.
#[derive(Debug)]
pub struct JsonBody {
    pub value: Value,
    pub bytes: Bytes,
    /// Until it is dropped.
    _permit: BodyPermit,
}

impl FromRequest<AppState> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::UnsupportedMediaType(
                "the body must be JSON, with the header content-type: application/json".into(),
            ));
        }
        let (bytes, permit) = state.bodies.receive(request).await?;
        let bytes = bytes.slice_ref(without_mark(&bytes));
        if bytes.trim_ascii().is_empty() {
            return Err(ApiError::malformed("the body is empty: expected a JSON document"));
        }
        match text::json(&bytes) {
            Ok(value) => Ok(Self { value, bytes, _permit: permit }),
            Err(error) if error.is_data() => Err(ApiError::malformed(format!("the body cannot be used: {error}"))),
            Err(error) => Err(ApiError::malformed(format!("the body is not JSON: {error}"))),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Refuses a multipart form, which is not the file itself.
pub fn refuse_form(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.to_ascii_lowercase().starts_with("multipart/") {
        return Err(ApiError::UnsupportedMediaType(
            "send the file itself as the body, not a form: use curl -T FILE instead of curl -F file=@FILE".into(),
        ));
    }
    Ok(())
}

/// Query parameters. `T` must refuse unknown ones (`deny_unknown_fields`), so that a misspelt parameter is an error and
/// does not silently become the default.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // PostgreSQL's texts cannot hold it.
        if let Some(pair) = parts.uri.query().and_then(|query| query.split('&').find(|pair| pair.contains("%00"))) {
            let name: String = pair.split('=').next().unwrap_or_default().chars().take(64).collect();
            return Err(ApiError::malformed(format!("query parameters: {name}: expected text without NUL (%00)")));
        }
        match axum_extra::extract::Query::from_request_parts(parts, state).await {
            Ok(axum_extra::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                // The outermost message only says that parsing failed.
                let cause =
                    std::error::Error::source(&rejection).map_or_else(|| rejection.to_string(), ToString::to_string);
                Err(ApiError::malformed(format!("query parameters: {}", text::of_serde(&cause, "value"))))
            }
        }
    }
}

/// The latest time in a cursor, in microseconds since 1970: the end of the year 9999. PostgreSQL and arithmetic with
/// times go a little further, but not to every number.
const LATEST: i64 = 253_402_300_799_999_999;

/// The time that a cursor holds in microseconds since 1970; `None` if nothing stored here can have it.
pub fn time(text: &str) -> Option<DateTime<Utc>> {
    let micros = text.parse().ok().filter(|micros| (0..=LATEST).contains(micros))?;
    DateTime::from_timestamp_micros(micros)
}

/// The `{id}` of a path: a prefix, which tells the kind of resource, and a tail. Anything else gets 404, because no
/// resource has such an id.
#[derive(Debug, Clone)]
pub struct Id<K>(pub String, std::marker::PhantomData<K>);

pub type JobId = Id<JobIds>;
pub type CheckpointId = Id<CheckpointIds>;
pub type SweepId = Id<SweepIds>;

/// A kind of resource that has ids.
pub trait IdKind {
    /// The resource, as in "there is no …".
    const NAME: &'static str;
    const FORM: IdForm;
}

#[derive(Debug, Clone)]
pub struct JobIds;

impl IdKind for JobIds {
    const NAME: &'static str = "job";
    const FORM: IdForm = ids::JOB;
}

#[derive(Debug, Clone)]
pub struct SweepIds;

impl IdKind for SweepIds {
    const NAME: &'static str = "sweep";
    const FORM: IdForm = ids::SWEEP;
}

#[derive(Debug, Clone)]
pub struct CheckpointIds;

impl IdKind for CheckpointIds {
    const NAME: &'static str = "checkpoint";
    const FORM: IdForm = ids::CHECKPOINT;
}

impl<K: IdKind> Id<K> {
    /// Whether a text has the form of an id.
    pub fn is_id(text: &str) -> bool {
        K::FORM.fits(text)
    }

    fn new(id: String) -> Result<Self, ApiError> {
        if Self::is_id(&id) {
            return Ok(Self(id, std::marker::PhantomData));
        }
        let shown: String = id.chars().take(64).collect();
        Err(ApiError::not_found(format!(
            "there is no {} {shown}: an id is {} followed by {}",
            K::NAME,
            K::FORM.prefix,
            K::FORM.tail,
            shown = quoted(&shown)
        )))
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names and values of a path's parameters.
pub async fn path_parameters(parts: &mut Parts) -> Result<Vec<(String, String)>, ApiError> {
    type Path = axum::extract::Path<Vec<(String, String)>>;
    match <Path as FromRequestParts<()>>::from_request_parts(parts, &()).await {
        Ok(axum::extract::Path(parameters)) => Ok(parameters),
        Err(_) => Err(ApiError::malformed("the path contains a percent-encoding that is not UTF-8")),
    }
}

impl<K: IdKind, S: Send + Sync> FromRequestParts<S> for Id<K> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let parameters = path_parameters(parts).await?;
        let id = parameters.into_iter().find(|(name, _)| name == "id").expect("the route has an {id}");
        Self::new(id.1)
    }
}

/// The `{name}` of a path.
#[derive(Debug)]
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let parameters = path_parameters(parts).await?;
        let name = parameters.into_iter().find(|(name, _)| name == "name").expect("the route has a {name}");
        Ok(Self(name.1))
    }
}

/// The `{upload}` of a path.
#[derive(Debug)]
pub struct UploadName(pub String);

impl<S: Send + Sync> FromRequestParts<S> for UploadName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let parameters = path_parameters(parts).await?;
        let name = parameters.into_iter().find(|(name, _)| name == "upload").expect("the route has an {upload}");
        Ok(Self(name.1))
    }
}

/// The `Idempotency-Key` header.
#[derive(Debug)]
pub struct IdempotencyKey(pub String);

impl<S: Send + Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, ApiError> {
        let mut given = parts.headers.get_all("idempotency-key").iter();
        let Some(key) = given.next() else { return Ok(None) };
        let bytes = key.as_bytes();
        let fits = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
        if !fits || given.next().is_some() {
            return Err(ApiError::malformed("Idempotency-Key must be one value of 1 to 255 visible ASCII characters"));
        }
        Ok(Some(Self(String::from_utf8_lossy(bytes).into_owned())))
    }
}

/// For `deserialize_with`: a whole number from `LEAST` to `MOST`.
///
/// # Errors
/// The text is anything else.
pub fn whole<'de, const LEAST: i64, const MOST: i64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse() {
        Ok(number) if (LEAST..=MOST).contains(&number) => Ok(Some(number)),
        _ => Err(D::Error::custom(format!(
            "expected a whole number from {LEAST} to {MOST}, found {text}",
            text = quoted(&text)
        ))),
    }
}

/// For `deserialize_with`: a number.
///
/// # Errors
/// The text is anything else.
pub fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(D::Error::custom(format!("expected a number, found {text}", text = quoted(&text)))),
    }
}

/// A fault at a JSON pointer.
#[must_use]
pub fn fault(pointer: &str, detail: impl Into<String>) -> Fault {
    Fault { pointer: pointer.to_owned(), detail: detail.into() }
}
