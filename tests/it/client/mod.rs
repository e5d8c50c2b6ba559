//! Promise: from a shell one can post, watch and control jobs and download their files, and a script can tell by the
//! exit code how that ended. The tests run the real program.

mod access;
mod connection;
mod downloads;
mod following;
mod jobs;
mod proxy;
mod sweeps;
mod uploads;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::process::distillery;

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Its standard output, if it exited with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:#?}");
        self.stdout
    }

    /// Its standard error, if it exited with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:#?}");
        self.stderr
    }

    /// Its standard output as JSON, if it succeeded.
    #[track_caller]
    pub fn json(self) -> Value {
        let stdout = self.expect(0);
        serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("JSON, not {stdout}"))
    }
}

/// A command of a user whose home is the directory `dir`, in which it also runs.
pub fn command(url: &str, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = distillery();
    let others = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("DISTILLERY_"));
    for name in others.chain(["XDG_CONFIG_HOME".to_owned(), "BROWSER".to_owned()]) {
        command.env_remove(name);
    }
    command.args(arguments).env("DISTILLERY_URL", url).env("HOME", dir).current_dir(dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub async fn finish(mut command: Command) -> Ran {
    // Not blocking, because this thread may serve the API.
    let output = tokio::task::spawn_blocking(move || command.output().expect("the program starts"));
    let output = output.await.expect("the thread ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let code = output.status.code().expect("no signal ended the program");
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub async fn run(url: &str, dir: &Path, arguments: &[&str]) -> Ran {
    finish(command(url, dir, arguments)).await
}
