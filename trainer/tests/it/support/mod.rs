//! The harness: a tiny data set, and the trainer's program run on it.

pub mod bounded;
pub mod torch;
pub mod training;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use distillery::protocol::Event;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a data set of four classes in `data`: a bright quarter says which.
pub struct Place {
    pub directory: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("data")).unwrap();
        write_split(&directory.path().join("data"), "train", 150);
        write_split(&directory.path().join("data"), "t10k", 50);
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Plain training of a resnet8, to be changed with [`merge`].
    pub fn plain(&self) -> Value {
        json!({
            "student": {"architecture": "resnet8"},
            "dataset": {"path": self.path("data"), "image_size": 8},
            "distillation": {"method": "none"},
            "training": {"epochs": 2, "batch_size": 16, "augmentation": "none", "seed": 3},
        })
    }

    /// The same with a teacher, which `teacher` holds.
    pub fn distilled(&self, method: &str) -> Value {
        let teacher = json!({"architecture": "resnet8", "checkpoint": self.path("teacher/student.safetensors")});
        let mut spec = self.plain();
        merge(&mut spec, json!({"teacher": teacher, "distillation": {"method": method}}));
        spec
    }

    /// Trains a teacher in `teacher`.
    pub fn with_teacher(self) -> Self {
        let output = self.train(&self.plain(), "teacher", &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        self
    }

    /// The command that trains by `spec` into `output`.
    pub fn command(&self, spec: &Value, output: &str) -> Command {
        self.command_on("cpu", spec, output)
    }

    /// The same on another device.
    pub fn command_on(&self, device: &str, spec: &Value, output: &str) -> Command {
        let file = self.path(&format!("{output}.json"));
        std::fs::write(&file, spec.to_string()).unwrap();
        let mut command = trainer_on(device, "train");
        command.arg(file).arg("--output").arg(self.path(output));
        command
    }

    /// Runs that command to its end.
    pub fn train(&self, spec: &Value, output: &str, flags: &[&str]) -> Output {
        self.command(spec, output).args(flags).output().unwrap()
    }

    /// Runs it and gives its events.
    pub fn events(&self, spec: &Value, output: &str) -> Vec<Event> {
        let output = self.train(spec, output, &["--events"]);
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs it, and gives the message and class of its failure.
    pub fn failure(&self, spec: &Value, output: &str) -> (String, String) {
        let run = self.train(spec, output, &["--events"]);
        assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
        let last = text(&run.stdout).lines().last().map(str::to_owned).expect("an event");
        let Event::Failed(failure) = serde_json::from_str(&last).unwrap() else { panic!("{last}") };
        (serde_json::to_value(failure.class).unwrap().as_str().unwrap().to_owned(), failure.message)
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap()
    }
}

/// The program, on one thread of the CPU.
pub fn trainer(subcommand: &str) -> Command {
    trainer_on("cpu", subcommand)
}

/// The program, with no more said than what to do.
pub fn program(subcommand: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distillery-trainer"));
    command.arg(subcommand);
    command
}

fn trainer_on(device: &str, subcommand: &str) -> Command {
    let mut command = program(subcommand);
    if subcommand != "convert" {
        command.args(["--device", device, "--threads", "1"]);
    }
    command
}

/// A program that is being supervised.
pub struct Supervised {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub events: Box<dyn Iterator<Item = Event>>,
}

impl Supervised {
    pub fn start(mut command: Command) -> Self {
        let command = command.args(["--events", "--supervised"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let events = Box::new(lines.map_while(Result::ok).map(|line| serde_json::from_str(&line).unwrap()));
        Self { stdin: child.stdin.take(), child, events }
    }

    /// Waits for an event of that kind.
    pub fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        self.events.by_ref().find(|event| wanted(event)).expect("the event comes")
    }

    pub fn tell(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{{\"command\": {command:?}}}").unwrap();
    }

    pub fn status(mut self) -> Option<i32> {
        self.events.by_ref().for_each(drop);
        self.child.wait().unwrap().code()
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Puts the members of `changes` into `value`, object by object.
pub fn merge(value: &mut Value, changes: Value) {
    match (value, changes) {
        (Value::Object(value), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(value.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, changes) => *value = changes,
    }
}

pub fn merged(mut value: Value, changes: Value) -> Value {
    merge(&mut value, changes);
    value
}

/// An IDX split of 8×8 pictures.
fn write_split(directory: &Path, name: &str, count: u32) {
    let mut images = vec![0, 0, 8, 3];
    images.extend([count, 8, 8].iter().flat_map(|size| size.to_be_bytes()));
    let mut labels = vec![0, 0, 8, 1];
    labels.extend(count.to_be_bytes());
    let mut noise = 1_u32;
    for index in 0..count {
        let class = index % 4;
        labels.push(class as u8);
        for pixel in 0..64 {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bright = (pixel / 32, pixel % 8 / 4) == (class / 2, class % 2);
            images.push((noise >> 24) as u8 / 2 + if bright { 120 } else { 0 });
        }
    }
    std::fs::write(directory.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
    std::fs::write(directory.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
}

/// Runs tests of this binary, given by their full names, in a new process with these environment variables.
pub fn run_again(tests: &[&str], variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let run = command.arg("--exact").args(tests).envs(variables.iter().copied()).output().unwrap();
    let said = text(&run.stdout);
    let all_passed = run.status.success() && said.contains(&format!("{} passed", tests.len()));
    assert!(all_passed, "with {variables:?}:\n{said}{}", text(&run.stderr));
}

/// Environments that hide instruction sets of this processor from libtorch's libraries, as stand-ins for other
/// machines.
pub const LESSER_PROCESSORS: [&[(&str, &str)]; 2] = [
    &[("ATEN_CPU_CAPABILITY", "avx2"), ("ONEDNN_MAX_CPU_ISA", "AVX2")],
    &[("ATEN_CPU_CAPABILITY", "default"), ("ONEDNN_MAX_CPU_ISA", "SSE41"), ("MKL_CBWR", "COMPATIBLE")],
];
