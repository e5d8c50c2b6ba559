//! Kernels of our own: that NVRTC compiles them for the GPUs of several generations, and that a run says whether it uses
//! them.

use std::io::Write;
use std::path::Path;

use distillery_core::protocol::{Event, Level};
use distillery_trainer::device::nvrtc::Nvrtc;
use distillery_trainer::device::sdd_kernel::{Base, SOURCE};
use serde_json::json;

use crate::support::process::program;
use crate::support::{Workspace, merged, text, warnings};

/// What `scripts/setup nvrtc` or a PyTorch for GPUs has installed. `None`, with a message, without either.
fn nvrtc(test: &str) -> Option<Nvrtc> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directories =
        ["nvrtc", "pytorch_bench/packages"].map(|part| root.join(".deps").join(part).join("nvidia/cu13/lib"));
    let found = directories.iter().find(|directory| directory.join("libnvrtc.so.13").exists());
    if found.is_none() {
        // To standard error itself, since what a test prints is not shown when it passes.
        writeln!(std::io::stderr(), "not run: {test}: run scripts/setup nvrtc").unwrap();
    }
    found.map(|directory| Nvrtc::in_directory(directory).unwrap())
}

#[test]
fn nvrtc_compiles_the_losses_kernel_for_ampere_hopper_and_blackwell() {
    let Some(nvrtc) = nvrtc("compiling the kernel of the loss") else { return };
    for capability in [(8, 0), (9, 0), (10, 0)] {
        let bases = [Base::Kd, Base::Dkd, Base::Nkd, Base::NkdWithoutTarget];
        for (base, is_float) in bases.map(|base| (base, true)).into_iter().chain([(Base::Kd, false)]) {
            let made = nvrtc.compile(SOURCE, capability, &base.macros(is_float));
            let code = made.unwrap_or_else(|error| panic!("{base:?} for {capability:?}: {error}"));
            // An ELF file with the kernel's name, which the driver is asked for.
            assert!(code.starts_with(b"\x7fELF"), "{base:?} for {capability:?}");
            let name = b".text.sdd_loss\0";
            assert!(code.windows(name.len()).any(|bytes| bytes == name), "{base:?} for {capability:?}");
        }
    }
}

#[test]
fn nvrtcs_messages_are_told() {
    let Some(nvrtc) = nvrtc("what NVRTC says of a fault") else { return };
    let error = nvrtc.compile(c"__global__ void one() { undeclared(); }", (9, 0), &[]).unwrap_err();
    assert!(error.contains("undeclared"), "{error}");
}

#[test]
fn a_run_says_whether_the_kernel_computes_the_loss_and_repeats_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(workspace.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}}));
    let says = |events: &[Event], what: &str| {
        let is_it =
            |event: &Event| matches!(event, Event::Log { level: Level::Info, message } if message.contains(what));
        events.iter().any(is_it)
    };
    let with = workspace.finish(&spec, "with", &["--own-kernels"]);
    assert!(says(&with, "one kernel computes the distillation loss"), "{with:?}");
    assert_eq!(workspace.json("with/manifest.json")["attempts"][0]["loss_kernel"], true);
    let verified = program("verify").arg(workspace.path("with/manifest.json")).output().unwrap();
    assert!(verified.status.success(), "{}{}", text(&verified.stdout), text(&verified.stderr));

    let without = workspace.finish(&spec, "without", &[]);
    assert!(!says(&without, "kernel"), "{without:?}");
    assert!(workspace.json("without/manifest.json")["attempts"][0].get("loss_kernel").is_none());
}

#[test]
fn a_loss_without_a_kernel_is_computed_by_libtorch_with_a_warning() {
    let workspace = Workspace::new().with_teacher();
    let events = workspace.finish(&workspace.distilled("sdd_wttm"), "run", &["--own-kernels"]);
    let warnings = warnings(&events);
    assert!(warnings.iter().any(|warning| warning.contains("only kd, dkd and nkd have a kernel")), "{warnings:?}");
    assert!(workspace.json("run/manifest.json")["attempts"][0].get("loss_kernel").is_none());
}
