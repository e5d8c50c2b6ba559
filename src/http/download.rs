//! Stored files as responses, with ranges, conditions, digest and file name.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH,
    IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::AppState;
use super::answers::AnswerClient;
use super::comparisons::ComparedFile;
use super::error::ApiError;
use super::file_pieces;
use crate::artifacts;

/// Largest file, in bytes, that is compared with its SHA-256 before the rest of it is sent.
const COMPARED_FIRST: u64 = 64 << 20;
/// What happened to a file that is not what was stored.
const DAMAGED: &str = "damaged in storage: something other than this program changed it";

#[derive(Debug)]
pub struct Download {
    /// Storage key.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
    /// The name that browsers suggest.
    pub file_name: String,
    /// The bytes, if they are not in storage.
    pub local: Option<Arc<File>>,
    /// The client that reads it.
    pub client: AnswerClient,
}

impl Download {
    /// Responds to `GET` or `HEAD`.
    ///
    /// # Errors
    /// A condition of the request does not hold, the file is gone, or the storage fails.
    pub async fn respond(self, state: &AppState, method: &Method, headers: &HeaderMap) -> Result<Response, ApiError> {
        let etag = format!("\"{}\"", self.sha256);
        if let Some(wanted) = headers.get(IF_MATCH)
            && !lists(wanted, &etag, Compare::Strong)
        {
            return Err(ApiError::PreconditionFailed);
        }
        let mut response = Response::new(Body::empty());
        self.describe(&etag, response.headers_mut())?;
        if headers.get(IF_NONE_MATCH).is_some_and(|known| lists(known, &etag, Compare::Weak)) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let wanted = headers.get(RANGE).filter(|_| headers.get(IF_RANGE).is_none_or(|version| *version == etag));
        let range = wanted.and_then(|range| range.to_str().ok()).and_then(|range| parse_range(range, self.size));
        let bytes = match range {
            None => 0..self.size,
            Some(None) => return Err(ApiError::RangeNotSatisfiable(self.size)),
            Some(Some(part)) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let value = format!("bytes {}-{}/{}", part.start, part.end - 1, self.size);
                response.headers_mut().insert(CONTENT_RANGE, value.parse().expect("digits are a header value"));
                part
            }
        };
        response.headers_mut().insert(CONTENT_LENGTH, (bytes.end - bytes.start).into());
        if bytes.is_empty() {
            return Ok(response.into_response());
        }
        if let Some(file) = self.local {
            if method != Method::HEAD {
                let client = self.client.without_compression();
                *response.body_mut() =
                    Body::from_stream(file_pieces::local(file, bytes, state.answers.clone(), client));
            }
            return Ok(response);
        }
        let file = match state.artifacts.version(&self.key).await? {
            None => return Err(self.gone()),
            Some(found) if found.size_bytes != self.size => return Err(self.of_another_size(found.size_bytes)),
            Some(version) => ComparedFile { key: self.key.clone(), sha256: self.sha256.clone(), version },
        };
        let is_rest = bytes.start > 0 && bytes.end == self.size && method != Method::HEAD;
        if !self.is_whole(state, &file, is_rest).await? {
            return Err(self.of_other_content());
        }
        if method != Method::HEAD {
            let content = state.artifacts.read(&self.key, bytes.clone()).await.map_err(|error| self.unread(error))?;
            let client = self.client.without_compression();
            *response.body_mut() = Body::from_stream(file_pieces::checked(content, bytes, file, state, client));
        }
        Ok(response.into_response())
    }

    /// Whether the file is what was stored, as far as is known. Nobody compares the parts of an interrupted download
    /// together, so before the rest of one, a small file is read and compared.
    async fn is_whole(&self, state: &AppState, file: &ComparedFile, is_rest: bool) -> Result<bool, ApiError> {
        match state.comparisons.known(file) {
            Some(known) => Ok(known),
            None if is_rest && self.size <= COMPARED_FIRST => {
                state.comparisons.compare(&state.artifacts, file).await.map_err(|error| self.unread(error))
            }
            None => Ok(true),
        }
    }

    fn unread(&self, error: artifacts::Error) -> ApiError {
        match error {
            artifacts::Error::NotFound(_) => self.gone(),
            other => other.into(),
        }
    }

    /// The error for a file that the database names and storage does not have.
    fn gone(&self) -> ApiError {
        tracing::error!(key = self.key, sha256 = self.sha256, "a published file is gone from storage");
        self.lost("gone from storage: something other than this program removed it")
    }

    /// The error for a file that has another size than when it was stored.
    fn of_another_size(&self, found: u64) -> ApiError {
        tracing::error!(key = self.key, found, stored = self.size, "a published file is damaged: its size has changed");
        self.lost(DAMAGED)
    }

    /// The error for a file that was read and has another SHA-256 than when it was stored.
    fn of_other_content(&self) -> ApiError {
        tracing::error!(key = self.key, stored = self.sha256, "a published file is damaged: its SHA-256 has changed");
        self.lost(DAMAGED)
    }

    fn lost(&self, how: &str) -> ApiError {
        let name = &self.file_name;
        ApiError::Gone(
            format!(
                "{name} was published, but its file is {how}. Ask the operator to put it back from a backup, or post the \
                 job again (GET /v1/jobs/{{id}}/submitted has its document)"
            )
            .into(),
        )
    }

    fn describe(&self, etag: &str, headers: &mut HeaderMap) -> Result<(), ApiError> {
        let digest = hex::decode(&self.sha256).map_err(anyhow::Error::from)?;
        let digest = format!("sha-256=:{}:", BASE64_STANDARD.encode(digest));
        let disposition = format!("attachment; filename=\"{}\"", plain(&self.file_name));
        let values = [
            (ETAG, etag),
            (HeaderName::from_static("repr-digest"), digest.as_str()),
            (CONTENT_DISPOSITION, disposition.as_str()),
            (CONTENT_TYPE, content_type(&self.file_name)),
            (ACCEPT_RANGES, "bytes"),
            // A retried job publishes different bytes under the same name.
            (CACHE_CONTROL, "private, no-cache"),
        ];
        for (name, value) in values {
            headers.insert(name, HeaderValue::try_from(value).map_err(anyhow::Error::from)?);
        }
        Ok(())
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("json") => "application/json",
        Some("ndjson") => "application/x-ndjson",
        Some("txt" | "log") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Replaces characters that a file system or a header might not accept.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Compare {
    Strong,
    Weak,
}

/// Whether a condition's list of tags contains this one.
fn lists(condition: &HeaderValue, etag: &str, compare: Compare) -> bool {
    let Ok(tags) = condition.to_str() else { return false };
    tags.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").filter(|_| compare == Compare::Weak).unwrap_or(tag);
        tag == "*" || tag == etag
    })
}

