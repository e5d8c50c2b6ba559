//! Copies a JSON document without some of its members, with changes to some of its objects, and with the shapes of a
//! new classifier. Everything else keeps its bytes, numbers above all: reading and writing them again could change
//! their last digit.

use serde_json::{Value, json};

use super::{Result, refused};
use crate::exported::Resized;

/// Deepest nesting that is copied.
const DEEPEST: usize = 128;

type IsHarmless = fn(&str) -> bool;

/// What is not copied as it is.
pub(super) struct Rules<'a> {
    /// Names of members that are left out, wherever they are.
    pub(super) dropped: &'a [&'a str],
    /// The name of members whose text must be harmless, and what is.
    pub(super) checked: Option<(&'a str, IsHarmless)>,
    /// The name of a member, and what its text begins with: elements of arrays that have such a member are edited.
    pub(super) edited: (&'a str, &'a str),
    /// Values whose recorded shape has another size, each of which is recorded once.
    pub(super) resized: &'a [(String, Resized)],
}

/// What becomes of an element.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Kept,
    Replaced(Vec<u8>),
    LeftOut,
}

/// The document as the rules have it. `edit` is given elements as they were copied, without white space.
pub(super) fn filtered(
    document: &[u8],
    rules: &Rules<'_>,
    edit: &mut dyn FnMut(&[u8]) -> Result<Edit>,
) -> Result<Vec<u8>> {
    let output = Vec::with_capacity(document.len());
    let mut filter = JsonFilter { document, at: 0, rules, edit, path: Vec::new(), resized: 0, output };
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

struct JsonFilter<'a> {
    document: &'a [u8],
    at: usize,
    rules: &'a Rules<'a>,
    edit: &'a mut dyn FnMut(&[u8]) -> Result<Edit>,
    /// Names of the members around the one that is copied.
    path: Vec<String>,
    /// How many shapes have been changed.
    resized: usize,
    output: Vec<u8>,
}

impl<'a> JsonFilter<'a> {
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

