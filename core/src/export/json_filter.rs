//! Copies a JSON document without some of its members, and with the shapes of a new classifier. Everything else keeps
//! its bytes, numbers above all: reading and writing them again could change their last digit.

use serde_json::{Value, json};

use super::{Result, refused};
use crate::exported::Resized;

/// Deepest nesting that is copied.
const DEEPEST: usize = 128;

/// What is not copied as it is.
pub(super) struct Rules<'a> {
    /// Names of members that are left out, wherever they are.
    pub(super) dropped: &'a [&'a str],
    /// The name of members whose text must be harmless, and what is.
    pub(super) checked: (&'a str, fn(&str) -> bool),
    /// Values whose recorded shape has another size, each of which is recorded once.
    pub(super) resized: &'a [(String, Resized)],
}

/// The document as the rules have it.
pub(super) fn filtered(document: &[u8], rules: &Rules<'_>) -> Result<Vec<u8>> {
    let output = Vec::with_capacity(document.len());
    let mut filter = Filter { document, at: 0, rules, path: Vec::new(), resized: 0, output };
    filter.value(true, 0)?;
    filter.space();
    if filter.at < document.len() {
        return damaged();
    }
    if filter.resized != rules.resized.len() {
        return refused("the network's program records shapes in a way in which they cannot follow the new classifier");
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
    /// Names of the members around the one that is copied.
    path: Vec<String>,
    /// How many shapes have been changed.
    resized: usize,
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
            let (start, written) = (self.at, self.output.len());
            self.path.push(name);
            self.value(keeps_member, depth + 1)?;
            if keeps_member {
                self.resize(written)?;
            }
            let name = self.path.pop();
            if keeps_member && name.as_deref() == Some(self.rules.checked.0) {
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

    /// Writes another shape in place of one that has just been copied, if it is one of those that change.
    fn resize(&mut self, written: usize) -> Result<()> {
        let [.., values, value, member] = self.path.as_slice() else { return Ok(()) };
        let mut resized = self.rules.resized.iter().filter(|(name, _)| values == "tensor_values" && name == value);
        let Some((_, resized)) = resized.next() else { return Ok(()) };
        let Ok(mut sizes) = serde_json::from_slice::<Vec<Value>>(&self.output[written..]) else { return Ok(()) };
        let Resized { dimension, from, to } = *resized;
        match member.as_str() {
            "sizes" if dimension < sizes.len() => {
                sizes[dimension] = json!({"as_int": to});
                self.resized += 1;
            }
            "strides" if dimension < sizes.len() => stretch(&mut sizes, dimension, [from, to]),
            _ => return Ok(()),
        }
        self.output.truncate(written);
        self.output.extend(Value::from(sizes).to_string().bytes());
        Ok(())
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

/// Strides of a tensor of which one dimension has another size: those of the dimensions around it grow with it.
fn stretch(strides: &mut [Value], dimension: usize, [from, to]: [u64; 2]) {
    let number = |stride: &Value| stride["as_int"].as_u64();
    let Some(inner) = number(&strides[dimension]) else { return };
    for at in (0..strides.len()).filter(|&at| at != dimension) {
        let around = number(&strides[at]).filter(|&stride| stride >= inner.saturating_mul(from));
        if let Some(stride) = around.and_then(|stride| stride.checked_div(from)?.checked_mul(to)) {
            strides[at] = json!({"as_int": stride});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules<'_> =
        Rules { dropped: &["secret", "trace"], checked: ("size", |text| text == "B"), resized: &[] };

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
    fn shapes_follow_a_new_classifier() {
        let resized = [("logits".to_owned(), Resized { dimension: 1, from: 5, to: 7 })];
        let rules = Rules { resized: &resized, ..RULES };
        let value = |sizes: [u64; 4], strides: [u64; 4]| {
            let numbers = |numbers: [u64; 4]| numbers.map(|number| json!({"as_int": number})).to_vec();
            json!({"sizes": numbers(sizes), "strides": numbers(strides), "other": [{"as_int": 5}]})
        };
        for (strides, expected) in [([5, 1, 1, 1], [7, 1, 1, 1]), ([30, 1, 15, 5], [42, 1, 21, 7])] {
            let document = |logits: Value| json!({"tensor_values": {"logits": logits, "x": value([5; 4], [5; 4])}});
            let before = document(value([2, 5, 2, 3], strides)).to_string();
            let after: Value = serde_json::from_slice(&filtered(before.as_bytes(), &rules).unwrap()).unwrap();
            assert_eq!(after, document(value([2, 7, 2, 3], expected)));
        }
        // A value that is not where it should be, or is there twice.
        let twice = r#"{"a": {"tensor_values": {"logits": {"sizes": [1, 2]}}}, "tensor_values": {"logits": {"sizes": [1, 2]}}}"#;
        for text in ["{}", twice] {
            assert!(filtered(text.as_bytes(), &rules).is_err(), "{text}");
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
