//! Errors as responses: RFC 9457 problem documents, with a status code for each kind of error.

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::artifacts;
use crate::db::datasets::Unreadable;
use crate::db::errors::Transient;
use crate::db::jobs::Status;
use crate::spec::Fault;

/// Retry-After, in seconds, when something here is overloaded or unavailable.
const RETRY_SECONDS: u16 = 2;

/// Why a request failed. The texts say what to do about it.
#[derive(Debug)]
pub enum ApiError {
    /// The request cannot be parsed.
    Malformed(Cow<'static, str>),
    /// The request has no valid token.
    Unauthorized(Cow<'static, str>),
    /// The request comes from another site or is for another host, or its token does not permit it.
    Forbidden(Cow<'static, str>),
    NotFound(Cow<'static, str>),
    /// With a hint about what to do instead, which may be empty.
    MethodNotAllowed(&'static str),
    /// The client paused for too long.
    TooSlow(Cow<'static, str>),
    /// The state of the resource does not allow the request.
    Conflict(Cow<'static, str>),
    /// What was there has been removed, and not by this program.
    Gone(Cow<'static, str>),
    /// `If-Match` does not hold.
    PreconditionFailed,
    /// The body is larger than this limit, in bytes.
    TooLarge(u64),
    UnsupportedMediaType(Cow<'static, str>),
    /// The range starts beyond the end of a file of this size, in bytes.
    RangeNotSatisfiable(u64),
    /// The request can be parsed, but asks for something impossible.
    Invalid {
        /// A summary.
        detail: Cow<'static, str>,
        /// Each fault with its place in the body.
        faults: Vec<Fault>,
    },
    /// The token has exceeded its rate limit. The next request is allowed in this many seconds.
    RateLimited(u64),
    /// The server is overloaded, or something it depends on is unavailable. The request may succeed later.
    Unavailable(Cow<'static, str>),
    /// A bug or an operator's mistake. Written to the log, not sent to the client.
    Internal(anyhow::Error),
}

/// An error (RFC 9457).
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status tells the kind of error.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: String,
    /// The name of the status.
    #[schema(example = "Unprocessable Entity")]
    pub title: String,
    /// The status code.
    #[schema(example = 422)]
    pub status: u16,
    /// What happened and what to do about it.
    pub detail: String,
    /// All faults in the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
}

impl ApiError {
    pub fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Malformed(detail.into())
    }

    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::NotFound(detail.into())
    }

    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Conflict(detail.into())
    }

    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { detail: detail.into(), faults: Vec::new() }
    }

    /// The job's status does not allow the action: `job … is queued: it cannot be retried`.
    #[must_use]
    pub fn status(job: &str, status: Status, action: &str) -> Self {
        if status == Status::Unknown {
            return Self::conflict(format!(
                "job {job} has a status that this version of the server does not know: it cannot be {action} before the \
                 server is updated"
            ));
        }
        let advice = match (status, action) {
            (Status::Cancelling, "deleted" | "retried") => "; try again once it has ended",
            (Status::Pausing, "resumed") => "; try again once it is paused",
            (_, "deleted") => "; cancel it first",
            _ => "",
        };
        Self::conflict(format!("job {job} is {}: it cannot be {action}{advice}", status.name()))
    }

    /// All faults in a specification.
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
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Gone(_) => StatusCode::GONE,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RangeNotSatisfiable(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
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
            | Self::Gone(detail)
            | Self::UnsupportedMediaType(detail)
            | Self::Unavailable(detail) => detail,
            Self::Invalid { detail, faults } => return (detail.into_owned(), faults),
            Self::MethodNotAllowed(hint) => format!(
                "this resource does not support that method; the Allow header lists the methods it supports{hint}"
            )
            .into(),
            Self::PreconditionFailed => "the file is not the one named by If-Match".into(),
            Self::TooLarge(limit) => format!("the body is larger than the limit of {limit} bytes").into(),
            Self::RateLimited(seconds) => format!("rate limit exceeded for this token: retry after {seconds} s").into(),
            Self::RangeNotSatisfiable(size) => {
                format!("the range starts beyond the end of the file, which has {size} bytes").into()
            }
            Self::Internal(_) => "internal error: see the server's log for the x-request-id of this response".into(),
        };
        (detail.into_owned(), Vec::new())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status_code();
        // This runs in the request's span, which has its id, method and path.
        match &self {
            Self::Internal(error) => tracing::error!("{error:?}"),
            Self::Unavailable(detail) => tracing::warn!("unavailable: {detail}"),
            _ => {}
        }
        let header = match self {
            Self::Unauthorized(_) => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"distillery\""))),
            Self::Unavailable(_) => Some((RETRY_AFTER, HeaderValue::from(RETRY_SECONDS))),
            Self::RateLimited(seconds) => Some((RETRY_AFTER, HeaderValue::from(seconds))),
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
        match Transient::of(&error) {
            Some(Transient::Busy) => Self::Unavailable("all connections to the database are busy: try again".into()),
            Some(Transient::Unreachable | Transient::Closed) => {
                tracing::error!(%error, "the database does not answer");
                Self::Unavailable("the database does not answer: try again".into())
            }
            Some(Transient::ReadOnly) => {
                tracing::error!(%error, "the database is read-only");
                Self::Unavailable("the database is read-only for now, as during a failover: try again".into())
            }
            Some(Transient::NotReady | Transient::Contended | Transient::Interrupted) => {
                tracing::error!(%error, "the database is not ready");
                Self::Unavailable("the database is busy or restarting: try again".into())
            }
            // It would take too long again.
            Some(Transient::TooLong) | None => Self::Internal(error.into()),
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

impl From<Unreadable> for ApiError {
    fn from(error: Unreadable) -> Self {
        Self::conflict(error.to_string())
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
