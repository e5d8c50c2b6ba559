//! libtorch's CUDA half on a stand-in for a GPU (`trainer/tests/cuda_stub`): kernels do nothing, so no number is right,
//! but everything that the host does happens. Waiting and copying break a recording as they do on a GPU, and errors are
//! injected.
//!
//! The stand-in is preloaded, so each test runs in a process of its own: the tests of `inside` do nothing elsewhere.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use distillery_core::protocol::{ErrorClass, Event};
use tempfile::TempDir;

use crate::support::process::run_again;
use crate::support::{Workspace, text};

/// Tells a process that the stand-in is preloaded.
const INSIDE: &str = "DISTILLERY_TEST_CUDA_STUB";

/// The built stand-in.
struct Stub {
    _directory: TempDir,
    preload: String,
}

impl Stub {
    /// `None`, with a message, where CUDA's headers or libtorch's CUDA half are missing.
    fn build(test: &str) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let torch = std::env::var_os("LIBTORCH").map_or_else(|| root.join(".deps/libtorch/torch"), PathBuf::from);
        let headers = root.join(".deps/cuda_headers/nvidia/cu13/include");
        if !torch.join("lib/libtorch_cuda.so").exists() || !headers.join("driver_types.h").exists() {
            // To standard error itself, since what a test prints is not shown when it passes.
            let mut errors = std::io::stderr();
            writeln!(errors, "not run: {test}: run scripts/setup cuda_headers, with a libtorch for GPUs").unwrap();
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_stub/build");
        let built = Command::new(build).args([&torch, &headers]).arg(directory.path()).output().unwrap();
        assert!(built.status.success(), "{}", text(&built.stderr));
        Some(Self { _directory: directory, preload: text(&built.stdout).trim().to_owned() })
    }

    /// The environment of a process with so many GPUs, in which functions return errors.
    fn variables<'a>(&'a self, devices: &'a str, errors: &'a str) -> [(&'a str, &'a str); 4] {
        [
            ("LD_PRELOAD", self.preload.as_str()),
            (INSIDE, "1"),
            ("CUDA_STUB_DEVICES", devices),
            ("CUDA_STUB_ERRORS", errors),
        ]
    }
}

#[test]
fn nothing_in_a_recorded_step_waits_for_a_gpu_or_copies_between_host_and_gpu() {
    let Some(stub) = Stub::build("recording steps on a stand-in for a GPU") else { return };
    let tests =
        ["cuda_stub::inside::every_step_can_be_recorded", "cuda_stub::inside::reading_a_number_breaks_a_recording"];
    for test in tests {
        run_again(&[test], &stub.variables("1", ""));
    }
}

#[test]
fn a_recording_that_fails_at_its_end_leaves_steps_that_are_issued_one_by_one() {
    let Some(stub) = Stub::build("a recording that fails at its end") else { return };
    let test = "cuda_stub::inside::steps_go_on_after_a_recording_that_failed";
    for errors in ["cudaStreamEndCapture=901", "cudaStreamBeginCapture=900", "cudaGraphInstantiateWithFlags=2"] {
        run_again(&[test], &stub.variables("1", errors));
    }
}

#[test]
fn devices_are_those_that_the_driver_shows() {
    let Some(stub) = Stub::build("choosing among GPUs") else { return };
    run_again(&["cuda_stub::inside::two_gpus_can_be_opened_and_no_third"], &stub.variables("2", ""));
}

#[test]
fn errors_of_a_gpu_are_classified() {
    let Some(stub) = Stub::build("classes of a GPU's errors") else { return };
    let cases = [
        // No device, a driver that is too old, memory, a double bit error, an illegal access.
        ("cudaGetDeviceCount=100", ErrorClass::Machine),
        ("cudaGetDeviceCount=35", ErrorClass::Machine),
        ("cudaMalloc=2", ErrorClass::Oom),
        ("cublasCreate_v2=3", ErrorClass::Oom),
        ("launch=214", ErrorClass::Machine),
        ("launch=214@100", ErrorClass::Machine),
        ("launch=700@100", ErrorClass::Internal),
    ];
    let workspace = Workspace::new();
    for (index, (errors, class)) in cases.into_iter().enumerate() {
        let mut command = workspace.command_on("cuda", &workspace.plain(), &format!("run-{index}"));
        let run = command.arg("--events").envs(stub.variables("1", errors)).output().unwrap();
        let (said, stderr) = (text(&run.stdout), text(&run.stderr));
        assert_eq!(run.status.code(), Some(1), "{errors}: {said}{stderr}");
        let last = said.lines().last().unwrap_or_else(|| panic!("{errors}: no event: {stderr}"));
        let Event::Failed(failure) = serde_json::from_str(last).unwrap() else { panic!("{errors}: {last}") };
        assert_eq!(failure.class, class, "{errors}: {}", failure.message);
    }
}

