//! The tables `checkpoints` and `job_checkpoints`: uploaded checkpoints, and which jobs need them. Their bytes are in
//! storage.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::errors::past_deadlock;
use super::file_deletions::{self, FileDeletion};
use super::jobs::{Refusal, Status};
use super::{storable, storable_description};
use crate::architecture::Certainty;

/// An uploaded checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Checkpoint)]
pub struct UploadedCheckpoint {
    /// `ckpt_` and the first 32 hexadecimal digits of the SHA-256: the same bytes have the same id.
    #[schema(example = "ckpt_2c26b46b68ffc68ff99b453c1d304134")]
    pub id: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// The uploader's name for it.
    pub name: Option<String>,
    /// Size in bytes.
    pub size_bytes: i64,
    /// The format of the file.
    #[schema(value_type = UploadFormat)]
    pub format: String,
    /// Number of tensors.
    pub tensors: i64,
    /// Number of elements of all tensors; of an exported network those that are trained.
    pub parameters: i64,
    /// The architecture that its uploader named, or the only one whose keys and shapes it has.
    pub architecture: Option<String>,
    /// Number of classes, as its uploader said or as its classifier's shape says.
    pub num_classes: Option<i32>,
    /// The architectures whose keys and shapes it has.
    #[schema(value_type = Vec<Fit>)]
    pub fits: Json<Vec<Fit>>,
    /// The likeliest network; absent if no known network has even half of its keys and shapes.
    #[schema(value_type = Option<Guess>)]
    pub guess: Option<Json<Guess>>,
    /// The network in a file of `torch.export`, which is its own architecture; null for other files.
    #[schema(value_type = Option<crate::exported::Description>)]
    pub network: Option<Value>,
    /// What was passed over, chosen or read under another name.
    pub notes: Vec<String>,
    /// When it was first uploaded.
    pub created_at: DateTime<Utc>,
}

/// The format of an uploaded file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CheckpointFormat)]
pub enum UploadFormat {
    /// Hugging Face's safetensors.
    Safetensors,
    /// `torch.save` since PyTorch 1.6.
    TorchZip,
    /// `torch.save` before PyTorch 1.6.
    TorchLegacy,
    /// `torch.export.save`: a network with its weights.
    TorchExport,
}

/// A network whose keys and shapes a checkpoint has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fit {
    /// A name of `GET /v1/architectures`.
    pub architecture: String,
    /// Its number of classes.
    pub num_classes: u32,
}

/// The likeliest network of a checkpoint, by its keys and shapes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Guess {
    /// A name of `GET /v1/architectures`.
    pub architecture: String,
    /// Its number of classes, if the checkpoint has the classifier.
    pub num_classes: Option<u32>,
    /// How sure the guess is.
    pub certainty: Certainty,
    /// Share of tensors that agree in key and shape; 1 if the network fits.
    pub agreement: f64,
    /// The most telling difference, if the network does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
}

/// A row of the table. Not [`UploadedCheckpoint`] itself: another version of the program may have written what this one
/// cannot read, and a column that sqlx decodes fails the whole query.
struct CheckpointRow {
    id: String,
    sha256: String,
    name: Option<String>,
    size_bytes: i64,
    format: String,
    tensors: i64,
    parameters: i64,
    architecture: Option<String>,
    num_classes: Option<i32>,
    fits: Value,
    guess: Option<Value>,
    network: Option<Value>,
    notes: Vec<String>,
    created_at: DateTime<Utc>,
}

impl From<CheckpointRow> for UploadedCheckpoint {
    fn from(row: CheckpointRow) -> Self {
        let CheckpointRow {
            id, sha256, name, size_bytes, format, tensors, parameters, architecture, num_classes, ..
        } = row;
        let CheckpointRow { fits, guess, network, mut notes, created_at, .. } = row;
        let fits: Result<Vec<Fit>, _> = serde_json::from_value(fits);
        let guess: Result<Option<Guess>, _> = guess.map(serde_json::from_value).transpose();
        if let Some(error) = fits.as_ref().err().or(guess.as_ref().err()) {
            notes.push(format!(
                "which networks it fits was noted by another version of the server, in a form that this one cannot read \
                 ({error}), and is missing here: update this server"
            ));
        }
        if network.as_ref().is_some_and(Value::is_null) {
            notes
                .push("its network was described in a form that this server cannot read: upload the file again".into());
        }
        Self {
            id,
            sha256,
            name,
            size_bytes,
            format,
            tensors,
            parameters,
            architecture,
            num_classes,
            fits: Json(fits.unwrap_or_default()),
            guess: guess.unwrap_or_default().map(Json),
            network,
            notes,
            created_at,
        }
    }
}

