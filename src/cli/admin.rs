//! Flags of `token`, `database`, `prune` and `migrate`.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::DatabaseArgs;
use crate::db::tokens::Scope;
use crate::text::is_blank;

#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub command: TokenCommand,
    #[command(flatten)]
    pub database: DatabaseArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Create a token and print it. It cannot be printed again.
    Create {
        /// Who the token is for.
        #[arg(value_parser = token_name)]
        name: String,
        /// What the token permits. Each scope includes the ones before it.
        #[arg(long, env = "DISTILLERY_SCOPE", value_enum)]
        scope: Scope,
    },
    /// List all tokens, without their secrets.
    List,
    /// Invalidate a token.
    Revoke {
        /// The token's id, `tok_…`.
        id: String,
    },
}

#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Make the database, empty, in a data directory that has none: to restore a backup into it.
    #[arg(long, env = "DISTILLERY_CREATE")]
    pub create: bool,
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The program and its arguments. Those that come with PostgreSQL need no path. PGHOST, PGPORT, PGUSER and
    /// PGDATABASE tell them where the database is, and DATABASE_URL tells others.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Which finished jobs and files to remove.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What to remove")]
pub struct PruneRules {
    /// Remove jobs that finished at least this many days ago.
    #[arg(long, env = "DISTILLERY_OLDER_THAN_DAYS", value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(..=36_500))]
    pub older_than_days: Option<u32>,
    /// Remove the jobs that finished first until all files together, uploads included, take at most this many
    /// bytes. Checkpoints and data sets are not removed for this: if they alone take more, no job is removed.
    #[arg(long, env = "DISTILLERY_MAX_BYTES", value_name = "BYTES")]
    pub max_bytes: Option<u64>,
    /// Remove versions of uploaded data sets that no job names, this many days after another version was uploaded under
    /// their name. The latest version of a name stays.
    #[arg(long, env = "DISTILLERY_SUPERSEDED_DATASETS_DAYS", value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(..=36_500))]
    pub superseded_datasets_days: Option<u32>,
    /// Keep this many of the jobs that finished last.
    #[arg(long, env = "DISTILLERY_KEEP_LAST", value_name = "JOBS", default_value_t = 0)]
    pub keep_last: usize,
    /// For each data set, keep this many of the jobs with the most accurate students.
    #[arg(long, env = "DISTILLERY_KEEP_BEST", value_name = "JOBS", default_value_t = 0)]
    pub keep_best: usize,
    /// Age in minutes from which unreferenced files are removed. A job may be about to refer to younger ones.
    #[arg(long, env = "DISTILLERY_ORPHAN_MINUTES", value_name = "MINUTES", default_value_t = 24 * 60)]
    pub orphan_minutes: u32,
}

impl PruneRules {
    /// Whether one of the rules removes jobs or data sets.
    #[must_use]
    pub fn removes_something(&self) -> bool {
        self.older_than_days.is_some() || self.max_bytes.is_some() || self.superseded_datasets_days.is_some()
    }
}

#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Print what would be removed, and remove nothing.
    #[arg(long, env = "DISTILLERY_DRY_RUN")]
    pub dry_run: bool,
    #[command(flatten)]
    pub rules: PruneRules,
    /// Where checkpoints and artifacts are stored. Default: `artifacts` in the data directory.
    #[arg(long, env = "DISTILLERY_STORAGE")]
    pub storage: Option<String>,
    #[command(flatten)]
    pub database: DatabaseArgs,
}

#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// URL of the database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
}

/// Longest name of a token.
const LONGEST_TOKEN_NAME: usize = 200;

/// A name that the list of tokens can show.
fn token_name(name: &str) -> Result<String, String> {
    if is_blank(name) {
        return Err("a token without a name cannot be told from others: say who it is for".to_owned());
    }
    if name.chars().any(char::is_control) || name.chars().count() > LONGEST_TOKEN_NAME {
        return Err(format!(
            "a name of at most {LONGEST_TOKEN_NAME} characters, without line breaks and other control characters, is \
             needed: the list of tokens shows it"
        ));
    }
    Ok(name.to_owned())
}
