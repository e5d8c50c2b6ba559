//! The metrics file, to which points are appended, one per line.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use chrono::Utc;

use crate::error::{Error, Result};
use distillery_core::protocol::Point;

/// An open metrics file.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file to continue after `step`. Removes later points of an earlier attempt, and a line that it left
    /// unfinished.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let earlier = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            earlier => earlier.map_err(Error::storage(path))?,
        };
        let is_kept = |line: &&str| serde_json::from_str::<Point>(line).is_ok_and(|point| point.step <= step);
        let kept: String = earlier.lines().filter(is_kept).filter(|_| step > 0).flat_map(|line| [line, "\n"]).collect();
        if kept != earlier {
            let temporary = path.with_extension("ndjson.part");
            std::fs::write(&temporary, kept).map_err(Error::storage(&temporary))?;
            std::fs::rename(&temporary, path).map_err(Error::storage(path))?;
        }
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(Error::storage(path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes values by series name as points, and returns the points.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, values: Vec<(String, f64)>, step: u64, epoch: f64) -> Result<Vec<Point>> {
        let time = Utc::now();
        let point = |(name, value)| Point { name, step, epoch, time, value };
        let points: Vec<_> = values.into_iter().map(point).collect();
        let mut lines = String::new();
        for point in &points {
            lines += &serde_json::to_string(point).expect("points are JSON");
            lines.push('\n');
        }
        self.file.write_all(lines.as_bytes()).map_err(Error::storage(&self.path))?;
        Ok(points)
    }
}
