//! `distillery token`: creates, lists and revokes API tokens.

use std::io::Write;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sqlx::PgPool;

use crate::cli::{TokenArgs, TokenCommand};
use crate::db::Database;
use crate::db::tokens;
use distillery_core::tell;

/// # Errors
/// The database cannot be reached, or there is no such token.
pub async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let database = Database::open(args.database.location()).await?;
    let outcome = act(&database.pool, args.command).await;
    database.close().await;
    outcome
}

async fn act(pool: &PgPool, command: TokenCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match command {
        TokenCommand::Create { name, scope } => {
            let secret = generate()?;
            let id = tokens::create(pool, &name, scope, &tokens::hash(&secret)).await?;
            if let Err(error) = writeln!(out, "{secret}") {
                anyhow::bail!(
                    "the token cannot be printed ({error}), so nobody has it: revoke {id} and create another"
                );
            }
            tell!(
                "{id} has scope {}. Store the token above; it cannot be shown again. Send it as `Authorization: Bearer …`",
                scope.name()
            );
        }
        TokenCommand::List => {
            writeln!(out, "{:<30} {:<8} {:<20} {:<20} name", "id", "scope", "created", "last used")?;
            for token in tokens::list(pool).await? {
                let time = |time: chrono::DateTime<chrono::Utc>| time.format("%Y-%m-%d %H:%M UTC").to_string();
                let used = match (token.revoked_at, token.last_used_at) {
                    (Some(_), _) => "revoked".to_owned(),
                    (None, None) => "never".to_owned(),
                    (None, Some(last)) => time(last),
                };
                let (scope, created) = (&token.scope, time(token.created_at));
                writeln!(out, "{:<30} {scope:<8} {created:<20} {used:<20} {}", token.id, token.name)?;
            }
        }
        TokenCommand::Revoke { id } => {
            anyhow::ensure!(
                tokens::revoke(pool, &id).await?,
                "there is no token {id}: `distillery token list` lists all tokens"
            );
            tell!("{id} is revoked; servers refuse it within {} seconds", crate::http::TOKEN_MEMORY.as_secs());
        }
    }
    Ok(())
}

/// 256 random bits, with a prefix that secret scanners can recognise.
fn generate() -> anyhow::Result<String> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| anyhow::anyhow!("cannot get random numbers: {error}"))?;
    Ok(format!("dst_{}", BASE64_URL_SAFE_NO_PAD.encode(bits)))
}
