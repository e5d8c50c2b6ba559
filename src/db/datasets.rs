//! The table `datasets`: uploaded data sets. Their bytes are in storage.

mod delete;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, PgPool, Postgres, Transaction};

use super::dataset_shards;
use super::file_deletions::{self, FileDeletion};
use super::storable_description;
use crate::dataset::{DatasetClasses, DatasetSummary};

pub use delete::{delete, delete_superseded};

/// Number of hexadecimal digits of the SHA-256 that are the version.
const DIGITS: usize = 16;

/// A version of an uploaded data set.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadedDataset {
    /// `name@version`, as jobs name it.
    pub id: String,
    pub name: String,
    /// The first 16 hexadecimal digits of the SHA-256.
    pub version: String,
    /// The data set in storage.
    pub stored: StoredDataset,
    pub summary: Json<DatasetSummary>,
    pub classes: Json<DatasetClasses>,
    /// [`DatasetStatistics`](crate::dataset::DatasetStatistics), once they are known.
    pub statistics: Option<Value>,
    pub uploaded_at: DateTime<Utc>,
}

/// Where the bytes of a data set are, and what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDataset {
    /// `name@version`.
    pub id: String,
    pub name: String,
    /// Key of the tar.
    pub key: String,
    /// SHA-256 of the tar, in hexadecimal.
    pub sha256: String,
    /// Size of the tar.
    pub size_bytes: i64,
    /// Size of the files in it.
    pub unpacked_bytes: i64,
    /// The [fingerprint](crate::dataset::fingerprint) of the directory.
    pub fingerprint: String,
}

/// The version of a content with that SHA-256, in hexadecimal.
#[must_use]
pub fn version_of(sha256: &str) -> &str {
    sha256.get(..DIGITS).unwrap_or(sha256)
}

/// How a job names a version.
#[must_use]
pub fn id_of(name: &str, sha256: &str) -> String {
    format!("{name}@{}", version_of(sha256))
}

/// A row of the table. Not [`FoundVersion`] itself: `query_as!` fills one flat struct, and a description that another
/// version of the program wrote may be unreadable, which must not fail the whole query.
struct DatasetRow {
    id: String,
    name: String,
    version: String,
    sha256: String,
    key: String,
    size_bytes: i64,
    unpacked_bytes: i64,
    fingerprint: String,
    summary: Value,
    classes: Value,
    statistics: Option<Value>,
    uploaded_at: DateTime<Utc>,
}

/// A version, whether this program can read its description or not.
#[derive(Debug)]
pub struct FoundVersion {
    /// `name@version`.
    pub id: String,
    pub name: String,
    pub version: String,
    /// What it is.
    pub read: Result<UploadedDataset, Unreadable>,
}

/// A version that another version of the program described in a form that this one cannot read.
#[derive(Debug, thiserror::Error)]
#[error(
    "this server cannot read how the data set {id} was described by another version of it ({reason}): update this server, \
     or use another version of the data set"
)]
pub struct Unreadable {
    id: String,
    reason: String,
}

impl From<DatasetRow> for FoundVersion {
    fn from(row: DatasetRow) -> Self {
        let DatasetRow { id, name, version, sha256, key, size_bytes, unpacked_bytes, fingerprint, .. } = row;
        let DatasetRow { summary, classes, statistics, uploaded_at, .. } = row;
        let read = parse(&id, summary).and_then(|summary| Ok((summary, parse(&id, classes)?)));
        let read = read.map(|(summary, classes)| {
            let stored = StoredDataset {
                id: id.clone(),
                name: name.clone(),
                key,
                sha256,
                size_bytes,
                unpacked_bytes,
                fingerprint,
            };
            let (id, name, version) = (id.clone(), name.clone(), version.clone());
            UploadedDataset { id, name, version, stored, summary, classes, statistics, uploaded_at }
        });
        Self { id, name, version, read }
    }
}