/// A checkpoint that was uploaded.
#[derive(Debug)]
pub struct InsertedCheckpoint {
    pub checkpoint: UploadedCheckpoint,
    /// Whether it was not there before.
    pub is_new: bool,
    /// The file that is no longer needed: a damaged one, or that of one of two equal uploads at the same time.
    pub superseded: Option<FileDeletion>,
}

/// Stores a checkpoint whose bytes an upload has put under `key`, which was announced. One that is there already takes
/// over what its new uploader says about it, and the new file if its own is the `damaged` one. None if the deletion of
/// the new file was decided, because the upload took too long.
pub async fn insert(
    pool: &PgPool,
    new: &UploadedCheckpoint,
    key: &str,
    damaged: Option<&str>,
) -> sqlx::Result<Option<InsertedCheckpoint>> {
    let mut transaction = pool.begin().await?;
    if !file_deletions::take_over(&mut transaction, key).await? {
        return Ok(None);
    }
    let notes: Vec<String> = new.notes.iter().map(|note| storable(note)).collect();
    let row = sqlx::query!(
        r#"
        insert into checkpoints as old
            (id, sha256, name, size_bytes, format, tensors, parameters, architecture, num_classes, fits, guess,
            notes, key, network)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $15)
        on conflict (id) do update set
            name = coalesce(excluded.name, old.name),
            architecture = coalesce(excluded.architecture, old.architecture),
            num_classes = coalesce(excluded.num_classes, old.num_classes),
            fits = excluded.fits, guess = excluded.guess, notes = excluded.notes, network = excluded.network,
            key = case when checkpoint_key(old.key, old.sha256) = $14 then excluded.key else old.key end
        returning name, architecture, num_classes, created_at, key is not distinct from $13 as "is_taken!",
            xmax = 0 as "is_new!"
        "#,
        new.id,
        new.sha256,
        new.name,
        new.size_bytes,
        new.format,
        new.tensors,
        new.parameters,
        new.architecture,
        new.num_classes,
        storable_description(&new.fits),
        new.guess.as_ref().map(storable_description),
        &notes,
        key,
        damaged,
        new.network.as_ref().map(storable_description),
    )
    .fetch_one(&mut *transaction)
    .await?;
    let superseded = if row.is_taken { damaged.filter(|_| !row.is_new) } else { Some(key) };
    let superseded = superseded.map(|key| FileDeletion { key: key.to_owned(), is_directory: false });
    if let Some(file) = &superseded {
        file_deletions::decide(&mut transaction, file).await?;
    }
    transaction.commit().await?;
    let checkpoint = UploadedCheckpoint {
        name: row.name,
        architecture: row.architecture,
        num_classes: row.num_classes,
        created_at: row.created_at,
        ..new.clone()
    };
    Ok(Some(InsertedCheckpoint { checkpoint, is_new: row.is_new, superseded }))
}

/// Notes what a new uploader says about a checkpoint whose bytes are whole under `key`. None if they are not there any
/// more.
pub async fn describe(pool: &PgPool, new: &UploadedCheckpoint, key: &str) -> sqlx::Result<Option<UploadedCheckpoint>> {
    let notes: Vec<String> = new.notes.iter().map(|note| storable(note)).collect();
    let query = sqlx::query_as!(
        CheckpointRow,
        r#"
        update checkpoints set
            name = coalesce($3, name), architecture = coalesce($4, architecture),
            num_classes = coalesce($5, num_classes), fits = $6, guess = $7, notes = $8, network = $9
        where id = $1 and checkpoint_key(key, sha256) = $2
        returning id, sha256, name, size_bytes, format, tensors, parameters, architecture, num_classes,
            readable(fits) as "fits!", readable(guess) as guess, readable(network) as network,
            plain_list(notes) as "notes!", created_at
        "#,
        new.id,
        key,
        new.name,
        new.architecture,
        new.num_classes,
        storable_description(&new.fits),
        new.guess.as_ref().map(storable_description),
        &notes,
        new.network.as_ref().map(storable_description),
    );
    Ok(query.fetch_optional(pool).await?.map(Into::into))
}

