//! The limit for all uploads together: checkpoints, data sets, and shards and pieces that wait for others.

use tokio_util::task::AbortOnDropHandle;

use super::AppState;
use super::error::ApiError;
use super::uploads::UploadKind;
use crate::db::file_deletions;
use crate::db::upload_space::{self, UsedSpace};
use crate::removals;

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

/// Refuses an upload that would exceed the limit. Others may come before it is stored, so [`reserve`] checks again.
pub async fn check(state: &AppState, new: NewUpload<'_>) -> Result<(), ApiError> {
    let Some(limit) = state.settings.uploads_limit else { return Ok(()) };
    let used = upload_space::used(&state.pool, new.id).await?;
    if new.fits(used, limit) { Ok(()) } else { Err(new.refusal(used, limit)) }
}

/// Space of a file that is being stored. Others count it until the file has arrived, or for a minute after this is
/// dropped or its server has ended.
#[derive(Debug)]
#[must_use = "the space is kept until this is dropped"]
pub struct ReservedSpace {
    _keeping: Option<AbortOnDropHandle<()>>,
}

/// Announces the file of an upload ([`file_deletions::announce`]), unless the upload would exceed the limit. From then
/// on other uploads count the `bytes` of the file, which are those of the upload or of a part of it.
pub async fn reserve(state: &AppState, key: &str, bytes: u64, new: NewUpload<'_>) -> Result<ReservedSpace, ApiError> {
    let Some(limit) = state.settings.uploads_limit else {
        file_deletions::announce(&state.pool, key).await?;
        return Ok(ReservedSpace { _keeping: None });
    };
    let reserved = upload_space::reserve(&state.pool, key, bytes, new.id, |used| new.fits(used, limit)).await?;
    reserved.map_err(|used| new.refusal(used, limit))?;
    let (pool, key) = (state.pool.clone(), key.to_owned());
    let keeping = tokio::spawn(async move { removals::keep_space(&pool, &key, removals::RENEWAL).await });
    Ok(ReservedSpace { _keeping: Some(AbortOnDropHandle::new(keeping)) })
}

/// What counts towards the limit besides the new upload, without what that replaces.
#[derive(Debug, Clone, Copy)]
struct OtherUploads {
    bytes: u64,
    /// Those of `bytes` that are shards and pieces of unfinished uploads.
    waiting: u64,
}

impl NewUpload<'_> {
    fn others(&self, used: UsedSpace) -> OtherUploads {
        let UsedSpace { stored, waiting, arriving } = used;
        let waiting = waiting.unsigned_abs().saturating_sub(self.replaced);
        let bytes = stored.unsigned_abs().saturating_add(arriving.unsigned_abs()).saturating_add(waiting);
        OtherUploads { bytes, waiting }
    }

    fn fits(&self, used: UsedSpace, limit: u64) -> bool {
        self.others(used).bytes.saturating_add(self.bytes) <= limit
    }

    fn refusal(&self, used: UsedSpace, limit: u64) -> ApiError {
        let what = match self.kind {
            UploadKind::Checkpoint => "checkpoint",
            UploadKind::Dataset => "data set",
        };
        let (OtherUploads { bytes: others, waiting }, bytes) = (self.others(used), self.bytes);
        let unfinished = match waiting {
            0 => String::new(),
            waiting => format!(
                " ({waiting} of them in shards and pieces of unfinished uploads, which are deleted a day after the last \
                 of them came, together with their data set, or by DELETE /v1/datasets/{{name}}/uploads/{{upload}})"
            ),
        };
        let arriving = match used.arriving {
            0 => String::new(),
            arriving => format!(", {arriving} of which are being stored now,"),
        };
        ApiError::conflict(format!(
            "no space for this {what}: its {bytes} bytes and the {others} bytes of other uploads{unfinished}{arriving} \
             exceed the limit of {limit} bytes for all of them. Delete a checkpoint or a data set that no job needs: \
             DELETE /v1/checkpoints/{{id}}, DELETE /v1/datasets/{{name}}"
        ))
    }
}
