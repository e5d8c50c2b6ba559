//! What is wrong with an archive.

use std::fmt;

use crate::text::escaped;

/// Most faults that are named.
const NAMED: usize = 20;
/// Longest part of a name that is shown, in characters.
const SHOWN: usize = 120;

/// All faults of an archive, of which the first are named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveFaults {
    named: Vec<String>,
    more: u64,
}

impl ArchiveFaults {
    #[must_use]
    pub fn one(fault: String) -> Self {
        Self { named: vec![fault], more: 0 }
    }

    pub(super) fn add(&mut self, fault: String) {
        if self.named.len() < NAMED {
            self.named.push(fault);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        self.named.len() as u64 + self.more
    }

    /// The named faults, and a line with the number of the others.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("there are {} more faults like these", self.more));
        self.named.iter().cloned().chain(more).collect()
    }
}

impl fmt::Display for ArchiveFaults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.lines().join("; "))
    }
}

/// The name of an entry for messages: shortened, with control characters escaped.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let cut = escaped(&text.chars().take(SHOWN).collect::<String>());
    if text.chars().nth(SHOWN).is_some() { format!("{cut}…") } else { cut }
}