/// What runs with the stand-in.
mod inside {
    use distillery_trainer::device;
    use distillery_trainer::device::cuda::Plugin;
    use distillery_trainer::run::cuda_graphs::{Mode, StepExecutor};
    use serde_json::{Value, json};
    use tch::{Device, Kind, Tensor};

    use super::INSIDE;
    use crate::support::training::{Training, specification};

    fn is_inside() -> bool {
        std::env::var_os(INSIDE).is_some()
    }

    fn graphs() -> (Device, Mode) {
        let device = device::open("cuda").unwrap();
        let plugin = Plugin::load().unwrap();
        plugin.begin(0).unwrap();
        (device, Mode::Graphs(plugin))
    }

    /// Training after enough steps that whole batches were recorded and replayed.
    fn trained(changes: Value, kind: Kind) -> Training {
        let (device, mode) = graphs();
        let mut training = Training::new(&specification(changes), device, kind, StepExecutor::in_mode(mode));
        (0..9).for_each(|_| drop(training.step(None)));
        training
    }

    #[test]
    fn every_step_can_be_recorded() {
        if !is_inside() {
            return;
        }
        let clipped =
            json!({"training": {"optimizer": {"type": "adamw", "learning_rate": 0.001}, "clip_grad_norm": 0.5}});
        let of_all = json!({"distillation": {"method": "sdd_dist", "weights": {"clustering": 2}}});
        for changes in [
            json!({}),
            json!({"student": {"architecture": "shufflenet_v1"}}),
            json!({"distillation": {"method": "sdd_dkd"}}),
            json!({"distillation": {"method": "sdd_nkd"}}),
            of_all,
            clipped,
        ] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let events = trained(changes.clone(), kind).executor.events();
                assert!(events.is_empty(), "{changes} in {kind:?}: {events:?}");
            }
        }
    }

    #[test]
    fn reading_a_number_breaks_a_recording() {
        if !is_inside() {
            return;
        }
        let (device, mode) = graphs();
        let Mode::Graphs(plugin) = mode else { unreachable!("it was made above") };
        let number = Tensor::zeros([1], (Kind::Float, device));
        let error = plugin.record(&mut || assert!(number.double_value(&[0]).is_finite())).unwrap_err();
        assert!(error.contains("capturing"), "{error}");
        // The next recording is a new one.
        assert!(plugin.record(&mut || drop(&number + 1.0)).is_ok());
        let host = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        assert!(plugin.record(&mut || drop(host.to_device(device))).is_err());
    }

    #[test]
    fn steps_go_on_after_a_recording_that_failed() {
        if !is_inside() {
            return;
        }
        let events = trained(json!({}), Kind::Float).executor.events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(format!("{events:?}").contains("cannot be recorded as a CUDA graph"), "{events:?}");
    }

    #[test]
    fn two_gpus_can_be_opened_and_no_third() {
        if !is_inside() {
            return;
        }
        assert_eq!(device::several("auto", 2).unwrap(), ["cuda:0", "cuda:1"]);
        for index in 0..2 {
            assert_eq!(device::open(&format!("cuda:{index}")).unwrap(), Device::Cuda(index));
        }
        let error = device::open("cuda:2").unwrap_err();
        assert!(error.message.contains("the machine has 2 GPUs"), "{error}");
        assert!(device::several("cuda", 3).is_err());
        assert_eq!(device::open("cpu").unwrap(), Device::Cpu);
    }
}
