//! Server-Sent Events: bytes to messages.

use serde_json::Value;

use super::error::Error;

/// Largest message, in bytes: a job with its specification has at most about a megabyte.
const LARGEST: usize = 16 << 20;

/// A message whose data is JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct SseMessage {
    pub name: String,
    /// Where a stream resumes.
    pub id: Option<String>,
    pub data: Value,
}

/// Reads messages from the pieces of a stream.
#[derive(Debug, Default)]
pub struct Parser {
    /// The line that is not complete yet.
    line: Vec<u8>,
    name: String,
    id: Option<String>,
    data: String,
}

impl Parser {
    /// Adds bytes of the stream, and returns the messages that they complete.
    ///
    /// # Errors
    /// A message is too large, or its data is not JSON.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<SseMessage>, Error> {
        let mut messages = Vec::new();
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > LARGEST {
                return Err(Error::unreachable("a message of the server's stream is too large"));
            }
            if self.line.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.line);
                messages.extend(self.end_line(&String::from_utf8_lossy(&line))?);
            }
        }
        Ok(messages)
    }

    fn end_line(&mut self, line: &str) -> Result<Option<SseMessage>, Error> {
        let line = line.trim_end_matches('\n').trim_end_matches('\r');
        if line.is_empty() {
            return self.end_message();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Other fields are ignored; a comment is a field without a name.
            _ => {}
        }
        Ok(None)
    }

    fn end_message(&mut self) -> Result<Option<SseMessage>, Error> {
        let (name, id, data) = (std::mem::take(&mut self.name), self.id.take(), std::mem::take(&mut self.data));
        if data.is_empty() {
            return Ok(None);
        }
        let data = serde_json::from_str(&data)
            .map_err(|error| Error::unreachable(format!("a message of the server's stream is not JSON: {error}")))?;
        Ok(Some(SseMessage { name, id, data }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_the_same_however_the_stream_is_cut() {
        let text = ": hello\n\nevent: status\nid: 3-4\ndata: {\"a\":\ndata: 1}\n\n\
            event:progress\r\ndata: [\"ä\"]\r\n\r\ndata: 7\n";
        let expected = [
            SseMessage { name: "status".into(), id: Some("3-4".into()), data: json!({"a": 1}) },
            SseMessage { name: "progress".into(), id: None, data: json!(["ä"]) },
        ];
        for length in 1..text.len() {
            let mut parser = Parser::default();
            let pieces = text.as_bytes().chunks(length);
            let messages: Vec<_> = pieces.flat_map(|piece| parser.push(piece).expect("messages")).collect();
            assert_eq!(messages, expected, "in pieces of {length} bytes");
        }
    }

    #[test]
    fn a_message_without_end_and_one_that_is_not_json_are_refused() {
        let mut parser = Parser::default();
        let piece = [b'a'; 1 << 20];
        assert!((0..17).any(|_| parser.push(&piece).is_err()));
        assert!(Parser::default().push(b"data: {\n\n").is_err());
    }
}
