//! Errors of exported networks. What is wrong with a network is collected, so that a user reads all of it at once.

use std::fmt;

use crate::checkpoint;
use crate::checkpoint::error::shown;
use crate::text::counted;

/// Most faults that are listed; the others are counted.
const MOST_FAULTS: usize = 50;

/// A value, or what is wrong: a sentence without a full stop.
pub(super) type OrFault<T> = std::result::Result<T, String>;

/// The messages do not name the file, because the caller knows what users call it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file has another format.
    #[error(
        "the file is not an exported network ({0}): write it with torch.export.save(torch.export.export(…), \
         \"network.pt2\")"
    )]
    NotExported(String),
    /// Another PyTorch wrote the file, in a form that is not read here. What it has: "schema 9.0".
    #[error(
        "the exported network has {0}, which is not read: export it again with PyTorch 2.9 to 2.11, whose schema 8 and \
         layout are read"
    )]
    Version(String),
    /// The archive or its bytes are at fault.
    #[error(transparent)]
    File(#[from] checkpoint::Error),
    /// The network cannot be used.
    #[error("{0}")]
    Faults(NetworkFaults),
}

impl Error {
    /// Whether the file is at fault, not the machine.
    #[must_use]
    pub fn is_users(&self) -> bool {
        match self {
            Self::File(error) => error.is_users(),
            _ => true,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::File(error.into())
    }
}

pub(super) type Result<T> = std::result::Result<T, Error>;

/// One thing that is wrong with a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFault {
    /// Where: a node, a tensor, or a part of the file.
    pub at: String,
    /// What is wrong and, where that helps, what to do.
    pub message: String,
}

/// Everything that is wrong with a network, in the file's order. Displayed as a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkFaults {
    list: Vec<NetworkFault>,
    /// Faults that are not listed.
    more: usize,
}

impl NetworkFaults {
    #[must_use]
    pub fn list(&self) -> &[NetworkFault] {
        &self.list
    }

    /// Number of faults that are not listed.
    #[must_use]
    pub fn more(&self) -> usize {
        self.more
    }

    pub(super) fn add(&mut self, at: impl Into<String>, message: impl Into<String>) {
        if self.list.len() < MOST_FAULTS {
            self.list.push(NetworkFault { at: at.into(), message: message.into() });
        } else {
            self.more += 1;
        }
    }

    pub(super) fn of_node(&mut self, name: &str, message: impl Into<String>) {
        self.add(format!("node {}", shown(name)), message);
    }

    /// `value`, unless there are faults.
    pub(super) fn none_or<T>(self, value: T) -> Result<T> {
        if self.list.is_empty() { Ok(value) } else { Err(Error::Faults(self)) }
    }
}

impl fmt::Display for NetworkFaults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the exported network cannot be used:")?;
        for NetworkFault { at, message } in &self.list {
            write!(formatter, "\n- {at}: {message}")?;
        }
        if self.more > 0 {
            let more = counted(self.more as u64, "more fault like these", "more faults like these");
            write!(formatter, "\n- {more}")?;
        }
        Ok(())
    }
}
