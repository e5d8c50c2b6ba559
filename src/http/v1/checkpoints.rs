//! `/v1/checkpoints`

use std::path::Path;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::types::Json as Jsonb;
use utoipa::IntoParams;

use crate::architecture::{self, Architecture};
use crate::artifacts::keys;
use crate::checkpoint::{self, Soundness};
use crate::db::checkpoints::{self, Fit, Guess, UploadedCheckpoint};
use crate::db::file_deletions;
use crate::db::jobs::Refusal;
use crate::http::error::ApiError;
use crate::http::extract::{CheckpointId, Query, time, whole};
use crate::http::uploads::{Upload, full};
use crate::http::{AppState, Page};
use crate::removals;
use crate::text::counted;

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
    /// Of a file with several state dicts or networks, the key or prefix of the one to store, such as
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
    let network = parameters.check()?;
    let upload = Upload::receive(&state, &headers, body).await?;
    // In a task of its own: a complete upload is stored even if the client disconnects.
    let stored = tokio::spawn(async move { upload.store(&state, parameters, network).await });
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
    /// Checks the parameters before the body is received, and returns the architecture if one is given.
    fn check(&self) -> Result<Option<&'static Architecture>, ApiError> {
        if let Some(name) = &self.name
            && (name.is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control))
        {
            return Err(ApiError::malformed(
                "query parameters: name: expected 1 to 200 characters without control characters",
            ));
        }
        if self.state_dict.as_ref().is_some_and(|key| key.is_empty() || key.chars().count() > 200) {
            return Err(ApiError::malformed("query parameters: state_dict: expected 1 to 200 characters"));
        }
        let Some(name) = &self.architecture else { return Ok(None) };
        let found = architecture::named(name);
        found.map(Some).map_err(|unknown| ApiError::malformed(format!("query parameters: architecture: {unknown}")))
    }
}

