//! A temporary directory with a data set that a small network learns in two epochs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use distillery_core::protocol::{Event, Failure, Level, Outcome, Started};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::trainer_on;
use super::{merge, text};

/// A directory with a data set of four classes in `data`: each class has another bright quarter.
pub struct Workspace {
    pub directory: TempDir,
}

impl Workspace {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("data")).unwrap();
        write_split(&directory.path().join("data"), "train", 150);
        write_split(&directory.path().join("data"), "t10k", 50);
        Self { directory }
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Plain training of a resnet8.
    pub fn plain(&self) -> Value {
        json!({
            "student": {"architecture": "resnet8"},
            "dataset": {"path": self.path("data"), "image_size": 8},
            "distillation": {"method": "none"},
            "training": {"epochs": 2, "batch_size": 16, "augmentation": "none", "seed": 3},
        })
    }

    /// Distillation from the teacher in `teacher`.
    pub fn distilled(&self, method: &str) -> Value {
        let teacher = json!({"architecture": "resnet8", "checkpoint": self.path("teacher/student.safetensors")});
        let mut spec = self.plain();
        merge(&mut spec, json!({"teacher": teacher, "distillation": {"method": method}}));
        spec
    }

    /// Adds a trained teacher in `teacher`. It is trained once for all tests.
    pub fn with_teacher(self) -> Self {
        static FILES: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
        let files = FILES.get_or_init(|| {
            let workspace = Self::new();
            let output = workspace.train(&workspace.plain(), "teacher", &[]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            let files = ["student.safetensors", "manifest.json"].map(|name| PathBuf::from("teacher").join(name));
            files.into_iter().map(|file| (file.clone(), workspace.bytes(file))).collect()
        });
        std::fs::create_dir(self.path("teacher")).unwrap();
        for (name, content) in files {
            std::fs::write(self.path(name), content).unwrap();
        }
        self
    }

    /// The command that trains `spec` into `output`.
    pub fn command(&self, spec: &Value, output: &str) -> Command {
        self.command_on("cpu", spec, output)
    }

    /// The same command on another device.
    pub fn command_on(&self, device: &str, spec: &Value, output: &str) -> Command {
        let file = self.path(format!("{output}.json"));
        std::fs::write(&file, spec.to_string()).unwrap();
        let mut command = trainer_on(device, "train");
        command.arg(file).arg("--output").arg(self.path(output));
        command
    }

    /// Runs the command to its end.
    pub fn train(&self, spec: &Value, output: &str, flags: &[&str]) -> Output {
        self.command(spec, output).args(flags).output().unwrap()
    }

    /// Runs the command to its end and returns its events.
    pub fn events(&self, spec: &Value, output: &str, flags: &[&str]) -> Vec<Event> {
        let run = self.train(spec, output, &[&["--events"], flags].concat());
        text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The same, and asserts that it trained the student.
    pub fn finish(&self, spec: &Value, output: &str, flags: &[&str]) -> Vec<Event> {
        let events = self.events(spec, output, flags);
        outcome(&events);
        events
    }

    /// Runs the command and returns its failure.
    pub fn fail(&self, spec: &Value, output: &str, flags: &[&str]) -> Failure {
        let run = self.train(spec, output, &[&["--events"], flags].concat());
        assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
        let last = text(&run.stdout).lines().last().map(str::to_owned).expect("an event");
        let Event::Failed(failure) = serde_json::from_str(&last).unwrap() else { panic!("{last}") };
        failure
    }

    pub fn bytes(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap()
    }
}

/// The event that a run starts with.
pub fn started(events: &[Event]) -> &Started {
    let started =
        events.iter().find_map(|event| if let Event::Started(started) = event { Some(started) } else { None });
    started.unwrap_or_else(|| panic!("{events:?}"))
}

/// The outcome that a successful run ends with.
pub fn outcome(events: &[Event]) -> &Outcome {
    let Some(Event::Finished(outcome)) = events.last() else { panic!("{:?}", events.last()) };
    outcome
}

/// The warnings of a run.
pub fn warnings(events: &[Event]) -> Vec<&str> {
    let warning = |event| match event {
        &Event::Log { level: Level::Warning, ref message } => Some(message.as_str()),
        _ => None,
    };
    events.iter().filter_map(warning).collect()
}

/// Writes an IDX split of 8×8 images.
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
