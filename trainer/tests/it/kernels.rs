//! Kernels of our own: that NVRTC compiles them for the GPUs of several generations, that a GPU's threads compute what
//! the CPU's loops do, that cropping changes no bit, and that a run says whether it uses them. What the loss's kernel
//! computes is in `losses::kernel`, and batch norms are tested beside theirs.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use distillery_core::protocol::{Event, Level};
use distillery_trainer::data::normalisation::Normalisation;
use distillery_trainer::device::crop_kernel;
use distillery_trainer::device::norm_kernel;
use distillery_trainer::device::nvrtc::Nvrtc;
use distillery_trainer::device::sdd_kernel::{self, Base};
use distillery_trainer::run::cuda_graphs::{ExecutionMode, StepExecutor};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::support::process::program;
use crate::support::rounding::Rounding;
use crate::support::torch::one_thread;
use crate::support::training::{BATCH, Training, specification};
use crate::support::{Workspace, merged, text, warnings};

/// What `scripts/setup nvrtc` or a PyTorch for GPUs has installed. `None`, with a message, without either.
fn nvrtc(test: &str) -> Option<Nvrtc> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directories =
        ["nvrtc", "pytorch_bench/packages"].map(|part| root.join(".deps").join(part).join("nvidia/cu13/lib"));
    let found = directories.iter().find(|directory| directory.join("libnvrtc.so.13").exists());
    if found.is_none() {
        // To standard error itself, since what a test prints is not shown when it passes.
        let mut errors = std::io::stderr();
        writeln!(errors, "not run: {test}: run scripts/setup nvrtc").unwrap();
    }
    found.map(|directory| Nvrtc::in_directory(directory).unwrap())
}

/// Whether this is an ELF file with a kernel of that name, for which the driver is asked.
fn has_kernel(code: &[u8], section: &[u8]) -> bool {
    code.starts_with(b"\x7fELF") && code.windows(section.len()).any(|bytes| bytes == section)
}

#[test]
fn nvrtc_compiles_every_kernel_for_ampere_hopper_and_blackwell() {
    let Some(nvrtc) = nvrtc("compiling kernels of our own") else { return };
    for capability in [(8, 0), (9, 0), (10, 0)] {
        let cropping = nvrtc.compile(crop_kernel::SOURCE, capability, &[]);
        let code = cropping.unwrap_or_else(|error| panic!("cropping for {capability:?}: {error}"));
        assert!(has_kernel(&code, b".text.crop_normalise\0"), "cropping for {capability:?}");
        for is_float in [true, false] {
            let made = nvrtc.compile(norm_kernel::SOURCE, capability, &norm_kernel::macros(is_float));
            let code = made.unwrap_or_else(|error| panic!("batch norm for {capability:?}: {error}"));
            for name in norm_kernel::NAMES {
                let section = [b".text.".as_slice(), name.to_bytes_with_nul()].concat();
                assert!(has_kernel(&code, &section), "{name:?} for {capability:?}");
            }
        }
        let bases = [Base::Kd, Base::Dkd, Base::Nkd, Base::NkdWithoutTarget];
        for (base, is_float) in bases.map(|base| (base, true)).into_iter().chain([(Base::Kd, false)]) {
            let made = nvrtc.compile(sdd_kernel::SOURCE, capability, &base.macros(is_float));
            let code = made.unwrap_or_else(|error| panic!("{base:?} for {capability:?}: {error}"));
            assert!(has_kernel(&code, b".text.sdd_loss\0"), "{base:?} for {capability:?}");
        }
    }
}

#[test]
fn a_gpus_threads_compute_the_bytes_of_the_cpus_loops_in_whatever_order_they_run() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels_on_cpu/main.cpp");
    let directory = tempfile::tempdir().unwrap();
    for maps in ["Float32", "Bfloat16"] {
        let program = directory.path().join(maps);
        let mut build = Command::new("c++");
        build.args(["-std=c++17", "-O2", "-ffp-contract=off", "-o"]).arg(&program);
        let built = build.arg(format!("-DMAPS={maps}")).arg(&source).output().unwrap();
        assert!(built.status.success(), "{maps}: {}", text(&built.stderr));
        let run = Command::new(&program).output().unwrap();
        assert!(run.status.success(), "{maps}: {}", text(&run.stderr));
    }
}

#[test]
fn nvrtcs_messages_are_told() {
    let Some(nvrtc) = nvrtc("what NVRTC says of a fault") else { return };
    let error = nvrtc.compile(c"__global__ void one() { undeclared(); }", (9, 0), &[]).unwrap_err();
    assert!(error.contains("undeclared"), "{error}");
}

/// Bytes [B, 3, S, S], and the crops [B, 3] of these images: mirrored or not, at the corners and in the middle.
fn batch(images: i64, side: i64) -> (Tensor, Tensor) {
    let numbers = Tensor::arange(images * 3 * side * side, (Kind::Int64, Device::Cpu)) * 7919;
    let crop = |image: i64| {
        let (top, left) = (image * 4 % 9, image * 5 % 9);
        if image % 2 == 0 { [top, left, 1] } else { [top, left + side - 1, -1] }
    };
    let crops: Vec<i64> = (0..images).flat_map(crop).collect();
    let bytes = numbers.remainder(256).to_kind(Kind::Uint8).view([images, 3, side, side]);
    (bytes, Tensor::from_slice(&crops).view([images, 3]))
}