impl Upload {
    /// Stores the file if it is a checkpoint and matches the parameters.
    async fn store(
        self,
        state: &AppState,
        parameters: UploadParameters,
        network: Option<&'static Architecture>,
    ) -> Result<(UploadedCheckpoint, bool), ApiError> {
        let spool = state.settings.spool_dir.clone();
        let turn = state.uploads.inspection().await;
        let (upload, checkpoint) = tokio::task::spawn_blocking(move || {
            let mut upload = self;
            let chosen = parameters.state_dict.as_ref().map_or(Ok(Vec::new()), |key| upload.choose(key, &spool));
            let checkpoint = chosen.and_then(|notes| upload.inspect(parameters, network, notes));
            drop(turn);
            (upload, checkpoint)
        })
        .await
        .map_err(anyhow::Error::from)?;
        let checkpoint = checkpoint?;
        let _turn = state.uploads.storing().await;
        if let Some(limit) = state.settings.uploads_limit
            && let others = checkpoints::size_of_others(&state.pool, &checkpoint.id).await?
            && others.saturating_add(upload.size) > limit
        {
            return Err(ApiError::conflict(format!(
                "no space for this checkpoint: its {} bytes and the {others} bytes of the others exceed the limit of {limit} \
                 bytes for all uploads. Delete a checkpoint that no job needs: DELETE /v1/checkpoints/{{id}}",
                upload.size
            )));
        }
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
        file_deletions::announce(pool, &key).await?;
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

    /// Replaces the file by one of its state dicts. Returns what was done to read that, which the new file does not
    /// show.
    fn choose(&mut self, key: &str, spool: &Path) -> Result<Vec<String>, ApiError> {
        let checkpoint = checkpoint::Checkpoint::open_state_dict(&self.path(), Some(key)).map_err(unreadable)?;
        let directory = tempfile::tempdir_in(spool)?;
        let path = directory.path().join("chosen");
        checkpoint.convert(&path).map_err(unreadable)?;
        self.replace(std::fs::File::open(&path)?)?;
        Ok(checkpoint.notes().to_vec())
    }

    /// Describes the file, if it is a checkpoint and matches the parameters. `notes` are from before it was replaced.
    fn inspect(
        &self,
        parameters: UploadParameters,
        network: Option<&'static Architecture>,
        mut notes: Vec<String>,
    ) -> Result<UploadedCheckpoint, ApiError> {
        let file = checkpoint::Checkpoint::open(&self.path()).map_err(unreadable)?;
        let known = notes.clone();
        notes.extend(file.notes().iter().filter(|note| !known.contains(note)).cloned());
        let shapes = file.shapes();
        let expected = parameters.num_classes.and_then(|classes| u32::try_from(classes).ok());
        if let Some(mismatch) = network.and_then(|network| architecture::mismatch(network, &shapes, expected)) {
            let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
            return Err(ApiError::invalid(format!("the checkpoint {mismatch}{notes}")));
        }
        let fit = |fit: &architecture::ArchitectureFit| Fit {
            architecture: fit.architecture.name.to_owned(),
            num_classes: fit.classes,
        };
        let fits: Vec<_> = architecture::fits(&shapes).iter().map(fit).collect();
        if let (Some(expected), Some(fit)) = (expected, fits.first())
            && fits.iter().all(|fit| fit.num_classes != expected)
        {
            let Fit { architecture, num_classes } = fit;
            return Err(ApiError::invalid(format!(
                "the checkpoint is a {architecture} with {}, not {expected}",
                counted(*num_classes, "class", "classes")
            )));
        }
        match file.soundness_as_it_fits().map_err(anyhow::Error::from)? {
            Soundness::Sound => {}
            Soundness::Doubtful(doubt) => notes.push(doubt),
            Soundness::Unsound(unsound) => return Err(ApiError::invalid(format!("the checkpoint {unsound}"))),
        }
        let guess = architecture::guess(&shapes);
        if fits.is_empty() {
            notes.push(unusable(guess.as_ref()));
        }
        let only = match (network, fits.as_slice()) {
            (Some(network), fits) => fits.iter().find(|fit| fit.architecture == network.name),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        Ok(UploadedCheckpoint {
            id: checkpoints::id_of(&self.sha256),
            sha256: self.sha256.clone(),
            name: parameters.name,
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
            format: file.format().name().to_owned(),
            tensors: i64::try_from(file.tensors().len()).unwrap_or(i64::MAX),
            parameters: i64::try_from(file.parameters()).unwrap_or(i64::MAX),
            architecture: only.map(|fit| fit.architecture.clone()),
            num_classes: expected.or(only.map(|fit| fit.num_classes)).and_then(|classes| i32::try_from(classes).ok()),
            fits: Jsonb(fits),
            guess: guess.map(|guess| Jsonb(described(guess))),
            notes,
            created_at: Utc::now(),
        })
    }
}

fn unreadable(error: checkpoint::Error) -> ApiError {
    match error {
        error if error.is_users() => ApiError::invalid(error.to_string()),
        checkpoint::Error::Io(error) => full(error),
        error => ApiError::Internal(error.into()),
    }
}

/// Why no job can use a checkpoint that fits no network, as a note.
fn unusable(guess: Option<&architecture::ArchitectureGuess>) -> String {
    let why = match guess {
        Some(architecture::ArchitectureGuess { architecture, difference: Some(difference), .. }) => {
            format!("the nearest is {}: {difference}", architecture.name)
        }
        _ => "none has even half of its keys and shapes".to_owned(),
    };
    format!("it fits no known architecture, so no job can use it, and its values are not checked; {why}")
}

fn described(guess: architecture::ArchitectureGuess) -> Guess {
    let architecture::ArchitectureGuess { architecture, classes, certainty, agreement, difference } = guess;
    Guess { architecture: architecture.name.to_owned(), num_classes: classes, certainty, agreement, difference }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CheckpointsParameters {
    /// Most entries to return.
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
            .ok_or_else(|| ApiError::malformed("query parameters: after: expected the next of a page of this list"))
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
