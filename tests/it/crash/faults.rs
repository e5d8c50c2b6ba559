//! Faults of a worker's machine: a wrong clock and a full disk.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chrono::{DateTime, TimeDelta, Utc};

use crate::support::process::distillery;

/// A library that replaces the clock and the writes of the C library in the programs that load it.
#[derive(Debug)]
pub struct Faults {
    library: PathBuf,
    full: PathBuf,
}

impl Faults {
    /// Builds it in a directory.
    pub fn new(dir: &Path) -> Self {
        let (source, library) = (dir.join("faults.c"), dir.join("faults.so"));
        fs::write(&source, include_str!("faults.c")).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
        assert!(built.expect("there is a C compiler").success());
        Self { library, full: dir.join("disk-full") }
    }

    /// Gives a program a clock that is off by this many seconds, and the disk that can be filled.
    pub fn give<'a>(&self, program: &'a mut Command, seconds: i64) -> &'a mut Command {
        program.env("LD_PRELOAD", &self.library).env("FAULTY_CLOCK", seconds.to_string()).env("FAULTY_DISK", &self.full)
    }

    /// Makes writes to files fail until the result is dropped.
    pub fn fill_disk(&self) -> FullDisk {
        fs::write(&self.full, []).unwrap();
        FullDisk(self.full.clone())
    }
}

/// The disk is full until this is dropped.
#[derive(Debug)]
pub struct FullDisk(PathBuf);

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_program_has_the_wrong_clock() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = distillery();
    program
        .args(["serve", "--listen", "127.0.0.1:0", "--workers", "0"])
        .args(["--data-dir".as_ref(), dir.path().as_os_str()])
        .env("DATABASE_URL", "postgres://127.0.0.1:1/nowhere")
        .env("RUST_LOG", "warn")
        .stderr(Stdio::piped());
    let mut program = Faults::new(dir.path()).give(&mut program, -3600).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(program.stderr.take().unwrap()).read_line(&mut line).unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
    // Each line of the log begins with the time.
    let word = line.split_whitespace().next().unwrap_or_default();
    let time: DateTime<Utc> = word.parse().unwrap_or_else(|_| panic!("{line}"));
    let off = Utc::now() - time;
    assert!((TimeDelta::minutes(59)..TimeDelta::minutes(61)).contains(&off), "{off}");
}
