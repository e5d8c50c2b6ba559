//! libtorch's CUDA half on a stand-in for a GPU (`trainer/tests/cuda_stub`): kernels do nothing, so no number is right,
//! but everything that the host does happens. Waiting and copying break a recording as they do on a GPU, and errors are
//! injected.
//!
//! The stand-in is preloaded, so each test runs in a process of its own: the tests of `inside` do nothing elsewhere.

mod own_kernels;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use distillery_core::protocol::{ErrorClass, Event};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::{program, run_again};
use crate::support::{Workspace, merged, started, text, warnings};

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
fn a_replay_that_fails_tells_cudas_reason() {
    let Some(stub) = Stub::build("a replay that fails") else { return };
    run_again(
        &["cuda_stub::inside::a_replay_tells_of_the_double_bit_error"],
        &stub.variables("1", "cudaGraphLaunch=214"),
    );
}

#[test]
fn a_convolution_that_cudnn_cannot_fuse_is_computed_in_parts() {
    let Some(stub) = Stub::build("a frozen teacher on a stand-in for a GPU") else { return };
    let test = "cuda_stub::inside::every_convolution_with_a_relu_is_tried_and_none_fused";
    // CUDNN_STATUS_NOT_SUPPORTED.
    run_again(&[test], &stub.variables("1", "fused=3000"));
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
        // No device, a driver that is too old, a service that does not run, a GPU that is busy.
        ("cudaGetDeviceCount=100", ErrorClass::Machine),
        ("cudaGetDeviceCount=35", ErrorClass::Machine),
        ("cudaGetDeviceCount=802", ErrorClass::Machine),
        ("cudaSetDevice=46", ErrorClass::Machine),
        // Memory of the device, and of the host.
        ("cudaMalloc=2", ErrorClass::Oom),
        ("cudaHostAlloc=2", ErrorClass::Oom),
        ("cublasCreate_v2=3", ErrorClass::Oom),
        ("cudnnCreate=4003", ErrorClass::Oom),
        ("cudnnCreate=1001", ErrorClass::Machine),
        // A GPU that libtorch has no kernels for, and double bit errors.
        ("launch=209", ErrorClass::Machine),
        ("launch=214", ErrorClass::Machine),
        ("launch=214@100", ErrorClass::Machine),
        // May be bugs: an illegal access, a launch that failed.
        ("launch=700@100", ErrorClass::Internal),
        ("launch=719@50", ErrorClass::Internal),
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

#[test]
fn ranks_join_through_nccl_and_step_on_a_gpu_each() {
    let Some(stub) = Stub::build("ranks on GPUs") else { return };
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"devices": 2}}));
    let mut command = workspace.command_on("cuda", &spec, "run");
    // Images are streamed, through pinned memory.
    command.args(["--events", "--data-memory-mib", "0"]).envs(stub.variables("2", ""));
    let run = command.output().unwrap();
    let (said, stderr) = (text(&run.stdout), text(&run.stderr));
    let events: Vec<Event> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(started(&events).device, "cuda:0,cuda:1", "{said}");
    assert!(warnings(&events).is_empty(), "{said}");
    assert!(said.contains("the first step was done"), "{said}{stderr}");
    // Nothing else is wrong with them than that no kernel computed the loss.
    let Some(Event::Failed(failure)) = events.last() else { panic!("{said}{stderr}") };
    assert_eq!(failure.class, ErrorClass::Numeric, "{}", failure.message);
    assert!(!stderr.contains("deprecated"), "{stderr}");
}

/// The findings of the doctor, by check, and whether it found nothing wrong.
fn diagnosis(stub: &Stub, devices: &str, errors: &str, driver: &str) -> (bool, Value) {
    let mut doctor = program("doctor");
    doctor.args(["--device", "cuda:0", "--json"]).envs(stub.variables(devices, errors)).env("CUDA_STUB_DRIVER", driver);
    let run = doctor.output().unwrap();
    let said: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
    (run.status.success(), said)
}

fn finding<'a>(said: &'a Value, check: &str) -> &'a Value {
    let findings = said["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check}: {said}"))
}

#[test]
fn the_doctor_describes_a_gpu_and_notices_that_it_computes_wrong_values() {
    let Some(stub) = Stub::build("the doctor on a stand-in for a GPU") else { return };
    let (is_healthy, said) = diagnosis(&stub, "1", "", "13000");
    for check in ["driver", "cuda", "cudnn", "plugin", "nccl", "cuda:0"] {
        assert_eq!(finding(&said, check)["state"], "fine", "{check}: {said}");
    }
    assert_eq!(finding(&said, "nccl")["detail"], "2.28.9");
    let gpu = &said["gpus"][0];
    assert_eq!((&gpu["name"], &gpu["capability"]), (&json!("stub"), &json!("9.0")), "{said}");
    assert_eq!(gpu["memory_total_bytes"], 8_u64 << 30);
    // By the driver's library where the kernel shows no module, as here and in some containers.
    if !Path::new("/sys/module/nvidia/version").exists() && !Path::new("/proc/driver/nvidia/version").exists() {
        assert_eq!(gpu["driver"], "580.0", "{said}");
    }
    // No kernel of the stand-in computes anything.
    assert_eq!(finding(&said, "cuda:0 arithmetic")["state"], "failed");
    assert!(!is_healthy);
}

