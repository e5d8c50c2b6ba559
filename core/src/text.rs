//! Texts from outside, as far as they are the same for all readers.

/// A text without the byte-order mark that editors on Windows put before it.
#[must_use]
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
