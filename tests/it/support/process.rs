//! Child processes: starting the real program, reading its lines, and waiting for ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use distillery::process::{self, Child};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::PATIENCE;

/// The real program, without the tester's own database. The kernel kills it when the test process ends in any way.
pub fn distillery() -> Command {
    let mut command = process::command("KILL", Path::new(env!("CARGO_BIN_EXE_distillery")));
    command.env_remove("DATABASE_URL").env("DISTILLERY_THREADS", "1").stdin(Stdio::null());
    command
}

/// A running program; dropping it sends SIGTERM and waits for its end.
pub struct Process(Child);

impl Process {
    pub fn start(command: Command) -> Self {
        Self(process::spawn(command).expect("the program starts"))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id.cast_signed()).expect("a process id is not 0")
    }

    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// Its standard output, which must be piped.
    pub fn stdout(&mut self) -> Lines {
        Lines::of(self.0.stdout.take().expect("standard output is piped"))
    }

    /// What it draws on a terminal, which is piped to its standard output.
    pub fn terminal(&mut self) -> Lines {
        Lines::drawn(self.0.stdout.take().expect("standard output is piped"))
    }

    /// Its standard error, which must be piped.
    pub fn stderr(&mut self) -> Lines {
        Lines::of(self.0.stderr.take().expect("standard error is piped"))
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.0.wait()).await.expect("the program ends")
    }

    /// Sends SIGTERM and waits for its end, which must be a success.
    pub async fn terminate(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "the program {}", process::describe(status));
    }

    /// Sends SIGKILL and waits for its end.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        futures::executor::block_on(self.0.wait());
    }
}

/// Lines of text from a pipe, read by a thread so that the pipe never fills.
pub struct Lines(mpsc::UnboundedReceiver<String>);

impl Lines {
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self(lines)
    }

    /// What is drawn on a terminal: a progress bar ends its lines with the width of the terminal, not with a character.
    /// So each line comes again as it grows.
    fn drawn(mut pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let (mut line, mut piece) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = pipe.read(&mut piece) {
                for part in piece[..read].split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
                    line.extend_from_slice(part);
                    let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                    if part.ends_with(b"\r") || part.ends_with(b"\n") {
                        line.clear();
                    }
                }
            }
        });
        Self(lines)
    }

    /// Waits for a line in which `find` finds something. None when the pipe ends before.
    pub async fn find<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let look = async {
            loop {
                let line = self.0.recv().await?;
                if let Some(found) = find(&line) {
                    return Some(found);
                }
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("the line comes")
    }

    /// Waits for a line with these words.
    pub async fn until(&mut self, words: &str) -> String {
        let found = self.find(|line| line.contains(words).then(|| line.to_owned())).await;
        found.unwrap_or_else(|| panic!("no line says {words:?}"))
    }

    /// Waits until each of these was in some line, in whatever order.
    pub async fn until_all(&mut self, words: &[&str]) {
        let mut missing = words.to_vec();
        while !missing.is_empty() {
            let line = self.find(|line| Some(line.to_owned())).await;
            let line = line.unwrap_or_else(|| panic!("no line says {missing:?}"));
            missing.retain(|words| !line.contains(words));
        }
    }

    /// Waits for the line in which a server says its address, and returns that.
    pub async fn address(&mut self) -> Option<String> {
        self.find(|line| Some(line[line.find("http://")?..].trim().to_owned())).await
    }
}

/// Waits for the end of any process; that its parent has waited for it is not needed.
pub async fn until_ended(pid: Pid) {
    // Without a handle it has ended.
    let Ok(handle) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { return };
    #[expect(deprecated, reason = "its replacement is unsafe, and what that asks for is true of an owned handle")]
    let handle = AsyncFd::with_interest(handle, Interest::READABLE).expect("a process can be waited for");
    let ended = tokio::time::timeout(PATIENCE, handle.readable()).await;
    ended.expect("the process ends").expect("a process can be waited for").retain_ready();
}

/// The processes that `parent` started.
pub fn children_of(parent: Pid) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<i32>>());
    pids.filter_map(Pid::from_raw).collect()
}

/// The process that `parent` started with this argument; there must be one only.
pub fn child_with_argument(parent: Pid, argument: &str) -> Pid {
    let command_line =
        |pid: &Pid| std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut children = children_of(parent);
    children.retain(|child| command_line(child).split('\0').any(|word| word == argument));
    assert_eq!(children.len(), 1, "{children:?} have the argument {argument}");
    children[0]
}

/// Writes a script that can be run at once. A process of its own writes it: a child that another test starts at that
/// moment would inherit our open file for a while, and the kernel runs no file that is open for writing.
pub fn write_script(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"cat > "$1" && chmod 755 "$1""#, "sh"]).arg(path).stdin(Stdio::piped());
    let mut shell = shell.spawn().expect("there is a shell");
    shell.stdin.take().expect("piped").write_all(text.as_bytes()).expect("the shell reads");
    assert!(shell.wait().expect("the shell ends").success());
}

/// Reads a process id from a file.
pub fn read_pid(path: &Path) -> Pid {
    let text = std::fs::read_to_string(path).expect("the process has noted its id");
    Pid::from_raw(text.trim().parse().expect("a number")).expect("a process id is not 0")
}
