//! Copies a JSON document without some of its members. Everything else keeps its bytes, numbers above all: reading and
//! writing them again could change their last digit.

use super::{Result, refused};

/// Deepest nesting that is copied.
const DEEPEST: usize = 128;

/// What is not copied as it is.
pub(super) struct Rules<'a> {
    /// Names of members that are left out, wherever they are.
    pub(super) dropped: &'a [&'a str],
    /// The name of members whose text must be harmless, and what is.
    pub(super) checked: (&'a str, fn(&str) -> bool),
}

/// The document as the rules have it.
pub(super) fn filtered(document: &[u8], rules: &Rules<'_>) -> Result<Vec<u8>> {
    let mut filter = Filter { document, at: 0, rules, output: Vec::with_capacity(document.len()) };
    filter.value(true, 0)?;
    filter.space();
    if filter.at < document.len() {
        return damaged();
    }
    Ok(filter.output)
}

fn damaged<T>() -> Result<T> {
    refused("the network's program is not JSON that can be copied")
}

struct Filter<'a> {
    document: &'a [u8],
    at: usize,
    rules: &'a Rules<'a>,
    output: Vec<u8>,
}

impl<'a> Filter<'a> {
    fn space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.document.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        self.space();
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn value(&mut self, keeps: bool, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return damaged();
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.members(keeps, depth),
            Some(b'[') => self.elements(keeps, depth),
            Some(b'"') => self.text().map(|text| self.write(keeps, text)),
            Some(_) => {
                let start = self.at;
                let ends = |byte: &u8| byte.is_ascii_whitespace() || b",]}".contains(byte);
                let length = self.document[start..].iter().position(ends).unwrap_or(self.document.len() - start);
                if length == 0 {
                    return damaged();
                }
                self.at += length;
                self.write(keeps, &self.document[start..start + length]);
                Ok(())
            }
            None => damaged(),
        }
    }

    fn write(&mut self, keeps: bool, bytes: &[u8]) {
        if keeps {
            self.output.extend_from_slice(bytes);
        }
    }

    /// A text with its quotes.
    fn text(&mut self) -> Result<&'a [u8]> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                b'"' => return self.document.get(start..self.at).map_or_else(damaged, Ok),
                _ => {}
            }
        }
        damaged()
    }

    fn members(&mut self, keeps: bool, depth: usize) -> Result<()> {
        self.at += 1;
        self.write(keeps, b"{");
        let mut is_first = true;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.write(keeps, b"}");
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return damaged();
            }
            let key = self.text()?;
            let name: String = match serde_json::from_slice(key) {
                Ok(name) => name,
                Err(_) => return damaged(),
            };
            let keeps_member = keeps && !self.rules.dropped.contains(&name.as_str());
            if !is_first {
                self.write(keeps_member, b",");
            }
            is_first &= !keeps_member;
            self.write(keeps_member, key);
            self.write(keeps_member, b":");
            if self.next() != Some(b':') {
                return damaged();
            }
            let start = self.at;
            self.value(keeps_member, depth + 1)?;
            if keeps_member && name == self.rules.checked.0 {
                self.check(start)?;
            }
            match self.next() {
                Some(b',') => {}
                Some(b'}') => {
                    self.write(keeps, b"}");
                    return Ok(());
                }
                _ => return damaged(),
            }
        }
    }

    /// Checks the value that has just been copied.
    fn check(&self, start: usize) -> Result<()> {
        let (name, is_harmless) = self.rules.checked;
        match serde_json::from_slice::<String>(&self.document[start..self.at]) {
            Ok(text) if is_harmless(&text) => Ok(()),
            _ => refused(format!(
                "the network has a member {name} that is not passed on, because loading it could run code"
            )),
        }
    }

    fn elements(&mut self, keeps: bool, depth: usize) -> Result<()> {
        self.at += 1;
        self.write(keeps, b"[");
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.write(keeps, b"]");
            return Ok(());
        }
        loop {
            self.value(keeps, depth + 1)?;
            match self.next() {
                Some(b',') => self.write(keeps, b","),
                Some(b']') => {
                    self.write(keeps, b"]");
                    return Ok(());
                }
                _ => return damaged(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules<'_> = Rules { dropped: &["secret", "trace"], checked: ("size", |text| text == "B") };

    fn copied(text: &str) -> String {
        String::from_utf8(filtered(text.as_bytes(), &RULES).unwrap()).unwrap()
    }

    #[test]
    fn members_are_dropped_wherever_they_are_and_the_rest_keeps_its_bytes() {
        for (text, expected) in [
            (r#"{"secret": 1}"#, "{}"),
            (r#"{"secret": 1, "a": 1.10e-05, "trace": [{"b": "}"}]}"#, r#"{"a":1.10e-05}"#),
            (r#"{"a": 1, "secret": {"a": [1, 2]}, "b": 2}"#, r#"{"a":1,"b":2}"#),
            (r#" [ {"a": {"trace": "x"}} , 1 , "secret", null ] "#, r#"[{"a":{}},1,"secret",null]"#),
            (r#"{"sec\u0072et": 1, "\"": "\\", "é": "\"trace\""}"#, r#"{"\"":"\\","é":"\"trace\""}"#),
            (r#"{"size": "B", "secret": {"size": "C"}}"#, r#"{"size":"B"}"#),
            ("[]", "[]"),
            ("-0.0", "-0.0"),
        ] {
            assert_eq!(copied(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let deep = "[".repeat(1_000_000);
        for text in [
            "",
            "{",
            "[1",
            "{\"a\"}",
            "{\"a\":}",
            "[,]",
            "\"",
            "\"\\",
            "{1: 2}",
            "[1] 2",
            "[1 2]",
            "{\"size\": \"C\"}",
            "{\"size\": 1}",
            &deep,
        ] {
            assert!(filtered(text.as_bytes(), &RULES).is_err(), "{text:.20}");
        }
    }
}
