//! Texts for terminals and shells.

use chrono::{DateTime, Utc};
use serde_json::Value;

/// The text without control characters, because names and log lines may come from strangers.
#[must_use]
pub fn plain(text: &str) -> String {
    // Bidirectional controls could make a line look like another one.
    let is_hidden = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if (c.is_control() && c != '\t') || is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// The same for a text that may have several lines, with `indent` spaces before those after the first, so that none of
/// them passes for a line of this program.
#[must_use]
pub fn indented(text: &str, indent: usize) -> String {
    text.trim_end().lines().map(plain).collect::<Vec<_>>().join(&format!("\n{:indent$}", ""))
}

/// The text of a member without control characters; empty if there is none.
#[must_use]
pub fn member(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).map(plain).unwrap_or_default()
}

/// The text of a member that may have several lines, as [`indented`] has it.
#[must_use]
pub fn message(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).map(|text| indented(text, 2)).unwrap_or_default()
}

/// A percentage with two decimals; `None` without a number.
#[must_use]
pub fn percent(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_f64).map(|value| format!("{value:.2} %"))
}

/// A time in seconds and UTC.
#[must_use]
pub fn time(value: &Value) -> String {
    let parsed = value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
    parsed.map_or_else(|| "-".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Hours, minutes and seconds.
#[must_use]
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e9) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_control_a_terminal_is_replaced() {
        assert_eq!(
            plain("a\u{1b}[31mb\r\nc\u{9b}d\u{202e}e\tf"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}c\u{fffd}d\u{fffd}e\tf"
        );
    }

    #[test]
    fn lines_stay_lines_and_cannot_pass_for_others() {
        let text = "a\r\nb\rc\n\u{1b}[31md\u{85}e\n";
        assert_eq!(indented(text, 2), "a\n  b\u{fffd}c\n  \u{fffd}[31md\u{fffd}e");
        assert_eq!(indented("one\n", 2), "one");
    }

    #[test]
    fn times_are_short() {
        assert_eq!([clock(5.0), clock(65.9), clock(7325.0), clock(-1.0)], ["0:05", "1:05", "2:02:05", "0:00"]);
    }
}
