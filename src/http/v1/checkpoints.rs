//! `/v1/checkpoints`

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::architecture;
use crate::artifacts::keys;
use crate::db::checkpoints::{self, UploadedCheckpoint};
use crate::db::file_deletions;
use crate::db::jobs::Refusal;
use crate::http::error::ApiError;
use crate::http::extract::{CheckpointId, Query, time, whole};
use crate::http::inspection::Expected;
use crate::http::quota::{self, NewUpload};
use crate::http::uploads::{Upload, UploadKind};
use crate::http::{AppState, Page};
use crate::removals;
use crate::text::is_blank;

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadParameters {
    /// A name for the checkpoint, without control characters.
    #[param(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// The expected architecture. The upload is refused if it does not match.
    architecture: Option<String>,
    /// The expected number of classes. The upload is refused if it does not match.
    #[serde(default, deserialize_with = "whole::<1, 1_000_000, _>")]
    #[param(minimum = 1, maximum = 1_000_000)]
    num_classes: Option<i64>,
    /// For a file with several state dicts or networks: the key or prefix of the one to store, such as
    /// `state_dict_ema` or `teacher`. Only its tensors are stored, as safetensors.
    #[param(min_length = 1, max_length = 200)]
    state_dict: Option<String>,
}

/// Upload a checkpoint
///
/// The body is the file itself: `curl -T resnet56.pth '…/v1/checkpoints?architecture=resnet56'`. It can be a
/// safetensors file or written by `torch.save` (a state dict, or a dictionary with one under `state_dict`, `model` or
/// similar). Nothing in it is ever executed. Uploading the same bytes again returns the same checkpoint, and mends its
/// file if that was damaged in storage.
///
/// A file of `torch.export.save` (`.pt2`) is a network with its weights, of any architecture. It is checked whole, all
/// faults are in `errors`, and `network` describes it. Stack traces in it are removed before it is stored.
#[utoipa::path(put, path = "/v1/checkpoints", tag = "checkpoints", operation_id = "upload_checkpoint",
    params(UploadParameters), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = UploadedCheckpoint,
            headers(("Location" = String, description = "The checkpoint's URL"))),
        (status = 200, description = "The same bytes were uploaded before", body = UploadedCheckpoint)))]
pub async fn put(
    State(state): State<AppState>,
    Query(parameters): Query<UploadParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let expected = parameters.check()?;
    let upload = Upload::receive(&state, UploadKind::Checkpoint, &headers, body).await?;
    // In a task of its own: a complete upload is stored even if the client disconnects.
    let stored = tokio::spawn(async move { upload.store(&state, expected).await });
    let (checkpoint, is_new) = stored.await.map_err(anyhow::Error::from)??;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(LOCATION, format!("/v1/checkpoints/{}", checkpoint.id))], Json(checkpoint)).into_response())
}

/// Upload a checkpoint
///
/// The same as `PUT`.
#[utoipa::path(post, path = "/v1/checkpoints", tag = "checkpoints", operation_id = "post_checkpoint",
    params(UploadParameters), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = UploadedCheckpoint,
            headers(("Location" = String, description = "The checkpoint's URL"))),
        (status = 200, description = "The same bytes were uploaded before", body = UploadedCheckpoint)))]
pub async fn post(
    state: State<AppState>,
    parameters: Query<UploadParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    put(state, parameters, headers, body).await
}

impl UploadParameters {
    /// Checks the parameters before the body is received.
    fn check(self) -> Result<Expected, ApiError> {
        if let Some(name) = &self.name
            && (is_blank(name) || name.chars().count() > 200 || name.chars().any(char::is_control))
        {
            return Err(ApiError::malformed(
                "query parameters: name: expected 1 to 200 characters, not blanks alone, without control characters",
            ));
        }
        if self.state_dict.as_ref().is_some_and(|key| key.is_empty() || key.chars().count() > 200) {
            return Err(ApiError::malformed("query parameters: state_dict: expected 1 to 200 characters"));
        }
        let network = self.architecture.as_deref().map(architecture::named).transpose();
        let network =
            network.map_err(|unknown| ApiError::malformed(format!("query parameters: architecture: {unknown}")))?;
        let classes = self.num_classes.and_then(|classes| u32::try_from(classes).ok());
        Ok(Expected { name: self.name, network, classes, state_dict: self.state_dict })
    }
}

impl Upload {
    /// Stores the file if it is as expected.
    async fn store(self, state: &AppState, expected: Expected) -> Result<(UploadedCheckpoint, bool), ApiError> {
        let spool = state.settings.spool_dir.clone();
        let turn = state.uploads.inspection().await;
        let (upload, checkpoint) = tokio::task::spawn_blocking(move || {
            let mut upload = self;
            let checkpoint = upload.inspect(expected, &spool);
            drop(turn);
            (upload, checkpoint)
        })
        .await
        .map_err(anyhow::Error::from)?;
        let checkpoint = checkpoint?;
        let _turn = state.uploads.storing().await;
        upload.keep(state, &checkpoint).await
    }

