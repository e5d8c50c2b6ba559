//! Kernels of our own: what the host does to make and to launch them.

use distillery_core::protocol::Event;
use serde_json::json;

use super::Stub;
use crate::support::process::run_again;
use crate::support::{Workspace, merged, text, warnings};

#[test]
fn steps_with_kernels_of_our_own_can_be_recorded_and_a_launch_that_fails_tells_cudas_reason() {
    let Some(stub) = Stub::build("kernels of our own on a stand-in for a GPU") else { return };
    run_again(
        &["cuda_stub::own_kernels::inside::steps_with_kernels_of_our_own_can_be_recorded"],
        &stub.variables("1", ""),
    );
    let test = "cuda_stub::own_kernels::inside::a_launch_of_a_kernel_of_our_own_tells_of_the_double_bit_error";
    run_again(&[test], &stub.variables("1", "cuLaunchKernel=214"));
}

#[test]
fn a_kernel_that_student_and_teacher_use_is_compiled_once() {
    let Some(stub) = Stub::build("compiling a kernel of our own") else { return };
    let test = "cuda_stub::own_kernels::inside::nvrtc_compiles_the_kernel_of_both_networks_once";
    run_again(&[test], &stub.variables("1", "nvrtcCompileProgram=6@2"));
}

#[test]
fn where_kernels_of_our_own_cannot_be_made_libtorch_computes_with_a_warning() {
    let Some(stub) = Stub::build("kernels of our own that cannot be made") else { return };
    let workspace = Workspace::new().with_teacher();
    let spec = workspace.distilled("sdd_kd");
    let cases = [
        ("", None),
        ("nvrtcCompileProgram=6", Some("NVRTC cannot compile it: status 6")),
        ("cuModuleLoadData=209", Some("the driver cannot load it: status 209")),
    ];
    for (index, (errors, reason)) in cases.into_iter().enumerate() {
        let mut command = workspace.command_on("cuda", &spec, &format!("run-{index}"));
        let run = command.args(["--events", "--own-kernels"]).envs(stub.variables("1", errors)).output().unwrap();
        let said = text(&run.stdout);
        let events: Vec<Event> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let warnings = warnings(&events);
        let unused: Vec<_> = warnings.iter().filter(|warning| warning.contains("is not used, so libtorch's")).collect();
        let kernels =
            ["crops and normalises images", "computes each pass of a batch norm", "computes the distillation loss"];
        assert_eq!(unused.len(), if reason.is_some() { kernels.len() } else { 0 }, "{errors}: {said}");
        assert!(unused.iter().all(|warning| warning.contains(reason.unwrap())), "{errors}: {unused:?}");
        let used = kernels.map(|what| said.contains(&format!("one kernel {what}")));
        assert_eq!(used, [reason.is_none(); 3], "{errors}: {said}{}", text(&run.stderr));
    }
}

#[test]
fn a_kernel_that_only_another_rank_cannot_make_is_in_the_jobs_events_with_its_number() {
    let Some(stub) = Stub::build("kernels of our own on one of two ranks") else { return };
    let workspace = Workspace::new().with_teacher();
    let spec = merged(workspace.distilled("sdd_kd"), json!({"training": {"devices": 2}}));
    for (index, (errors, of_ranks, prefix)) in
        [("", "cuModuleLoadData=209", "rank 1: "), ("cuModuleLoadData=209", "cuModuleLoadData=209", "")]
            .into_iter()
            .enumerate()
    {
        let mut command = workspace.command_on("cuda", &spec, &format!("run-{index}"));
        command.args(["--events", "--own-kernels"]).envs(stub.variables("2", errors));
        let run = command.env("CUDA_STUB_RANK_ERRORS", of_ranks).output().unwrap();
        let (said, stderr) = (text(&run.stdout), text(&run.stderr));
        let events: Vec<Event> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let warnings = warnings(&events);
        let unused: Vec<_> = warnings.iter().filter(|warning| warning.contains("is not used, so libtorch's")).collect();
        // Each once, whichever ranks have it.
        assert_eq!(unused.len(), 3, "{errors}: {said}{stderr}");
        let begin = format!("{prefix}the kernel that ");
        assert!(unused.iter().all(|warning| warning.starts_with(&begin)), "{errors}: {unused:?}");
    }
}

/// What runs with the stand-in.
mod inside {
    use distillery_core::protocol::ErrorClass;
    use distillery_trainer::error::caught;
    use distillery_trainer::run::cuda_graphs::StepExecutor;
    use serde_json::json;
    use tch::Kind;

    use crate::cuda_stub::inside::{graphs, is_inside};
    use crate::support::training::{Training, specification};

    /// Training with kernels of our own.
    fn with_kernels(method: &str, kind: Kind) -> Training {
        let (device, mode) = graphs();
        let spec = specification(json!({"distillation": {"method": method}}));
        let mut training = Training::new(&spec, device, kind, StepExecutor::in_mode(mode));
        training.student.use_norm_kernel(device).unwrap();
        training.objective.use_crop_kernel(device).unwrap();
        training.objective.distillation.as_mut().unwrap().use_kernel(device).unwrap();
        training
    }

    #[test]
    fn steps_with_kernels_of_our_own_can_be_recorded() {
        if !is_inside() {
            return;
        }
        for (method, kind) in [("sdd_kd", Kind::Float), ("sdd_dkd", Kind::BFloat16), ("sdd_nkd", Kind::Float)] {
            let mut training = with_kernels(method, kind);
            (0..9).for_each(|_| drop(training.step(None)));
            let events = training.executor.events();
            assert!(events.is_empty(), "{method}: {events:?}");
        }
    }

    #[test]
    fn a_launch_of_a_kernel_of_our_own_tells_of_the_double_bit_error() {
        if !is_inside() {
            return;
        }
        let mut training = with_kernels("sdd_kd", Kind::Float);
        let error = caught(|| Ok(training.step(None))).unwrap_err();
        assert_eq!(error.class, ErrorClass::Machine, "{error}");
        assert!(error.message.contains("the GPU is broken: CUDA error"), "{error}");
    }

    #[test]
    fn nvrtc_compiles_the_kernel_of_both_networks_once() {
        if !is_inside() {
            return;
        }
        let (device, mode) = graphs();
        let mut training = Training::new(&specification(json!({})), device, Kind::Float, StepExecutor::in_mode(mode));
        assert!(training.objective.teacher_normalisation.is_some());
        training.objective.use_crop_kernel(device).unwrap();
        // The second that is compiled fails.
        let error = training.objective.distillation.as_mut().unwrap().use_kernel(device).unwrap_err();
        assert!(error.contains("NVRTC cannot compile it: status 6"), "{error}");
    }
}
