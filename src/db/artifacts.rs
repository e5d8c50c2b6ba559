//! The table `artifacts`: the files that attempts stored. Those of the published attempt are the job's.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

/// A file that a job has published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// Its name.
    #[schema(example = "student.safetensors")]
    pub name: String,
    /// Size in bytes.
    pub size_bytes: i64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// Its key in storage.
    #[serde(skip)]
    pub key: String,
}

/// A file that an attempt has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewArtifact {
    pub name: String,
    pub key: String,
    pub size_bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// The files that a job has published, by name.
pub async fn list(pool: &PgPool, job: &str) -> sqlx::Result<Vec<Artifact>> {
    sqlx::query_as!(
        Artifact,
        r#"
        select artifacts.name, size_bytes, sha256, artifacts.created_at, key
        from artifacts join jobs on jobs.id = job_id and published_attempt = artifacts.attempt
        where job_id = $1 order by artifacts.name
        "#,
        job,
    )
    .fetch_all(pool)
    .await
}

/// One of the files that a job has published.
pub async fn get(pool: &PgPool, job: &str, name: &str) -> sqlx::Result<Option<Artifact>> {
    Ok(list(pool, job).await?.into_iter().find(|artifact| artifact.name == name))
}

/// Notes a file of an attempt.
pub(super) async fn insert(
    connection: &mut PgConnection,
    job: &str,
    attempt: i32,
    artifact: &NewArtifact,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into artifacts (job_id, attempt, name, key, size_bytes, sha256) values ($1, $2, $3, $4, $5, $6)
         on conflict (job_id, attempt, name) do nothing",
        job,
        attempt,
        artifact.name,
        artifact.key,
        i64::try_from(artifact.size_bytes).unwrap_or(i64::MAX),
        artifact.sha256,
    )
    .execute(connection)
    .await?;
    Ok(())
}
