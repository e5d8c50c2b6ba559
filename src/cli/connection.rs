//! How commands reach a server.

use std::path::PathBuf;

use clap::Args;

/// How to reach the server, and what to print. The environment variable `DISTILLERY_TOKEN` may have the API token.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server and output")]
pub struct ConnectionArgs {
    /// Address of the server.
    #[arg(long = "server", env = "DISTILLERY_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// File with the API token, which nobody but its owner may read (mode 0600). Default: the environment variable
    /// DISTILLERY_TOKEN, or else the file `distillery/token` in `$XDG_CONFIG_HOME` or `~/.config`, if it is there.
    #[arg(long, env = "DISTILLERY_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Seconds without a byte from the server after which it is considered unreachable.
    #[arg(long, env = "DISTILLERY_TIMEOUT", value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Seconds for which `watch`, `logs`, downloads and uploads of data sets try to reach the server again after a lost
    /// connection.
    #[arg(long, env = "DISTILLERY_RECONNECT", value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(..=31_536_000))]
    pub reconnect: u64,
    /// Print JSON for programs. Errors are JSON, too, on standard error.
    #[arg(long, env = "DISTILLERY_JSON")]
    pub json: bool,
}

pub(super) fn idempotency_key(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 255 visible ASCII characters".to_owned())
    }
}
