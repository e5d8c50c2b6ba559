//! The exit codes of the client commands, and the errors behind them.

use std::fmt;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::text::{indented, plain};
use distillery_core::output::is_unread;
use distillery_core::tell;

/// How a command ended. `docs/shell.md` lists the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Success,
    /// Something on this machine failed, such as reading or writing a file.
    Local,
    /// The command line or the address of the server is invalid. clap exits with this code, too.
    Usage,
    /// The server refused the request.
    Refused,
    /// The server cannot be reached, does not answer, or cannot answer now.
    Unreachable,
    /// The token is missing or not sufficient, or its file is not safe.
    Access,
    /// The job that was followed failed.
    JobFailed,
    /// The job that was followed was cancelled.
    JobCancelled,
    /// The bytes received do not have the SHA-256 that the server sent.
    Damaged,
    /// SIGINT, as from Ctrl-C, ended the command.
    Interrupted,
    /// SIGTERM ended the command.
    Terminated,
}

impl Exit {
    pub const ALL: [Self; 11] = [
        Self::Success,
        Self::Local,
        Self::Usage,
        Self::Refused,
        Self::Unreachable,
        Self::Access,
        Self::JobFailed,
        Self::JobCancelled,
        Self::Damaged,
        Self::Interrupted,
        Self::Terminated,
    ];

    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Local => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
            Self::Access => 5,
            Self::JobFailed => 6,
            Self::JobCancelled => 7,
            Self::Damaged => 8,
            // As shells have it: 128 and the number of the signal.
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

/// A fault in a document, with its place as a JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentFault {
    pub pointer: String,
    pub detail: String,
}

/// Why a command failed.
#[derive(Debug)]
pub enum Error {
    Local(anyhow::Error),
    Usage(String),
    Refused {
        /// Status code of the answer.
        status: u16,
        detail: String,
        faults: Vec<DocumentFault>,
    },
    Unreachable {
        detail: String,
        /// How long the server asked to wait, if it did.
        retry_after: Option<Duration>,
        /// Whether sending the request again at once is pointless: nobody listens, or nothing came for a long time.
        is_final: bool,
    },
    Access(String),
    Damaged(String),
}

impl Error {
    pub fn unreachable(detail: impl Into<String>) -> Self {
        Self::Unreachable { detail: detail.into(), retry_after: None, is_final: false }
    }

    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Local(_) => Exit::Local,
            Self::Usage(_) => Exit::Usage,
            Self::Refused { .. } => Exit::Refused,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Access(_) => Exit::Access,
            Self::Damaged(_) => Exit::Damaged,
        }
    }

    /// Whether the reader of standard output has ended, as in `distillery jobs | head -1`.
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        let Self::Local(error) = self else { return false };
        error.downcast_ref::<io::Error>().is_some_and(is_unread)
    }

    /// Puts `words` and a colon before the message.
    #[must_use]
    pub fn context(self, words: &str) -> Self {
        match self {
            Self::Local(error) => Self::Local(error.context(words.to_owned())),
            Self::Usage(detail) => Self::Usage(format!("{words}: {detail}")),
            Self::Refused { status, detail, faults } => {
                Self::Refused { status, detail: format!("{words}: {detail}"), faults }
            }
            Self::Unreachable { detail, retry_after, is_final } => {
                Self::Unreachable { detail: format!("{words}: {detail}"), retry_after, is_final }
            }
            Self::Access(detail) => Self::Access(format!("{words}: {detail}")),
            Self::Damaged(detail) => Self::Damaged(format!("{words}: {detail}")),
        }
    }

    /// Prints it to standard error: for people, or as one line of JSON.
    pub fn print(&self, as_json: bool) {
        if as_json {
            tell!("{}", self.json());
        } else {
            tell!("distillery: {self}");
        }
    }

    fn json(&self) -> Value {
        let mut error = json!({"exit_code": self.exit().code(), "detail": self.detail()});
        if let Self::Refused { status, faults, .. } = self {
            error["status"] = json!(status);
            let fault = |fault: &DocumentFault| json!({"pointer": fault.pointer, "detail": fault.detail});
            error["errors"] = faults.iter().map(fault).collect();
        }
        json!({ "error": error })
    }

    /// Whether the detail has this fault already, as that of a single one does.
    fn says(&self, pointer: &str, fault: &str) -> bool {
        let detail = self.detail();
        detail.contains(fault) && detail.contains(pointer)
    }

    fn detail(&self) -> String {
        match self {
            Self::Local(error) => format!("{error:#}"),
            Self::Usage(detail)
            | Self::Refused { detail, .. }
            | Self::Unreachable { detail, .. }
            | Self::Access(detail)
            | Self::Damaged(detail) => detail.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&indented(&self.detail(), 2))?;
        let Self::Refused { faults, .. } = self else { return Ok(()) };
        for DocumentFault { pointer, detail } in faults {
            if faults.len() == 1 && self.says(pointer, detail) {
                break;
            }
            let place = if pointer.is_empty() { "(the document)" } else { pointer.as_str() };
            write!(formatter, "\n  {}: {}", plain(place), indented(detail, 4))?;
        }
        Ok(())
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Local(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Local(error.into())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Local(error.into())
    }
}
