//! Every answer that is not a success: RFC 9457 problem documents. Only this file knows status codes of errors.

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::artifacts;
use crate::jobs::state::Status;
use crate::spec::Fault;

/// Seconds after which a client may try again when something here is overloaded or away.
const RETRY_SECONDS: u16 = 2;

/// Why a request was not done. The texts say what to do about it.
#[derive(Debug)]
pub enum ApiError {
    /// The request itself cannot be read.
    Malformed(Cow<'static, str>),
    /// It has no valid token.
    Unauthorized(Cow<'static, str>),
    /// It comes from a page or for a host that it should not, or its token does not allow it.
    Forbidden(Cow<'static, str>),
    /// There is no such thing.
    NotFound(Cow<'static, str>),
    /// The resource does not have the method.
    MethodNotAllowed,
    /// The client stopped sending.
    TooSlow(Cow<'static, str>),
    /// The state of the thing does not allow it.
    Conflict(Cow<'static, str>),
    /// A condition of the request (`If-Match`) does not hold.
    PreconditionFailed,
    /// The body is larger than the limit, in bytes.
    TooLarge(u64),
    /// The body is of a kind that is not accepted here.
    UnsupportedMediaType(Cow<'static, str>),
    /// No byte of the range exists in a file of so many bytes.
    RangeNotSatisfiable(u64),
    /// The request can be read, and asks for something that cannot be.
    Invalid {
        /// What is wrong on the whole.
        detail: Cow<'static, str>,
        /// Each fault and where it is.
        faults: Vec<Fault>,
    },
    /// The token's requests come too fast; in so many seconds there is room for one.
    TooMany(u64),
    /// Overloaded, or something that we depend on is away: it may work later.
    Unavailable(Cow<'static, str>),
    /// A fault of ours; it goes to the log and not to the client.
    Internal(anyhow::Error),
}

/// An error as the client reads it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says which kind it is.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: String,
    /// The status in words.
    #[schema(example = "Unprocessable Entity")]
    pub title: String,
    /// The status code.
    #[schema(example = 422)]
    pub status: u16,
    /// What happened and what to do about it.
    pub detail: String,
    /// Every fault of the body, where it was the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
}

impl ApiError {
    /// A request that cannot be read.
    pub fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Malformed(detail.into())
    }

    /// Something that is not there.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::NotFound(detail.into())
    }

    /// Something that cannot be done now.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Conflict(detail.into())
    }

    /// Something that cannot be.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { detail: detail.into(), faults: Vec::new() }
    }

    /// A job whose status does not allow what was asked.
    #[must_use]
    pub fn status(job: &str, status: Status, asked: &str) -> Self {
        Self::conflict(format!("job {job} is {}: it cannot be {asked}", status.name()))
    }

    /// All faults of a specification.
    #[must_use]
    pub fn faults(faults: Vec<Fault>) -> Self {
        let detail = match faults.as_slice() {
            [only] if only.pointer.is_empty() => only.detail.clone(),
            [only] => format!("{}: {}", only.pointer, only.detail),
            several => format!("the specification has {} faults, listed in errors", several.len()),
        };
        Self::Invalid { detail: detail.into(), faults }
    }

    fn status_code(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RangeNotSatisfiable(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn detail(self) -> (String, Vec<Fault>) {
        let detail = match self {
            Self::Malformed(detail)
            | Self::Unauthorized(detail)
            | Self::Forbidden(detail)
            | Self::NotFound(detail)
            | Self::TooSlow(detail)
            | Self::Conflict(detail)
            | Self::UnsupportedMediaType(detail)
            | Self::Unavailable(detail) => detail,
            Self::Invalid { detail, faults } => return (detail.into_owned(), faults),
            Self::MethodNotAllowed => {
                "this resource does not have that method; the Allow header names those it has".into()
            }
            Self::PreconditionFailed => "the file is not the one that If-Match names".into(),
            Self::TooLarge(limit) => format!("the body is larger than the limit of {limit} bytes").into(),
            Self::TooMany(seconds) => {
                format!("this token's requests come too fast: wait {seconds} s, as Retry-After says").into()
            }
            Self::RangeNotSatisfiable(size) => format!("the range begins beyond the file's {size} bytes").into(),
            Self::Internal(_) => {
                "something went wrong here; the server's log has it under this answer's x-request-id".into()
            }
        };
        (detail.into_owned(), Vec::new())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status_code();
        // The span of the request, in which this runs, has its id, method and path.
        match &self {
            Self::Internal(error) => tracing::error!("{error:?}"),
            Self::Unavailable(detail) => tracing::warn!("not available: {detail}"),
            _ => {}
        }
        let header = match self {
            Self::Unauthorized(_) => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"distillery\""))),
            Self::Unavailable(_) => Some((RETRY_AFTER, HeaderValue::from(RETRY_SECONDS))),
            Self::TooMany(seconds) => Some((RETRY_AFTER, HeaderValue::from(seconds))),
            Self::RangeNotSatisfiable(size) => {
                HeaderValue::try_from(format!("bytes */{size}")).ok().map(|v| (CONTENT_RANGE, v))
            }
            _ => None,
        };
        let (detail, errors) = self.detail();
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        let problem = Problem { kind: "about:blank".into(), title, status: status.as_u16(), detail, errors };
        let mut response = (status, Json(problem)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => {
                Self::Unavailable("all connections to the database are busy: try again".into())
            }
            sqlx::Error::Io(_) | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
                tracing::error!(%error, "the database does not answer");
                Self::Unavailable("the database does not answer: try again".into())
            }
            // It shuts down or starts up; a deadlock; too many connections; a lock was not to be had in time.
            sqlx::Error::Database(ref fault)
                if fault
                    .code()
                    .is_some_and(|code| code.starts_with("57P") || ["40P01", "53300", "55P03"].contains(&&*code)) =>
            {
                tracing::error!(%error, "the database is not ready");
                Self::Unavailable("the database is busy or restarting: try again".into())
            }
            other => Self::Internal(other.into()),
        }
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<sqlx::Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::Internal(error),
        }
    }
}

impl From<artifacts::Error> for ApiError {
    fn from(error: artifacts::Error) -> Self {
        match error {
            artifacts::Error::Storage(_) => {
                tracing::error!(%error, "the storage failed");
                Self::Unavailable("the storage does not answer or is full: try again".into())
            }
            other => Self::Internal(other.into()),
        }
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        Self::Internal(error.into())
    }
}
