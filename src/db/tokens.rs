//! The table `tokens`: API tokens and what they allow. A token itself is never stored, only its SHA-256.

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use utoipa::ToSchema;

/// What a token allows; each scope includes those before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema, ValueEnum, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
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

    /// The scope of a name in the database; `None` for one that another version of the program has made.
    fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|scope| scope.name() == name)
    }
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `tok_` and a ULID.
    pub id: String,
    /// Whom it was made for.
    pub name: String,
    /// What it may do: the name of a [`Scope`], or of one that another version of the program knows.
    pub scope: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it ceased to be valid.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Whether a secret has only characters that cookies, headers and command lines leave as they are.
#[must_use]
pub fn is_plain(secret: &str) -> bool {
    secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.~+/=".contains(&byte))
}

/// The hash of a secret, which is what is stored.
#[must_use]
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Stores a new token's hash, and returns its id.
pub async fn create(pool: &PgPool, name: &str, scope: Scope, sha256: &[u8; 32]) -> sqlx::Result<String> {
    let id = format!("tok_{}", ulid::Ulid::generate());
    let insertion = sqlx::query!(
        "insert into tokens (id, name, scope, sha256) values ($1, $2, $3, $4)",
        id,
        super::storable(name),
        scope as Scope,
        sha256,
    );
    insertion.execute(pool).await?;
    Ok(id)
}

/// Every token, revoked ones too, oldest first.
pub async fn list(pool: &PgPool) -> sqlx::Result<Vec<Token>> {
    sqlx::query_as!(
        Token,
        "select id, name, scope, created_at, last_used_at, revoked_at from tokens order by created_at, id",
    )
    .fetch_all(pool)
    .await
}

/// Makes a token invalid; false if there is no such token.
pub async fn revoke(pool: &PgPool, id: &str) -> sqlx::Result<bool> {
    let update = sqlx::query!("update tokens set revoked_at = coalesce(revoked_at, now()) where id = $1", id);
    Ok(update.execute(pool).await?.rows_affected() > 0)
}

/// Whether there is a valid token.
pub async fn any(pool: &PgPool) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from tokens where revoked_at is null) as "any!""#)
        .fetch_one(pool)
        .await
}

/// Whether a token was ever made, valid or not.
pub async fn any_ever(pool: &PgPool) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from tokens) as "any!""#).fetch_one(pool).await
}

/// The scope of a token, or none if it is not valid here. Notes that it was used.
pub async fn scope_of(pool: &PgPool, sha256: &[u8; 32]) -> sqlx::Result<Option<Scope>> {
    let query = sqlx::query!(
        r#"
        select id, scope, last_used_at is null or last_used_at < now() - interval '1 minute' as "is_stale!"
        from tokens where sha256 = $1 and revoked_at is null
        "#,
        sha256,
    );
    let Some(found) = query.fetch_optional(pool).await? else { return Ok(None) };
    let Some(scope) = Scope::named(&found.scope) else {
        tracing::warn!(token = found.id, found.scope, "a token has a scope that this server does not know: update it");
        return Ok(None);
    };
    if found.is_stale
        && let Err(error) =
            sqlx::query!("update tokens set last_used_at = now() where id = $1", found.id).execute(pool).await
    {
        // A database that takes no writes now can still say whether the token is valid.
        tracing::warn!(%error, "cannot note that a token was used");
    }
    Ok(Some(scope))
}
