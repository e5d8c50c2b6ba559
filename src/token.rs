//! `distillery token`: makes, lists and revokes the tokens of the API.

use std::io::Write;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sqlx::{Connection, PgConnection, PgPool};

use crate::config::{TokenArgs, TokenCommand};
use crate::jobs::tokens;
use crate::serve::DATABASE_NOTE;
use crate::{jobs, postgres};

/// Runs the command.
///
/// # Errors
/// When the database cannot be reached, or there is no such token.
pub async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let (pool, own) = open(&args).await?;
    let outcome = act(&pool, args.command).await;
    pool.close().await;
    if let Some(server) = own {
        server.stop().await;
    }
    outcome
}

/// The database, and the server of it where that had to be started for this.
async fn open(args: &TokenArgs) -> anyhow::Result<(PgPool, Option<postgres::Server>)> {
    let (url, own) = match &args.database_url {
        Some(url) => (url.clone(), None),
        None => {
            let note = args.data_dir.join(DATABASE_NOTE);
            let running = std::fs::read_to_string(&note).unwrap_or_default();
            if !running.is_empty() && PgConnection::connect(&running).await.is_ok() {
                (running, None)
            } else {
                std::fs::create_dir_all(&args.data_dir)
                    .with_context(|| format!("cannot create the data directory {}", args.data_dir.display()))?;
                let options = postgres::Options {
                    data_dir: args.data_dir.clone(),
                    bin_dir: args.postgres_bin_dir.clone(),
                    settings: Vec::new(),
                };
                let server = postgres::Server::start(&options).await.context("cannot start the embedded PostgreSQL")?;
                (server.url().to_owned(), Some(server))
            }
        }
    };
    let pool = jobs::connect(&url).await?;
    jobs::migrate(&pool).await?;
    Ok((pool, own))
}

async fn act(pool: &PgPool, command: TokenCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match command {
        TokenCommand::Create { name, scope } => {
            let secret = generate()?;
            let id = tokens::create(pool, &name, scope, &tokens::hash(&secret)).await?;
            writeln!(out, "{secret}")?;
            eprintln!(
                "{id} may {}. Keep the token above, it is not shown again: send it as `Authorization: Bearer …`",
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
                let (scope, created) = (token.scope.name(), time(token.created_at));
                writeln!(out, "{:<30} {scope:<8} {created:<20} {used:<20} {}", token.id, token.name)?;
            }
        }
        TokenCommand::Revoke { id } => {
            anyhow::ensure!(
                tokens::revoke(pool, &id).await?,
                "there is no token {id}: `distillery token list` has them"
            );
            eprintln!("{id} is revoked; servers refuse it within {} seconds", crate::http::TOKEN_MEMORY.as_secs());
        }
    }
    Ok(())
}

/// 256 random bits, with a prefix by which secret scanners can know them.
fn generate() -> anyhow::Result<String> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(format!("dst_{}", BASE64_URL_SAFE_NO_PAD.encode(bits)))
}