fn parse<T: DeserializeOwned>(id: &str, stored: Value) -> Result<Json<T>, Unreadable> {
    serde_json::from_value(stored)
        .map(Json)
        .map_err(|error| Unreadable { id: id.to_owned(), reason: error.to_string() })
}

/// What must be the latest version of a name for another one to follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predecessor {
    /// Any version, or none.
    Any,
    /// The version with this id, or none: the new one has splits of it.
    Exactly(Option<String>),
}

/// The outcome of an insertion.
#[derive(Debug)]
pub enum InsertedDataset {
    /// The data set is in the table.
    Done {
        /// False if the same files were uploaded under this name before.
        is_new: bool,
        /// The file that is no longer needed: a damaged one, or that of one of two equal uploads at the same time.
        superseded: Option<FileDeletion>,
    },
    /// The new file is being deleted, because the upload took too long.
    TooLate,
    /// Other files have the same version. The new file is being deleted.
    OtherContent,
    /// The latest version is not the [`Predecessor`]. The new file is being deleted.
    Overtaken,
}

/// Inserts a data set. The key of its tar was announced ([`file_deletions::announce`]), and the tar is stored. If the
/// version is in the table already, it becomes the latest of its name, and takes over the new tar if its own is the
/// `damaged` one.
pub async fn insert(
    pool: &PgPool,
    new: &UploadedDataset,
    damaged: Option<&str>,
    after: &Predecessor,
) -> sqlx::Result<InsertedDataset> {
    let StoredDataset { key, sha256, fingerprint, .. } = &new.stored;
    let mut transaction = pool.begin().await?;
    if !file_deletions::take_over(&mut transaction, key).await? {
        return Ok(InsertedDataset::TooLate);
    }
    if !follows(&mut transaction, &new.name, after).await? {
        give_up(transaction, key).await?;
        return Ok(InsertedDataset::Overtaken);
    }
    let row = sqlx::query!(
        r#"
        insert into datasets as old
            (id, name, version, sha256, key, size_bytes, unpacked_bytes, fingerprint, summary, classes)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        on conflict (id) do update set
            uploaded_at = now(), summary = excluded.summary, classes = excluded.classes,
            key = case when old.key = $11 then excluded.key else old.key end
        where old.sha256 = excluded.sha256
        returning key = $5 as "is_taken!", xmax = 0 as "is_new!"
        "#,
        new.id,
        new.name,
        new.version,
        sha256,
        key,
        new.stored.size_bytes,
        new.stored.unpacked_bytes,
        fingerprint,
        storable_description(&new.summary),
        storable_description(&new.classes),
        damaged,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(row) = row else {
        give_up(transaction, key).await?;
        return Ok(InsertedDataset::OtherContent);
    };
    let superseded = if row.is_taken { damaged.filter(|_| !row.is_new) } else { Some(key.as_str()) };
    let superseded = superseded.map(|key| FileDeletion { key: key.to_owned(), is_directory: false });
    if let Some(file) = &superseded {
        file_deletions::decide(&mut transaction, file).await?;
    }
    transaction.commit().await?;
    Ok(InsertedDataset::Done { is_new: row.is_new, superseded })
}

/// Gives up a new file, and ends the transaction.
async fn give_up(mut transaction: Transaction<'_, Postgres>, key: &str) -> sqlx::Result<()> {
    let file = FileDeletion { key: key.to_owned(), is_directory: false };
    file_deletions::decide(&mut transaction, &file).await?;
    transaction.commit().await
}

/// Whether the latest version of a name is the one that it must be. If so, it stays so until the transaction ends, but
/// for uploads that may follow any.
async fn follows(connection: &mut PgConnection, name: &str, after: &Predecessor) -> sqlx::Result<bool> {
    let Predecessor::Exactly(wanted) = after else { return Ok(true) };
    dataset_shards::lock(&mut *connection, name).await?;
    let query =
        sqlx::query_scalar!("select id from datasets where name = $1 order by uploaded_at desc, id limit 1", name);
    Ok(query.fetch_optional(connection).await? == *wanted)
}

/// Makes a version the latest of its name, because its files were uploaded again and its tar is whole. Returns false if
/// the version has been deleted, or the latest one is not the [`Predecessor`].
pub async fn uploaded_again(pool: &PgPool, stored: &StoredDataset, after: &Predecessor) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    if !follows(&mut transaction, &stored.name, after).await? {
        return Ok(false);
    }
    let query = sqlx::query!(
        "update datasets set uploaded_at = now() where id = $1 and key = $2 and sha256 = $3",
        stored.id,
        stored.key,
        stored.sha256,
    );
    let is_there = query.execute(&mut *transaction).await?.rows_affected() == 1;
    transaction.commit().await?;
    Ok(is_there)
}