/// The requested range. `None` if there is none, more than one, or it cannot be parsed: the whole file is a valid
/// response to all of these (RFC 9110, section 14.2). `Some(None)` if the range cannot be satisfied.
fn parse_range(header: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (unit, range) = header.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return None;
    }
    let number = |digits: &str| -> Option<u64> {
        let digits =
            Some(digits.trim()).filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))?;
        // A number that overflows is beyond the end of every file.
        Some(digits.parse().unwrap_or(u64::MAX))
    };
    let part = match (first.trim(), last.trim()) {
        ("", length) => size.saturating_sub(number(length)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(Some(part).filter(|part| part.start < part.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        for (header, expected) in [
            ("bytes=0-499", Some(Some(0..500))),
            ("bytes=500-", Some(Some(500..1000))),
            ("bytes=-300", Some(Some(700..1000))),
            ("bytes=-5000", Some(Some(0..1000))),
            ("bytes=999-5000", Some(Some(999..1000))),
            ("Bytes = 0-0", Some(Some(0..1))),
            ("bytes=0-99999999999999999999999", Some(Some(0..1000))),
            ("bytes=1000-", Some(None)),
            ("bytes=99999999999999999999999-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=0-1,5-6", None),
            ("bytes=5-2", None),
            ("bytes=a-b", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("lines=0-5", None),
            ("", None),
        ] {
            assert_eq!(parse_range(header, 1000), expected, "{header}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Some(None));
    }

    #[test]
    fn file_names_contain_nothing_that_could_end_the_header() {
        assert_eq!(plain("a\"b\r\nc/../d.safetensors"), "a_b__c_.._d.safetensors");
    }
}
