//! Extractors whose rejections are problem documents.

use std::fmt;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::ApiError;
use crate::spec::Fault;

/// Largest body that is read into memory.
pub const BODY_LIMIT: usize = 1 << 20;

/// A JSON document, with the bytes that it was read from.
#[derive(Debug)]
pub struct JsonBody {
    /// The document.
    pub value: Value,
    /// What was sent, to the byte.
    pub bytes: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::UnsupportedMediaType(
                "the body must be JSON and say so: content-type: application/json".into(),
            ));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| unreadable(&rejection))?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self { value, bytes }),
            Err(error) => Err(ApiError::malformed(format!("the body is not JSON: {error}"))),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn unreadable(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::TooLarge(BODY_LIMIT as u64)
    } else {
        ApiError::malformed("the body ended early")
    }
}

/// Query parameters. `T` refuses those that it does not know (`deny_unknown_fields`): a misspelt one is a mistake, not
/// a wish for the default.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum_extra::extract::Query::from_request_parts(parts, state).await {
            Ok(axum_extra::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                // The outermost text only says that it failed.
                let cause =
                    std::error::Error::source(&rejection).map_or_else(|| rejection.to_string(), ToString::to_string);
                Err(ApiError::malformed(format!("query parameters: {cause}")))
            }
        }
    }
}

/// The `{id}` of a path: a prefix, which says what it is the id of, and a tail. Whatever has another form is not the
/// id of anything.
#[derive(Debug, Clone)]
pub struct Id<K>(pub String, std::marker::PhantomData<K>);

/// What an id is the id of.
pub trait Kind {
    /// As in "there is no …".
    const NAME: &'static str;
    /// What its ids begin with.
    const PREFIX: &'static str;
    /// What they go on with, for people.
    const FORM: &'static str;
    /// Whether this can be the rest of one.
    fn is_tail(tail: &str) -> bool;
}

/// Jobs.
#[derive(Debug, Clone)]
pub struct Job;

impl Kind for Job {
    const NAME: &'static str = "job";
    const PREFIX: &'static str = "job_";
    const FORM: &'static str = "26 capital letters and digits";
    fn is_tail(tail: &str) -> bool {
        tail.len() == 26 && tail.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
    }
}

/// Checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoint;

impl Kind for Checkpoint {
    const NAME: &'static str = "checkpoint";
    const PREFIX: &'static str = "ckpt_";
    const FORM: &'static str = "32 hexadecimal digits in lower case";
    fn is_tail(tail: &str) -> bool {
        tail.len() == 32 && tail.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl Job {
    /// Whether a text has the form of an id.
    pub fn is_id(text: &str) -> bool {
        text.strip_prefix(Self::PREFIX).is_some_and(Self::is_tail)
    }
}

impl<K: Kind> Id<K> {
    fn new(id: String) -> Result<Self, ApiError> {
        if id.strip_prefix(K::PREFIX).is_some_and(K::is_tail) {
            return Ok(Self(id, std::marker::PhantomData));
        }
        let shown: String = id.chars().take(64).collect();
        Err(ApiError::not_found(format!("there is no {} {shown:?}: an id is {} and {}", K::NAME, K::PREFIX, K::FORM)))
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

async fn path_parameters(parts: &mut Parts) -> Result<Vec<(String, String)>, ApiError> {
    type Path = axum::extract::Path<Vec<(String, String)>>;
    match <Path as FromRequestParts<()>>::from_request_parts(parts, &()).await {
        Ok(axum::extract::Path(parameters)) => Ok(parameters),
        Err(_) => Err(ApiError::malformed("the path holds a percent-encoding that is not UTF-8")),
    }
}

impl<K: Kind, S: Send + Sync> FromRequestParts<S> for Id<K> {
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

/// For `deserialize_with`: an optional whole number from `LEAST` to `MOST`.
///
/// # Errors
/// When it is not one.
pub fn whole<'de, const LEAST: i64, const MOST: i64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse() {
        Ok(number) if (LEAST..=MOST).contains(&number) => Ok(Some(number)),
        _ => Err(D::Error::custom(format!("expected a whole number from {LEAST} to {MOST}, found {text:?}"))),
    }
}

/// A fault of one field.
#[must_use]
pub fn fault(pointer: &str, detail: impl Into<String>) -> Fault {
    Fault { pointer: pointer.to_owned(), detail: detail.into() }
}