#[test]
fn one_kernel_crops_and_normalises_to_the_same_bits() {
    one_thread();
    for (images, side) in [(1, 1), (20, 5), (7, 32), (2, 224)] {
        let (bytes, crops) = batch(images, side);
        let normalisation = || Normalisation::new([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761], Device::Cpu);
        let mut by_kernel = normalisation();
        by_kernel.use_kernel(Device::Cpu).unwrap();
        for crops in [Some(&crops), None] {
            let (found, wanted) =
                (by_kernel.apply_to_crops(&bytes, crops), normalisation().apply_to_crops(&bytes, crops));
            assert_eq!((found.kind(), found.size()), (Kind::Float, vec![images, 3, side, side]));
            assert!(found.equal(&wanted), "{images} images of side {side}, cropped: {}", crops.is_some());
        }
        // Images that were mixed are no bytes.
        let floats = bytes.to_kind(Kind::Float) + 0.25;
        assert!(by_kernel.apply_to_crops(&floats, None).equal(&normalisation().apply(&floats)));
    }
}

#[test]
fn steps_on_images_that_one_kernel_crops_give_the_same_bytes() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let [by_kernel, by_libtorch] = [true, false].map(|by_kernel| {
            let executor = StepExecutor::in_mode(ExecutionMode::Rehearsal);
            let mut training = Training::new(&specification(json!({})), Device::Cpu, kind, executor);
            if by_kernel {
                training.objective.use_crop_kernel(Device::Cpu).unwrap();
            }
            (0..9).for_each(|_| drop(training.step(None)));
            training.outcome()
        });
        for ((name, found), (_, wanted)) in by_kernel.iter().zip(&by_libtorch) {
            assert!(found.equal(wanted), "{kind:?}: {name}");
        }
    }
}

/// The state after three steps of training on the CPU, from weights that `change` has moved.
fn trained(kind: Kind, by_kernels: bool, change: impl Fn(usize, &Tensor) -> Tensor) -> Vec<(String, Tensor)> {
    let executor = StepExecutor::in_mode(ExecutionMode::Rehearsal);
    let mut training = Training::new(&specification(json!({})), Device::Cpu, kind, executor);
    for (index, weight) in training.student.weights().iter().enumerate().filter(|(_, weight)| weight.trained) {
        training.student.set(index, &change(index, &weight.tensor));
    }
    if by_kernels {
        training.student.use_norm_kernel(Device::Cpu).unwrap();
    }
    (0..3).for_each(|_| drop(training.step(None)));
    training.state()
}

/// Each tensor's distance relative to its norm, in order of size.
fn distances(found: &[(String, Tensor)], wanted: &[(String, Tensor)]) -> Vec<f64> {
    let distance = |((_, found), (_, wanted)): (&(String, Tensor), &(String, Tensor))| {
        let [found, wanted] = [found, wanted].map(|tensor| tensor.to_kind(Kind::Double));
        ((&found - &wanted).norm() / wanted.norm().clamp_min(f64::MIN_POSITIVE)).double_value(&[])
    };
    let mut distances: Vec<f64> = found.iter().zip(wanted).map(distance).collect();
    distances.sort_by(f64::total_cmp);
    distances
}

/// Steps of the same network on the CPU, by the loops that it has for batch norms and by the kernels. Their sums are
/// rounded differently, and how far that carries depends on the processor's convolutions as well. So it is compared
/// with how far the loops' own steps get from each other when they begin with weights that roundings have moved.
#[test]
fn steps_whose_batch_norms_are_kernels_take_those_of_the_loops() {
    for kind in [Kind::Float, Kind::BFloat16] {
        // A batch norm adds up 8 images of 16×16 pixels.
        let rounding = Rounding::of(kind, BATCH * 16 * 16);
        let unmoved = |_: usize, weight: &Tensor| weight.detach().copy();
        let by_loops = trained(kind, false, unmoved);
        let by_kernels = distances(&trained(kind, true, unmoved), &by_loops);
        assert!(by_kernels.iter().any(|distance| *distance > 0.0), "{kind:?}: the kernels were not used");
        let moved = trained(kind, false, |index, weight| rounding.moved(weight, index));
        let explained = distances(&moved, &by_loops);
        let middle = by_kernels.len() / 2;
        let (found, explained) = (by_kernels[middle], explained[middle]);
        assert!(found < explained, "{kind:?}: {found:e}, where rounding explains {explained:e}");
        // Otherwise steps of another network would pass.
        assert!(explained < 0.5, "{kind:?}: {explained:e}");
    }
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
    for what in ["one kernel crops and normalises images", "one kernel computes the distillation loss"] {
        assert!(says(&with, what), "{with:?}");
    }
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