    /// Copies a value. Returns whether it is to be edited if it is an element.
    fn value(&mut self, keeps: bool, depth: usize) -> Result<bool> {
        if depth > DEEPEST {
            return damaged();
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.members(keeps, depth),
            Some(b'[') => self.elements(keeps, depth).map(|()| false),
            Some(b'"') => {
                let text = self.text()?;
                self.write(keeps, text);
                Ok(false)
            }
            Some(_) => {
                let start = self.at;
                let ends = |byte: &u8| byte.is_ascii_whitespace() || b",]}".contains(byte);
                let length = self.document[start..].iter().position(ends).unwrap_or(self.document.len() - start);
                if length == 0 {
                    return damaged();
                }
                self.at += length;
                self.write(keeps, &self.document[start..start + length]);
                Ok(false)
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

    fn members(&mut self, keeps: bool, depth: usize) -> Result<bool> {
        self.at += 1;
        self.write(keeps, b"{");
        let (mut is_first, mut is_edited) = (true, false);
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.write(keeps, b"}");
            return Ok(false);
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
            let name = self.path.pop().unwrap_or_default();
            if keeps_member {
                self.check(&name, start)?;
                is_edited |= self.is_edited(&name, start);
            }
            match self.next() {
                Some(b',') => {}
                Some(b'}') => {
                    self.write(keeps, b"}");
                    return Ok(is_edited);
                }
                _ => return damaged(),
            }
        }
    }

    /// The text of the value that has just been copied.
    fn copied_text(&self, start: usize) -> Option<String> {
        serde_json::from_slice(&self.document[start..self.at]).ok()
    }

    /// Checks the member that has just been copied.
    fn check(&self, name: &str, start: usize) -> Result<()> {
        match self.rules.checked {
            Some((checked, is_harmless))
                if checked == name && !self.copied_text(start).is_some_and(|text| is_harmless(&text)) =>
            {
                refused(format!(
                    "the network has a member {name} that is not passed on, because loading it could run code"
                ))
            }
            _ => Ok(()),
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

    /// Whether the member that has just been copied is one of those whose objects are edited.
    fn is_edited(&self, name: &str, start: usize) -> bool {
        let (edited, beginning) = self.rules.edited;
        name == edited && self.copied_text(start).is_some_and(|text| text.starts_with(beginning))
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
        let mut is_first = true;
        loop {
            let before = self.output.len();
            self.write(keeps && !is_first, b",");
            let start = self.output.len();
            if self.value(keeps, depth + 1)? && keeps {
                match (self.edit)(&self.output[start..])? {
                    Edit::Kept => {}
                    Edit::Replaced(bytes) => self.output.splice(start.., bytes).for_each(drop),
                    Edit::LeftOut => self.output.truncate(before),
                }
            }
            is_first &= self.output.len() <= start;
            match self.next() {
                Some(b',') => {}
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

    const RULES: Rules<'_> = Rules {
        dropped: &["secret", "trace"],
        checked: Some(("size", |text| text == "B")),
        edited: ("target", "torch."),
        resized: &[],
    };

    fn edit(element: &[u8]) -> Result<Edit> {
        let element = std::str::from_utf8(element).unwrap();
        Ok(match element {
            _ if element.contains(".left_out") => Edit::LeftOut,
            _ if element.contains(".replaced") => Edit::Replaced(format!("<{element}>").into_bytes()),
            _ => Edit::Kept,
        })
    }

    fn copied(text: &str) -> String {
        String::from_utf8(filtered(text.as_bytes(), &RULES, &mut edit).unwrap()).unwrap()
    }

    #[test]
    fn elements_with_the_edited_member_are_replaced_and_left_out() {
        for (text, expected) in [
            (r#"[{"target": "torch.left_out"}]"#, "[]"),
            (r#"[1, {"a": 0.10, "target": "torch.left_out"}, 2]"#, "[1,2]"),
            (r#"[{"target": "torch.left_out"}, 1, {"target": "torch.left_out"}]"#, "[1]"),
            (r#"[{"target": "torch.left_out"}, {"target": "torch.kept"}]"#, r#"[{"target":"torch.kept"}]"#),
            (
                r#"[ {"target" : "t\u006frch.replaced" , "b": 1e-05, "secret": 1} ]"#,
                r#"[<{"target":"t\u006frch.replaced","b":1e-05}>]"#,
            ),
            (r#"{"a": {"target": "torch.left_out"}, "b": [1]}"#, r#"{"a":{"target":"torch.left_out"},"b":[1]}"#),
            (r#"[{"target": "other.left_out"}, {"target": 1}]"#, r#"[{"target":"other.left_out"},{"target":1}]"#),
            (r#"{"secret": [{"target": "torch.replaced"}]}"#, "{}"),
            (
                r#"[{"a": [{"target": "torch.replaced"}], "target": "torch.replaced"}]"#,
                r#"[<{"a":[<{"target":"torch.replaced"}>],"target":"torch.replaced"}>]"#,
            ),
        ] {
            assert_eq!(copied(text), expected, "{text}");
        }
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
            let after: Value =
                serde_json::from_slice(&filtered(before.as_bytes(), &rules, &mut edit).unwrap()).unwrap();
            assert_eq!(after, document(value([2, 7, 2, 3], expected)));
        }
        // A value that is not where it should be, or appears twice.
        let twice = r#"{"a": {"tensor_values": {"logits": {"sizes": [1, 2]}}}, "tensor_values": {"logits": {"sizes": [1, 2]}}}"#;
        for text in ["{}", twice] {
            assert!(filtered(text.as_bytes(), &rules, &mut edit).is_err(), "{text}");
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
            assert!(filtered(text.as_bytes(), &RULES, &mut edit).is_err(), "{text:.20}");
        }
    }
}