pub async fn get(pool: &PgPool, id: &str) -> sqlx::Result<Option<UploadedCheckpoint>> {
    let query = sqlx::query_as!(
        CheckpointRow,
        r#"
        select id, sha256, name, size_bytes, format, tensors, parameters, architecture, num_classes,
            readable(fits) as "fits!", readable(guess) as guess, readable(network) as network,
            plain_list(notes) as "notes!", created_at
        from checkpoints where id = $1
        "#,
        id,
    );
    Ok(query.fetch_optional(pool).await?.map(Into::into))
}

/// Checkpoints, newest first, after the one with this time and id, which may have been deleted.
pub async fn list(
    pool: &PgPool,
    after: Option<&(DateTime<Utc>, String)>,
    limit: i64,
) -> sqlx::Result<Vec<UploadedCheckpoint>> {
    let query = sqlx::query_as!(
        CheckpointRow,
        r#"
        select id, sha256, name, size_bytes, format, tensors, parameters, architecture, num_classes,
            readable(fits) as "fits!", readable(guess) as guess, readable(network) as network,
            plain_list(notes) as "notes!", created_at
        from checkpoints
        where $1::timestamptz is null or (created_at, id) < ($1, $2)
        order by created_at desc, id desc limit $3
        "#,
        after.map(|(time, _)| time),
        after.map(|(_, id)| id),
        limit,
    );
    Ok(query.fetch_all(pool).await?.into_iter().map(Into::into).collect())
}

/// The id of the checkpoint with that SHA-256, in hexadecimal.
#[must_use]
pub fn id_of(sha256: &str) -> String {
    format!("ckpt_{}", sha256.get(..32).unwrap_or(sha256))
}

/// Where the bytes of a checkpoint are, and what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFile {
    pub key: String,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
}

/// Where the bytes of a checkpoint are.
pub async fn stored_bytes(pool: &PgPool, id: &str) -> sqlx::Result<Option<CheckpointFile>> {
    sqlx::query_as!(
        CheckpointFile,
        r#"select checkpoint_key(key, sha256) as "key!", sha256 from checkpoints where id = $1"#,
        id,
    )
    .fetch_optional(pool)
    .await
}

/// Deletes a checkpoint that no unfinished job needs, and no finished one whose student is the network in it. Returns
/// what is left to do: to remove its file.
pub async fn delete(pool: &PgPool, id: &str) -> sqlx::Result<Result<FileDeletion, Refusal>> {
    past_deadlock(move || try_delete(pool, id)).await
}

async fn try_delete(pool: &PgPool, id: &str) -> sqlx::Result<Result<FileDeletion, Refusal>> {
    let mut transaction = pool.begin().await?;
    match delete_in(&mut transaction, id).await? {
        Ok(key) => {
            let file = FileDeletion { key, is_directory: false };
            file_deletions::decide(&mut transaction, &file).await?;
            transaction.commit().await?;
            Ok(Ok(file))
        }
        Err(refusal) => {
            transaction.rollback().await?;
            Ok(Err(refusal))
        }
    }
}

/// Returns the key of its file.
async fn delete_in(connection: &mut PgConnection, id: &str) -> sqlx::Result<Result<String, Refusal>> {
    let query = sqlx::query_scalar!(
        r#"select checkpoint_key(key, sha256) as "key!" from checkpoints where id = $1 for update"#,
        id,
    );
    let Some(key) = query.fetch_optional(&mut *connection).await? else { return Ok(Err(Refusal::Missing)) };
    let query = sqlx::query!(
        r#"
        select id, status <> all($2) as "is_unfinished!"
        from jobs join job_checkpoints on job_id = id
        where checkpoint_id = $1 and (status <> all($2)
            or (status = 'succeeded' and student_architecture is null and spec #>> '{student,checkpoint}' = $1))
        order by status = 'succeeded', id limit 1
        "#,
        id,
        &Status::FINAL as &[Status],
    );
    if let Some(job) = query.fetch_optional(&mut *connection).await? {
        let id = job.id;
        return Ok(Err(Refusal::Because(if job.is_unfinished {
            format!("job {id}, which is not finished, needs it")
        } else {
            format!("the student of job {id} is this network and cannot be used without it: delete that job first")
        })));
    }
    // In the order in which a sweep's jobs are deleted.
    sqlx::query!(
        "with theirs as (select job_id from job_checkpoints where checkpoint_id = $1 order by job_id for update)
         delete from job_checkpoints using theirs
         where checkpoint_id = $1 and job_checkpoints.job_id = theirs.job_id",
        id,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("delete from checkpoints where id = $1", id).execute(&mut *connection).await?;
    Ok(Ok(key))
}
