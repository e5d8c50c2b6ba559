//! The limit for all uploads together: checkpoints, data sets, and shards and pieces that wait for others.

use super::AppState;
use super::error::ApiError;
use super::uploads::UploadKind;
use crate::db::{checkpoints, dataset_pieces, dataset_shards};

/// An upload that is to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewUpload<'a> {
    pub kind: UploadKind,
    /// Id of the checkpoint or version whose file it would replace; empty if there is none.
    pub id: &'a str,
    pub bytes: u64,
    /// Bytes of the shards and pieces that it is made of or replaces, and that leave storage for it.
    pub replaced: u64,
}

/// Refuses an upload that would exceed the limit.
pub async fn check(state: &AppState, new: NewUpload<'_>) -> Result<(), ApiError> {
    let Some(limit) = state.settings.uploads_limit else { return Ok(()) };
    let NewUpload { kind, id, bytes, replaced } = new;
    let waiting = dataset_shards::size(&state.pool).await?.saturating_add(dataset_pieces::size(&state.pool).await?);
    let waiting = waiting.saturating_sub(replaced);
    let others = checkpoints::size_of_others(&state.pool, id).await?.saturating_add(waiting);
    if others.saturating_add(bytes) <= limit {
        return Ok(());
    }
    let what = match kind {
        UploadKind::Checkpoint => "checkpoint",
        UploadKind::Dataset => "data set",
    };
    let unfinished = match waiting {
        0 => String::new(),
        waiting => format!(
            " ({waiting} of them shards and pieces of unfinished uploads, which go a day after the last one, or with \
             their data set)"
        ),
    };
    Err(ApiError::conflict(format!(
        "no space for this {what}: its {bytes} bytes and the {others} bytes of other uploads{unfinished} exceed the limit \
         of {limit} bytes for all of them. Delete a checkpoint or a data set that no job needs: DELETE \
         /v1/checkpoints/{{id}}, DELETE /v1/datasets/{{name}}"
    )))
}