#[test]
fn the_doctor_says_why_a_gpu_cannot_be_used() {
    let Some(stub) = Stub::build("the doctor's advice") else { return };
    let cases = [
        ("", "12040", "driver", "580"),
        ("cudaGetDeviceCount=802", "13000", "gpus", "nvidia-fabricmanager"),
        ("cudaGetDeviceCount=100", "13000", "gpus", "no CUDA-capable device is detected"),
        ("cudaSetDevice=46", "13000", "cuda:0", "busy or unavailable"),
        ("synchronize=214", "13000", "cuda:0 arithmetic", "uncorrectable ECC error"),
    ];
    for (errors, driver, check, advice) in cases {
        let (is_healthy, said) = diagnosis(&stub, "1", errors, driver);
        let found = finding(&said, check);
        assert_eq!(found["state"], "failed", "{errors}: {said}");
        assert!(found["detail"].as_str().unwrap().contains(advice), "{errors}: {said}");
        assert!(!is_healthy, "{errors}: {said}");
    }
}

/// What runs with the stand-in.
mod inside {
    use distillery_core::architecture;
    use distillery_core::protocol::ErrorClass;
    use distillery_trainer::device;
    use distillery_trainer::device::cuda::Plugin;
    use distillery_trainer::error::Error;
    use distillery_trainer::models;
    use distillery_trainer::run::cuda_graphs::{ExecutionMode, StepExecutor};
    use serde_json::{Value, json};
    use tch::{Device, Kind, Tensor};

    use super::INSIDE;
    use crate::support::training::{Training, specification};

    pub(super) fn is_inside() -> bool {
        std::env::var_os(INSIDE).is_some()
    }

    pub(super) fn graphs() -> (Device, ExecutionMode) {
        let device = device::open("cuda").unwrap();
        let plugin = Plugin::load().unwrap();
        plugin.begin(0).unwrap();
        (device, ExecutionMode::Graphs(plugin))
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
        let families = ["shufflenet_v1", "shufflenet_v2", "mobilenet_v2", "wrn_16_2", "vgg8", "resnet18"];
        let students = families.map(|name| json!({"student": {"architecture": name}}));
        let methods = ["sdd_kd", "sdd_dkd", "sdd_nkd", "sdd_wttm"];
        let losses = methods.map(|method| json!({"distillation": {"method": method}}));
        for changes in students.into_iter().chain(losses).chain([of_all, clipped]) {
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
        let ExecutionMode::Graphs(plugin) = mode else { unreachable!("it was made above") };
        let number = Tensor::zeros([1], (Kind::Float, device));
        let error = plugin.record(&mut || assert!(number.double_value(&[0]).is_finite())).unwrap_err();
        assert!(error.contains("capturing"), "{error}");
        // The next recording is a new one.
        assert!(plugin.record(&mut || drop(&number + 1.0)).is_ok());
        let host = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        assert!(plugin.record(&mut || drop(host.to_device(device))).is_err());
    }

    #[test]
    fn a_replay_tells_of_the_double_bit_error() {
        if !is_inside() {
            return;
        }
        let (device, mode) = graphs();
        let ExecutionMode::Graphs(plugin) = mode else { unreachable!("it was made above") };
        let number = Tensor::zeros([1], (Kind::Float, device));
        let graph = plugin.record(&mut || drop(&number + 1.0)).unwrap();
        let error = graph.replay().unwrap_err();
        assert_eq!(Error::from_torch(&error).class, ErrorClass::Machine, "{error}");
    }

    #[test]
    fn every_convolution_with_a_relu_is_tried_and_none_fused() {
        if !is_inside() {
            return;
        }
        let device = device::open("cuda").unwrap();
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut network = models::build(architecture::find("resnet8x4").unwrap(), 10, 1);
            network.place(device, Kind::Float);
            network.compute_in(kind);
            let count = network.freeze(8, 32).expect("a count on a GPU");
            // Three blocks of two, and the first.
            assert_eq!((count.fused, count.of), (0, 7), "{kind:?}");
            let images = Tensor::zeros([8, 3, 32, 32], (Kind::Float, device));
            assert_eq!(network.logits(&images, false).size(), [8, 10]);
        }
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
