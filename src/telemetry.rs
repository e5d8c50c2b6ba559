//! Logs, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::cli::LogFormat;

/// The default filter. Most of PostgreSQL's notices come from migrations that find nothing to do.
const DEFAULT: &str = "info,sqlx::postgres::notice=warn";

/// Starts logging, filtered by `RUST_LOG` if it is set.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let colour = std::io::stderr().is_terminal();
    // It would tell of a line that nobody reads by a macro that panics then.
    let builder = fmt().log_internal_errors(false);
    let builder = builder.with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).with_target(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
