//! Texts from outside, as far as they are the same for all readers.

use std::borrow::Cow;

/// Bytes that the remark on a cut takes at most.
const REMARK: usize = "… (18446744073709551615 more bytes)".len();

/// A text without the byte-order mark that editors on Windows put before it.
#[must_use]
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// A text of at most `longest` bytes: a longer one is cut, and says how many bytes are missing. `longest` must have room
/// for that remark.
#[must_use]
pub fn shortened(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(longest.saturating_sub(REMARK))];
    Cow::Owned(format!("{kept}… ({} more bytes)", text.len() - kept.len()))
}
