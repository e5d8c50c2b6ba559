//! Programs for users, which messages of several rooms show.

/// Python that exports a network, as a user would write it. The name of the network is `model`.
pub const HOW_TO_EXPORT: &str = include_str!("../../static/snippets/export.py");
