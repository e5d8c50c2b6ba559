//! What `benches/bundle/run.sh` does around the programs of a bundle, with stand-ins for these.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::text;

/// A bundle of programs that only say how they were called, beside a libtorch of some version.
struct Bundle {
    directory: TempDir,
}

impl Bundle {
    fn new(torch: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Self { directory };
        fs::create_dir_all(bundle.path("torch/lib")).unwrap();
        fs::write(bundle.path("torch/version.py"), format!("__version__ = '{torch}'\n")).unwrap();
        fs::write(bundle.path("torch/lib/libtorch_cuda.so"), "").unwrap();
        for (name, content) in [("student", "resnet20"), ("teacher", "resnet56")] {
            fs::write(bundle.path(name), content).unwrap();
        }
        bundle.program("distillery-trainer", "if [ \"$1\" = doctor ]; then echo FAILED; exit 3; fi");
        bundle.program("step", "echo \"step $*\"");
        // With --nocapture and its patterns. The others match no test.
        let tests =
            "if [ \"$2\" = gpu:: ]; then echo 'test result: ok. 7 passed'; else echo 'test result: ok. 0 passed'; fi";
        bundle.program("trainer-tests", tests);
        let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/bundle/run.sh");
        fs::copy(run, bundle.path("run.sh")).unwrap();
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs it where Python has no PyTorch. The path of libtorch is relative to where it is run.
    fn run(&self) -> Output {
        let mut command = Command::new("bash");
        command.arg(self.path("run.sh")).arg("torch").current_dir(self.directory.path());
        command.env("PYTHON", "false").env_remove("DEVICE").env_remove("SECONDS_IN_ALL");
        command.output().unwrap()
    }
}

#[test]
fn every_part_runs_whatever_the_others_do_and_the_summary_says_how_it_ended() {
    let bundle = Bundle::new("2.11.0+cu130");
    let run = bundle.run();
    let said = text(&run.stdout);
    assert_eq!(run.status.code(), Some(1), "{said}{}", text(&run.stderr));
    let summary = fs::read_to_string(bundle.path("results/summary.txt")).unwrap();
    let outcomes: Vec<(&str, &str)> = summary.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let expected = [
        ("doctor", "FAILED with status 3"),
        ("gpu-tests", "ok"),
        ("recorded-and-eager", "ok"),
        ("steps-resnet32x4-resnet8x4", "FAILED"),
        ("steps-resnet56-resnet20", "FAILED"),
        ("steps-resnet32x4-shufflenet_v1", "FAILED"),
        ("steps-vgg13-vgg8", "FAILED"),
        // The stand-in trains nothing.
        ("epoch", ""),
        ("kill-and-resume", "FAILED"),
        ("accuracy", "FAILED"),
        ("compiled-resnet32x4-resnet8x4", "FAILED"),
    ];
    assert!(outcomes.len() > expected.len(), "{summary}");
    let (last, outcome) = outcomes.last().unwrap();
    assert!(*last == "other-tests" && outcome.starts_with("FAILED"), "no test was run: {summary}");
    for ((name, outcome), (part, expected)) in outcomes.into_iter().zip(expected) {
        assert!(name == part && outcome.starts_with(expected), "{part}: {summary}");
    }
    // A part's output is in a file of its own. What is to be compared with PyTorch is measured without it.
    let steps = fs::read_to_string(bundle.path("results/steps-vgg13-vgg8.log")).unwrap();
    assert!(steps.contains("has no PyTorch"), "{steps}");
    assert!(steps.contains("step --device cuda --pair vgg13 vgg8 --precision bfloat16"), "{steps}");
}

#[test]
fn a_libtorch_of_another_version_is_refused_before_anything_runs() {
    let bundle = Bundle::new("2.9.1+cu128");
    let run = bundle.run();
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("is libtorch 2.9.1+cu128; the bundle needs 2.11"), "{}", text(&run.stderr));
    assert!(!bundle.path("results").exists());
}