    /// Stores the bytes, unless they are stored already, and then the row that names them.
    async fn keep(
        &self,
        state: &AppState,
        checkpoint: &UploadedCheckpoint,
    ) -> Result<(UploadedCheckpoint, bool), ApiError> {
        let AppState { pool, artifacts, .. } = state;
        let mut damaged = None;
        if let Some(stored) = checkpoints::stored_bytes(pool, &checkpoint.id).await? {
            // All bytes are compared, so that an upload mends what storage has damaged or lost.
            if artifacts.is_whole(&stored.key, &self.sha256).await {
                if let Some(described) = checkpoints::describe(pool, checkpoint, &stored.key).await? {
                    return Ok((described, false));
                }
            } else {
                tracing::warn!(checkpoint = checkpoint.id, stored.key, "the stored bytes are damaged or missing");
                damaged = Some(stored.key);
            }
        }
        let key = keys::checkpoint(&self.sha256, &keys::unique());
        let new = NewUpload { kind: UploadKind::Checkpoint, id: &checkpoint.id, bytes: self.size, replaced: 0 };
        let _space = quota::reserve(state, &key, self.size, new).await?;
        if let Err(error) = artifacts.put_file(&key, &self.path()).await {
            if let Err(error) = file_deletions::give_up(pool, &key).await {
                tracing::warn!(%error, key, "what is left of a failed upload is removed in a day");
            }
            return Err(error.into());
        }
        let Some(inserted) = checkpoints::insert(pool, checkpoint, &key, damaged.as_deref()).await? else {
            return Err(ApiError::Unavailable("storing the upload took more than a day: try again".into()));
        };
        if damaged.is_some() {
            tracing::warn!(checkpoint = checkpoint.id, key, "an upload has replaced the damaged bytes");
        }
        if let Some(file) = inserted.superseded {
            removals::start(pool, artifacts, file).await;
        }
        Ok((inserted.checkpoint, inserted.is_new))
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CheckpointsParameters {
    /// Most entries to return. A page that has a mebibyte ends earlier.
    #[serde(default, deserialize_with = "whole::<1, 100, _>")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The `next` of the previous page.
    after: Option<String>,
}

/// List checkpoints, newest first
#[utoipa::path(get, path = "/v1/checkpoints", tag = "checkpoints", operation_id = "list_checkpoints",
    params(CheckpointsParameters), responses((status = 200, body = Page<UploadedCheckpoint>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(parameters): Query<CheckpointsParameters>,
) -> Result<Json<Page<UploadedCheckpoint>>, ApiError> {
    let after = parameters.after.as_deref().map(|cursor| {
        parse_cursor(cursor)
            .ok_or_else(|| ApiError::malformed("query parameters: after: expected `next` of a page of this list"))
    });
    let limit = parameters.limit.unwrap_or(20);
    let found = checkpoints::list(&state.pool, after.transpose()?.as_ref(), limit + 1).await?;
    Ok(Json(Page::new(found, limit, |last| format!("{}.{}", last.created_at.timestamp_micros(), last.id))))
}

fn parse_cursor(cursor: &str) -> Option<(DateTime<Utc>, String)> {
    let (at, id) = cursor.split_once('.').filter(|(_, id)| CheckpointId::is_id(id))?;
    Some((time(at)?, id.to_owned()))
}

/// Get a checkpoint
#[utoipa::path(get, path = "/v1/checkpoints/{id}", tag = "checkpoints", operation_id = "get_checkpoint",
    params(("id" = String, Path, description = "Id of the checkpoint")),
    responses((status = 200, body = UploadedCheckpoint)))]
pub async fn get(State(state): State<AppState>, id: CheckpointId) -> Result<Json<UploadedCheckpoint>, ApiError> {
    checkpoints::get(&state.pool, &id.0).await?.map(Json).ok_or_else(|| no_such(&id))
}

fn no_such(id: &CheckpointId) -> ApiError {
    ApiError::not_found(format!("there is no checkpoint {id}"))
}

/// Delete a checkpoint
///
/// 409 while an unfinished job needs it. Its file may be removed from storage a little later.
#[utoipa::path(delete, path = "/v1/checkpoints/{id}", tag = "checkpoints", operation_id = "delete_checkpoint",
    params(("id" = String, Path, description = "Id of the checkpoint")), responses((status = 204)))]
pub async fn delete(State(state): State<AppState>, id: CheckpointId) -> Result<StatusCode, ApiError> {
    let file = match checkpoints::delete(&state.pool, &id.0).await? {
        Ok(file) => file,
        Err(Refusal::Because(reason)) => {
            return Err(ApiError::conflict(format!("checkpoint {id} cannot be deleted: {reason}")));
        }
        Err(Refusal::Missing | Refusal::NotWhile(_)) => return Err(no_such(&id)),
    };
    removals::start(&state.pool, &state.artifacts, file).await;
    Ok(StatusCode::NO_CONTENT)
}