/// Stores what decoding the images has shown.
pub async fn set_statistics(pool: &PgPool, id: &str, statistics: &Value) -> sqlx::Result<()> {
    let statistics = storable_description(statistics);
    sqlx::query!("update datasets set statistics = $2 where id = $1", id, statistics).execute(pool).await?;
    Ok(())
}

/// The latest version of each name, by name.
pub async fn latest(pool: &PgPool) -> sqlx::Result<Vec<FoundVersion>> {
    let query = sqlx::query_as!(
        DatasetRow,
        r#"
        select distinct on (name) id, name, version, sha256, key, size_bytes, unpacked_bytes, fingerprint,
            readable(summary) as "summary!", readable(classes) as "classes!", readable(statistics) as statistics,
            calendar_time(uploaded_at) as "uploaded_at!"
        from datasets order by name, uploaded_at desc, id
        "#,
    );
    Ok(query.fetch_all(pool).await?.into_iter().map(Into::into).collect())
}

/// All versions of a name, the latest first.
pub async fn versions(pool: &PgPool, name: &str) -> sqlx::Result<Vec<FoundVersion>> {
    let query = sqlx::query_as!(
        DatasetRow,
        r#"
        select id, name, version, sha256, key, size_bytes, unpacked_bytes, fingerprint,
            readable(summary) as "summary!", readable(classes) as "classes!", readable(statistics) as statistics,
            calendar_time(uploaded_at) as "uploaded_at!"
        from datasets where name = $1 order by uploaded_at desc, id
        "#,
        name,
    );
    Ok(query.fetch_all(pool).await?.into_iter().map(Into::into).collect())
}

/// Where the tar of a version is.
pub async fn stored(pool: &PgPool, id: &str) -> sqlx::Result<Option<StoredDataset>> {
    sqlx::query_as!(
        StoredDataset,
        "select id, name, key, sha256, size_bytes, unpacked_bytes, fingerprint from datasets where id = $1",
        id,
    )
    .fetch_optional(pool)
    .await
}

/// A version that a later upload of its name has followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupersededVersion {
    pub id: String,
    /// Size of its tar.
    pub size_bytes: i64,
    /// When another version was uploaded.
    pub since: DateTime<Utc>,
}

/// The versions that were superseded at least this many days ago, and that no job names but for the jobs `gone`.
pub async fn superseded(
    database: impl PgExecutor<'_>,
    days: u32,
    gone: &[String],
) -> sqlx::Result<Vec<SupersededVersion>> {
    sqlx::query_as!(
        SupersededVersion,
        r#"
        select id as "id!", size_bytes as "size_bytes!", since as "since!"
        from (
            select id, size_bytes, lead(uploaded_at) over (partition by name order by uploaded_at, id desc) as since
            from datasets
        ) as versions
        where since <= now() - make_interval(days => $1)
            and not exists (select from jobs where dataset_id = versions.id and jobs.id <> all($2))
        order by since, id
        "#,
        i32::try_from(days).unwrap_or(i32::MAX),
        gone,
    )
    .fetch_all(database)
    .await
}
