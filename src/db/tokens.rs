//! API tokens: who may do what. A token itself is never stored, only its SHA-256.

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use utoipa::ToSchema;

/// What a token may do; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// See everything and download.
    Read,
    /// Post, cancel, pause, resume and retry jobs, and upload checkpoints.
    Submit,
    /// Delete jobs and checkpoints.
    Admin,
}

impl Scope {
    /// The name in the database, in JSON and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
        }
    }

    fn parse(name: &str) -> sqlx::Result<Self> {
        [Self::Read, Self::Submit, Self::Admin]
            .into_iter()
            .find(|scope| scope.name() == name)
            .ok_or_else(|| sqlx::Error::Decode(format!("no scope {name:?}").into()))
    }
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `tok_` and a ULID.
    pub id: String,
    /// Who it was made for.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it ceased to be valid.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Whether it has only the signs that tokens have: no cookie, header or command line reads them otherwise.
#[must_use]
pub fn is_plain(secret: &str) -> bool {
    secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.~+/=".contains(&byte))
}

/// What is stored of a token.
#[must_use]
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Stores a new token's hash, and returns its id.
///
/// # Errors
/// Those of the database.
pub async fn create(pool: &PgPool, name: &str, scope: Scope, sha256: &[u8; 32]) -> sqlx::Result<String> {
    let id = format!("tok_{}", ulid::Ulid::generate());
    let insertion = sqlx::query!(
        "insert into tokens (id, name, scope, sha256) values ($1, $2, $3, $4)",
        id,
        super::storable(name),
        scope.name(),
        sha256,
    );
    insertion.execute(pool).await?;
    Ok(id)
}

/// Every token, revoked ones too, oldest first.
///
/// # Errors
/// Those of the database.
pub async fn list(pool: &PgPool) -> sqlx::Result<Vec<Token>> {
    let rows = sqlx::query!(
        "select id, name, scope, created_at, last_used_at, revoked_at from tokens order by created_at, id"
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Token {
                id: row.id,
                name: row.name,
                scope: Scope::parse(&row.scope)?,
                created_at: row.created_at,
                last_used_at: row.last_used_at,
                revoked_at: row.revoked_at,
            })
        })
        .collect()
}

/// Makes a token invalid; whether there is such a token.
///
/// # Errors
/// Those of the database.
pub async fn revoke(pool: &PgPool, id: &str) -> sqlx::Result<bool> {
    let update = sqlx::query!("update tokens set revoked_at = coalesce(revoked_at, now()) where id = $1", id);
    Ok(update.execute(pool).await?.rows_affected() > 0)
}

/// Whether there is a valid token at all.
///
/// # Errors
/// Those of the database.
pub async fn any(pool: &PgPool) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from tokens where revoked_at is null) as "any!""#)
        .fetch_one(pool)
        .await
}

/// What the bearer of the token may do; none where it is not valid. Takes note that it was used.
///
/// # Errors
/// Those of the database.
pub async fn scope_of(pool: &PgPool, sha256: &[u8; 32]) -> sqlx::Result<Option<Scope>> {
    let query = sqlx::query!(
        r#"
        select id, scope, last_used_at is null or last_used_at < now() - interval '1 minute' as "is_stale!"
        from tokens where sha256 = $1 and revoked_at is null
        "#,
        sha256,
    );
    let Some(found) = query.fetch_optional(pool).await? else { return Ok(None) };
    if found.is_stale {
        sqlx::query!("update tokens set last_used_at = now() where id = $1", found.id).execute(pool).await?;
    }
    Scope::parse(&found.scope).map(Some)
}
