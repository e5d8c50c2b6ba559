//! Tables of text: CSV (RFC 4180) and JSON lines.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Error, source};

/// A table of text.
#[derive(Debug)]
pub(super) struct Table {
    pub columns: Vec<String>,
    /// As many cells in each as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads `*.jsonl` as JSON lines, everything else as CSV.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let text = source::text(path)?;
        let is_json = path.extension().is_some_and(|extension| extension == "jsonl");
        let table = if is_json { Self::of_json_lines(&text) } else { Self::of_csv(&text) };
        table.map_err(|message| Error::invalid(path, message))
    }

    fn of_csv(text: &str) -> Result<Self, String> {
        let mut records = records(text)?.into_iter();
        let columns: Vec<String> = records.next().map(|(_, cells)| cells).unwrap_or_default();
        let columns: Vec<String> = columns.into_iter().map(|name| name.trim().to_owned()).collect();
        let mut rows = Vec::new();
        for (line, cells) in records {
            if cells.len() != columns.len() {
                let (found, wanted) = (cells.len(), columns.len());
                return Err(format!("has {found} cells in line {line}, where its first line has {wanted}: correct it"));
            }
            rows.push(cells);
        }
        Ok(Self { columns, rows })
    }

    fn of_json_lines(text: &str) -> Result<Self, String> {
        let mut columns: Vec<String> = Vec::new();
        let mut objects = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let object: BTreeMap<String, Value> = serde_json::from_str(line)
                .map_err(|error| format!("has no JSON object in line {}: {error}", number + 1))?;
            for name in object.keys() {
                if !columns.contains(name) {
                    columns.push(name.clone());
                }
            }
            objects.push(object);
        }
        let cell = |object: &BTreeMap<String, Value>, name: &String| match object.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let rows = objects.iter().map(|object| columns.iter().map(|name| cell(object, name)).collect()).collect();
        Ok(Self { columns, rows })
    }
}

/// The records of a CSV file with the lines where they begin. Empty lines are skipped.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let mut records = Vec::new();
    let (mut cells, mut cell) = (Vec::new(), String::new());
    let (mut line, mut start) = (1, 1);
    let (mut is_quoted, mut was_quoted) = (false, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        line += usize::from(character == '\n');
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if cell.is_empty() && !was_quoted => (is_quoted, was_quoted) = (true, true),
            _ if is_quoted => cell.push(character),
            ',' => {
                cells.push(std::mem::take(&mut cell));
                was_quoted = false;
            }
            '\r' if characters.peek() == Some(&'\n') => {}
            '\n' => {
                if !cells.is_empty() || !cell.is_empty() || was_quoted {
                    cells.push(std::mem::take(&mut cell));
                    records.push((start, std::mem::take(&mut cells)));
                }
                (start, was_quoted) = (line, false);
            }
            _ => cell.push(character),
        }
    }
    if is_quoted {
        return Err(format!("has a quotation mark in the record of line {start} that is never closed"));
    }
    if !cells.is_empty() || !cell.is_empty() || was_quoted {
        cells.push(cell);
        records.push((start, cells));
    }
    Ok(records)
}
