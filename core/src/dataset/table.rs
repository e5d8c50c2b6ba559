//! Tables of text: CSV (RFC 4180) and JSON lines.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Error, source};
use crate::text::{self, quoted};

/// From here on, floating point does not have every integer.
const INEXACT: f64 = 9_007_199_254_740_992.0;

/// A table of text.
#[derive(Debug)]
pub(super) struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

#[derive(Debug)]
pub(super) struct Row {
    /// Where it begins in the file; the first is 1.
    pub line: usize,
    /// As many as there are columns.
    pub cells: Vec<Cell>,
}

#[derive(Debug)]
pub(super) enum Cell {
    /// A text, an integer as text, or nothing.
    Text(String),
    /// What else a JSON value is.
    Other(&'static str),
}

impl Cell {
    /// Its text, if it has one.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Other(_) => "",
        }
    }

    fn of(value: Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            Value::Number(number) => {
                let is_integer = number.as_f64().is_some_and(|value| value.fract() == 0.0 && value.abs() < INEXACT);
                if number.is_f64() && !is_integer {
                    return Self::Other("a number that is no integer");
                }
                Self::Text(number.to_string())
            }
            Value::Null => Self::Other("null"),
            Value::Bool(_) => Self::Other("true or false"),
            Value::Array(_) => Self::Other("an array"),
            Value::Object(_) => Self::Other("an object"),
        }
    }
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
            rows.push(Row { line, cells: cells.into_iter().map(Cell::Text).collect() });
        }
        Ok(Self { columns, rows })
    }

    fn of_json_lines(text: &str) -> Result<Self, String> {
        let mut columns: Vec<String> = Vec::new();
        let mut objects = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let object = object(line).map_err(|why| format!("cannot be used in line {}: {why}", number + 1))?;
            for name in object.keys() {
                if !columns.contains(name) {
                    columns.push(name.clone());
                }
            }
            objects.push((number + 1, object));
        }
        let row = |(line, mut object): (usize, Map<String, Value>)| {
            let cell = |name: &String| object.remove(name).map_or_else(|| Cell::Text(String::new()), Cell::of);
            Row { line, cells: columns.iter().map(cell).collect() }
        };
        let rows = objects.into_iter().map(row).collect();
        Ok(Self { columns, rows })
    }

    /// Whether the file has nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.columns.iter().all(String::is_empty)
    }

    /// The column of that name, or else the one that differs from it in case alone.
    ///
    /// # Errors
    /// There are several.
    pub(super) fn column(&self, wanted: &str) -> Result<Option<usize>, String> {
        let mut found = self.positions(|name| name == wanted);
        if found.is_empty() {
            found = self.positions(|name| name.eq_ignore_ascii_case(wanted));
        }
        match found.as_slice() {
            [] => Ok(None),
            &[only] => Ok(Some(only)),
            several => {
                let count = several.len();
                Err(format!(
                    "has {count} columns that are called {wanted}: remove or rename all but one",
                    wanted = quoted(wanted)
                ))
            }
        }
    }

    fn positions(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<usize> {
        let columns = self.columns.iter().enumerate();
        columns.filter(|(_, name)| is_wanted(name)).map(|(at, _)| at).collect()
    }
}

/// The JSON object of a line.
fn object(line: &str) -> Result<Map<String, Value>, String> {
    match text::json(line.as_bytes()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it is no JSON object, as in {\"file_name\": \"1.png\", \"label\": \"cat\"}".to_owned()),
        Err(error) => {
            // The error's own line is that of the text it was given, which has one.
            let (column, message) = (error.column(), error.to_string());
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
            Err(format!("{message} (column {column})"))
        }
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
