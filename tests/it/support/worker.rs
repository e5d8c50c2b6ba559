//! A worker with a scripted trainer, for what the real trainer does not do on demand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use distillery::artifacts::Store;
use distillery::dataset_cache::DatasetCache;
use distillery::db;
use distillery::storage_check::{self, Opener};
use distillery::worker::{self, WorkerSettings};
use rustix::fs::{CWD, FileType, Mode};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::PATIENCE;
use super::db::TestDb;
use super::process::{Process, distillery, write_script};

/// The start of every scripted trainer. Its arguments are `train SPEC --output OUT --events --supervised --device D`,
/// or `probe --device D`, which notes the devices in `$here/probes` and answers unless the file `$here/broken` is
/// there.
const PRELUDE: &str = r#"#!/bin/bash
if [ "$1" = probe ]; then
    echo "$3" >> "$(dirname "$0")/probes"
    [ ! -e "$(dirname "$0")/broken" ] && echo "distillery-trainer computes on $3" && exit
    echo "error: CUDA finds no GPU" >&2; exit 1
fi
spec=$2 out=$4 here=$(dirname "$0")
say() { printf '%s\n' "$1"; }
started() {
    say '{"type":"started","device":"cpu","precision":"float32","threads":1,"train_images":9,"eval_images":9,
        "classes":4,"steps_per_epoch":10,"epochs":5,"resumed_epochs":'$1',"resumed_step":'$2'}' | tr -d '\n'; echo
}
point() {
    line='{"name":"train/loss","step":'$1',"epoch":0.5,"time":"2026-01-01T00:00:00Z","value":1}'
    say "$line" >> "$out/metrics.ndjson"
    say '{"type":"metrics","points":['"$line"']}'
}
checkpoint() {
    say "state $1" > "$out/state/checkpoint.safetensors"
    say '{"type":"checkpoint","epoch":'$1',"step":'$(($1 * 10))'}'
}
stopped() { say '{"type":"stopped","epoch":1,"step":10}'; exit 3; }
finish() {
    for name in student.safetensors student-last.safetensors manifest.json; do say "$name" > "$out/$name"; done
    touch "$out/metrics.ndjson"
    say '{"type":"finished","best_top1":70.5,"best_epoch":2,"last_top1":70,"student":
        {"parameters":1,"size_bytes":20,"sha256":"00"}}' | tr -d '\n'; echo
}
"#;

/// A trainer that trains until it is told to stop.
pub const OBEDIENT: &str = r#"
started 0 0; point 1
read -r command
case $command in *pause*) checkpoint 1 ;; esac
stopped
"#;

/// A trainer that waits after its second checkpoint until it is told to stop, and finishes when it is resumed from
/// there with the points before it.
pub const RESUMABLE: &str = r#"
if [ "$(cat "$out/state/checkpoint.safetensors" 2>/dev/null)" = "state 2" ]; then
    [ "$(wc -l < "$out/metrics.ndjson")" -ge 2 ] || exit 1
    started 2 20; point 21; finish; exit
fi
echo $$ > "$here/pid"
started 0 0; point 1; checkpoint 1; point 11; checkpoint 2; point 21
read -r command
stopped
"#;

/// What a worker needs: a database, directories and a trainer.
pub struct Surroundings {
    pub db: TestDb,
    pub dir: tempfile::TempDir,
    pub settings: WorkerSettings,
}

impl Surroundings {
    /// With a database in this run's cluster.
    pub async fn new(trainer: &str) -> Self {
        let it = Self::on(TestDb::new().await, trainer);
        it.use_storage().await;
        it
    }

    /// Decides on the storage, as the first server does.
    pub async fn use_storage(&self) {
        let address = self.dir.path().join("data/artifacts");
        storage_check::open(address.to_str().unwrap(), &self.db.pool, Opener::Server).await.unwrap();
    }

    pub fn on(db: TestDb, trainer: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("datasets/patterns")).unwrap();
        let script = dir.path().join("trainer");
        write_script(&script, &format!("{PRELUDE}{trainer}"));
        // Longer than any test: whatever happens is due to a notification.
        let never = Duration::from_secs(3600);
        let settings = WorkerSettings {
            name: "test/cpu".into(),
            devices: vec!["cpu".into()],
            trainer: script,
            datasets_dir: dir.path().join("datasets"),
            follow_links: false,
            dataset_cache: DatasetCache::new(dir.path().join("data/dataset-cache"), 1 << 30),
            work_dir: dir.path().join("data/work"),
            cache_dir: dir.path().join("data/cache"),
            cache_mib: 1024,
            lease: never,
            poll: never,
            stop_patience: Duration::from_secs(30),
            silence: never,
            stalled: None,
            recheck: Duration::from_millis(50),
        };
        Self { db, dir, settings }
    }

    /// Gives the next attempts another trainer.
    pub fn set_trainer(&self, trainer: &str) {
        write_script(&self.settings.trainer, &format!("{PRELUDE}{trainer}"));
    }

    pub fn store(&self) -> Store {
        Store::open(self.dir.path().join("data/artifacts").to_str().unwrap()).unwrap()
    }

    /// Starts a worker in this process, with a runtime of its own as it would have in another.
    pub fn start(&self) -> Worker {
        let drain = CancellationToken::new();
        let (url, store, settings, told) = (self.db.url.clone(), self.store(), self.settings.clone(), drain.clone());
        let (tell_end, end) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let outcome = runtime.block_on(async {
                let pool = db::connect(&url).await?;
                worker::run(pool, store, settings, told).await
            });
            let _ = tell_end.send(outcome);
        });
        Worker { drain: drain.drop_guard(), end }
    }

    /// Starts a worker as a process, with a lease of a second.
    pub fn start_process(&self) -> Process {
        Process::start(self.worker_command("cpu"))
    }

    pub fn worker_command(&self, device: &str) -> Command {
        let mut command = self.command("worker");
        command.args(["--device", device]).env("DATABASE_URL", &self.db.url).env("DISTILLERY_LEASE_SECONDS", "1");
        command
    }

    /// The real program with these directories and this trainer, for a database that the caller names.
    pub fn command(&self, name: &str) -> Command {
        let mut command = distillery();
        command
            .arg(name)
            .args(["--data-dir".as_ref(), self.dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), self.settings.datasets_dir.as_os_str()])
            .env("DISTILLERY_TRAINER", &self.settings.trainer);
        command
    }

    /// A file beside the trainer, which calls the directory `$here`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    /// Makes a pipe beside the trainer, by which test and trainer wait for each other.
    pub fn make_pipe(&self, name: &str) {
        rustix::fs::mknodat(CWD, self.file(name), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    }

    /// Waits until the trainer reads from a pipe.
    pub async fn let_go(&self, name: &str) {
        let path = self.file(name);
        within_patience(move || fs::write(path, "\n")).await;
    }

    /// Waits until the trainer has written to a pipe.
    pub async fn until_said(&self, name: &str) {
        let path = self.file(name);
        within_patience(move || fs::read(path).map(drop)).await;
    }
}

async fn within_patience(act: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    let ended = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(act)).await;
    ended.expect("the trainer is at the other end of the pipe").unwrap().unwrap();
}

/// A worker in this process; dropping it tells it to end.
pub struct Worker {
    drain: DropGuard,
    end: oneshot::Receiver<anyhow::Result<()>>,
}

impl Worker {
    /// Tells it to end, and waits until it has.
    pub async fn drain(self) {
        drop(self.drain);
        let ended = tokio::time::timeout(PATIENCE, self.end).await;
        ended.expect("the worker ends").unwrap().unwrap();
    }
}

/// Paths of all files below a directory.
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
