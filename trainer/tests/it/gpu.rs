//! Tests that need a GPU. Without one they print why they were not run; that its absence is handled is tested
//! everywhere.

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use distillery_core::architecture;
use distillery_core::spec::Grouping;
use distillery_trainer::data::normalisation::Normalisation;
use distillery_trainer::data::{Crops, DrawSource};
use distillery_trainer::device;
use distillery_trainer::device::cuda::{Plugin, Tf32, compute_deterministically};
use distillery_trainer::loss::region::Loss;
use distillery_trainer::loss::sdd::{Distillation, GroupWeights, Regions};
use distillery_trainer::models;
use distillery_trainer::run::cuda_graphs::{ExecutionMode, StepExecutor};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::support::process::program;
use crate::support::torch::hashed;
use crate::support::training::{Training, specification};
use crate::support::{Workspace, merged, text};

/// The first GPU, for one test at a time, since work that others issue would break the recording of a graph. Without a
/// GPU, prints that the test was not run.
fn gpu(test: &str) -> Option<(Device, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match device::open("cuda") {
        Ok(device) => {
            // As runs do.
            compute_deterministically();
            Some((device, alone))
        }
        Err(error) => {
            // To standard error itself, since what a test prints is not shown when it passes.
            let mut errors = std::io::stderr();
            writeln!(errors, "not run: {test}: {error}").unwrap();
            None
        }
    }
}

fn graphs() -> ExecutionMode {
    let plugin = Plugin::load().expect("the plugin opens where there is a GPU");
    plugin.begin(0).unwrap();
    ExecutionMode::Graphs(plugin)
}

/// The state after some steps. Metrics are not compared: one image that is classified otherwise, for the rounding of
/// two logits that are almost equal, changes an accuracy by more than any bound on rounding.
fn trained(spec: serde_json::Value, device: Device, kind: Kind, mode: ExecutionMode) -> Vec<(String, Tensor)> {
    let mut training = Training::new(&specification(spec), device, kind, StepExecutor::in_mode(mode));
    (0..12).for_each(|_| drop(training.step(None)));
    assert!(training.executor.events().is_empty(), "a graph could not be recorded");
    training.state()
}

/// The differences of tensors, relative to their norms, from the smallest to the largest.
fn differences(one: &[(String, Tensor)], other: &[(String, Tensor)]) -> Vec<f64> {
    let difference = |(one, other): (&(String, Tensor), &(String, Tensor))| {
        let (one, other) = (one.1.to_kind(Kind::Double), other.1.to_kind(Kind::Double));
        ((&one - &other).norm() / (other.norm() + 1e-6)).double_value(&[])
    };
    let mut all: Vec<f64> = one.iter().zip(other).map(difference).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn largest_difference(one: &[(String, Tensor)], other: &[(String, Tensor)]) -> f64 {
    differences(one, other).pop().expect("there are tensors")
}

#[test]
fn the_plugin_opens_or_says_what_is_missing() {
    let has_headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/cuda_headers/.stamp").exists();
    let gpu = gpu("opening the plugin beside a driver");
    let has_gpu = gpu.is_some();
    match Plugin::load() {
        Ok(plugin) => {
            // Without a GPU this is an error and does not end the process.
            let begun = plugin.begin(0);
            assert_eq!(begun.is_ok(), has_gpu, "{begun:?}");
            let recorded = plugin.record(&mut || ());
            eprintln!("opened: {begun:?}, {:?}", recorded.as_ref().err());
            assert_eq!(recorded.is_ok(), has_gpu, "{recorded:?}");
        }
        Err(error) => {
            assert!(!has_gpu, "{error}");
            let without = error.contains("without CUDA's headers") && error.contains("scripts/setup cuda_headers");
            assert!(if has_headers { error.contains(".so") } else { without }, "{error}");
        }
    }
}

#[test]
fn without_a_gpu_auto_uses_the_cpu_and_cuda_is_refused() {
    let workspace = Workspace::new();
    let auto = workspace.command_on("auto", &workspace.plain(), "auto").arg("--no-cuda-graphs").output().unwrap();
    assert!(auto.status.success(), "{}", text(&auto.stderr));
    let device = workspace.json("auto/manifest.json")["attempts"][0]["device"].clone();
    if gpu("training on cuda:0 as the automatic choice").is_some() {
        assert_eq!(device, "cuda:0");
    } else {
        assert_eq!(device, "cpu");
        let cuda = workspace.command_on("cuda", &workspace.plain(), "cuda").output().unwrap();
        assert!(!cuda.status.success() && text(&cuda.stderr).contains("CUDA"), "{}", text(&cuda.stderr));
    }
}

#[test]
fn a_recorded_step_computes_the_same_as_an_eager_one() {
    let Some((device, _alone)) = gpu("recorded steps beside eager ones") else { return };
    for kind in [Kind::Float, Kind::BFloat16] {
        for changes in [
            json!({}),
            json!({"student": {"architecture": "shufflenet_v1"}}),
            json!({"distillation": {"method": "sdd_dkd"}}),
            json!({"training": {"optimizer": {"type": "adamw", "learning_rate": 0.001}}}),
        ] {
            let recorded = trained(changes.clone(), device, kind, graphs());
            let eager = trained(changes.clone(), device, kind, ExecutionMode::Eager);
            let difference = largest_difference(&recorded, &eager);
            assert!(difference < 1e-5, "{changes} in {kind:?}: {difference}");
        }
    }
}

#[test]
fn one_kernel_crops_and_normalises_on_a_gpu_to_the_bits_of_libtorchs_operators() {
    let Some((device, _alone)) = gpu("the kernel that crops and normalises") else { return };
    let images = (Tensor::arange(64 * 3 * 32 * 32, (Kind::Int64, device)) * 7919).remainder(256);
    let images = images.to_kind(Kind::Uint8).view([64, 3, 32, 32]);
    let crops = Crops::of_view(DrawSource { seed: 7, images: 64, side: 32, device }, 0);
    let crops = crops.of_batch(0, 0, &Tensor::arange(64, (Kind::Int64, device)));
    let normalisation = || Normalisation::new([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761], device);
    let mut by_kernel = normalisation();
    by_kernel.use_kernel(device).unwrap();
    for crops in [Some(&crops), None] {
        let found = by_kernel.apply_to_crops(&images, crops);
        assert!(found.equal(&normalisation().apply_to_crops(&images, crops)), "cropped: {}", crops.is_some());
    }
}

/// Steps with all kernels, after which the state is compared with that of libtorch's operators.
#[test]
fn kernels_of_our_own_train_like_libtorchs_operators() {
    let Some((device, _alone)) = gpu("kernels of our own beside libtorch's operators") else { return };
    let _in_full = Tf32::set(false);
    for method in ["sdd_kd", "sdd_dkd", "sdd_nkd"] {
        let changes = json!({"distillation": {"method": method}});
        let by_kernel = |mode: ExecutionMode| {
            let spec = specification(changes.clone());
            let mut training = Training::new(&spec, device, Kind::Float, StepExecutor::in_mode(mode));
            let distillation = training.objective.distillation.as_mut().expect("there is a teacher");
            distillation.use_kernel(device).unwrap();
            training.objective.use_crop_kernel(device).unwrap();
            training.student.use_norm_kernel(device).unwrap();
            (0..12).for_each(|_| drop(training.step(None)));
            assert!(training.executor.events().is_empty(), "a graph could not be recorded");
            training.state()
        };
        let recorded = by_kernel(graphs());
        let difference = largest_difference(&recorded, &by_kernel(ExecutionMode::Eager));
        assert!(difference < 1e-5, "{method}, recorded beside eager: {difference}");
        let difference =
            largest_difference(&recorded, &trained(changes.clone(), device, Kind::Float, ExecutionMode::Eager));
        assert!(difference < 1e-3, "{method}, kernels of our own beside libtorch's operators: {difference}");
    }
}

/// One launch against another, and against the same source on the CPU.
#[test]
fn the_losses_kernel_computes_on_a_gpu_what_it_computes_on_the_cpu() {
    let Some((device, _alone)) = gpu("the kernel of the loss on both devices") else { return };
    let (images, scales) = (64, [1, 2, 4]);
    let nkd = |exclude_target| Loss::Nkd { temperature: 3.0, gamma: 8.0, exclude_target };
    let dkd = Loss::Dkd { temperature: 3.0, alpha: 0.5, beta: 8.0 };
    for (loss, classes) in [Loss::Kd { temperature: 3.0 }, dkd, nkd(false), nkd(true)]
        .into_iter()
        .flat_map(|loss| [2, 7, 100, 1000].map(|classes| (loss, classes)))
    {
        let logits = |salt, size: f64| (hashed(&[images, 21, classes], salt) * size).to_kind(Kind::Float);
        let (student, teacher) = (logits(1, 5.0), logits(2, 20.0));
        let labels = Tensor::arange(images, (Kind::Int64, Device::Cpu)).remainder(classes);
        let on = |device: Device| -> Vec<(String, Tensor)> {
            let weights = GroupWeights { consistent: 1.0, complementary: 2.0 };
            let scale_weights = [1.0, 0.5, 2.0];
            let mut distillation =
                Distillation::from_parts(loss, &scales, &scale_weights, Grouping::Label, weights, device);
            distillation.use_kernel(device).unwrap();
            let leaf = student.to_device(device).detach().copy().set_requires_grad(true);
            let regions = [&leaf, &teacher.to_device(device)].map(|logits| Regions::split(logits, &scales));
            let found = distillation.apply(&regions[0], &regions[1], &labels.to_device(device));
            found.loss.backward();
            let names = ["loss", "complementary", "fraction", "per scale", "fractions per scale", "gradient"];
            let numbers = [
                found.loss.detach(),
                found.complementary,
                found.complementary_fraction,
                found.per_scale,
                found.complementary_per_scale,
                leaf.grad(),
            ];
            names.map(str::to_owned).into_iter().zip(numbers.map(|numbers| numbers.to_device(Device::Cpu))).collect()
        };
        let (found, wanted) = (on(device), on(Device::Cpu));
        let difference = largest_difference(&found, &wanted);
        assert!(difference < 1e-5, "{loss:?} of {classes} classes: {difference}");
        assert_eq!(found, on(device), "{loss:?} of {classes} classes: another launch gives other bytes");
    }
}

#[test]
fn a_gpu_trains_like_the_cpu() {
    let Some((device, _alone)) = gpu("a GPU beside the CPU") else { return };
    let _in_full = Tf32::set(false);
    let on = |device, kind| trained(json!({}), device, kind, ExecutionMode::Eager);
    let exact = on(Device::Cpu, Kind::Float);
    let difference = largest_difference(&on(device, Kind::Float), &exact);
    assert!(difference < 1e-3, "float32: {difference}");
    // In bfloat16 a gradient that almost cancels out depends on the order of sums: of two layouts of the same network,
    // PyTorch's kernels for CPUs differ by 0.33 in one tensor after these steps, and by 0.004 in the median.
    let all = differences(&on(device, Kind::BFloat16), &on(Device::Cpu, Kind::BFloat16));
    let median = all[all.len() / 2];
    assert!(median < 0.05 && all.iter().all(|difference| *difference < 1.0), "bfloat16: {all:?}");
}

#[test]
fn a_teacher_whose_convolutions_cudnn_fuses_gives_the_logits_of_separate_operations() {
    let Some((device, _alone)) = gpu("cuDNN's fused convolutions") else { return };
    let _in_full = Tf32::set(false);
    for (kind, bound) in [(Kind::Float, 1e-4), (Kind::BFloat16, 5e-2)] {
        let mut network = models::build(architecture::find("resnet8x4").unwrap(), 10, 1);
        network.place(device, Kind::Float);
        network.compute_in(kind);
        let images = Tensor::randn([64, 3, 32, 32], (Kind::Float, device));
        let apart = network.constant(kind, 64, 32).logits(&images, false).to_kind(Kind::Double);
        let count = network.freeze(64, 32).expect("a count on a GPU");
        eprintln!("{kind:?}: {count:?}");
        assert!(count.of > 0 && count.fused <= count.of, "{count:?}");
        for _ in 0..3 {
            // What was freed holds NaN.
            drop(Tensor::full([64, 128, 32, 32], f64::NAN, (Kind::Float, device)));
            let fused = network.logits(&images, false).to_kind(Kind::Double);
            let difference = ((&fused - &apart).norm() / apart.norm()).double_value(&[]);
            assert!(difference < bound, "{kind:?}: {difference}");
        }
    }
}

#[test]
fn the_doctor_finds_nothing_wrong_with_a_gpu_and_describes_it() {
    let Some(_gpu) = gpu("the doctor") else { return };
    let run = program("doctor").args(["--device", "cuda:0", "--json"]).output().unwrap();
    eprintln!("{}{}", text(&run.stdout), text(&run.stderr));
    assert!(run.status.success());
    let said: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let gpu = &said["gpus"][0];
    for fact in ["name", "capability", "cudnn", "driver"] {
        assert!(gpu[fact].as_str().is_some_and(|fact| !fact.is_empty() && fact != "unknown"), "{fact}: {said}");
    }
    assert!(gpu["memory_free_bytes"].as_u64() <= gpu["memory_total_bytes"].as_u64(), "{said}");
    assert!(gpu["fused"].as_array().is_some_and(|fused| !fused.is_empty()), "{said}");
}

#[test]
fn cuda_graphs_do_not_change_the_student() {
    let Some(_gpu) = gpu("whole runs with graphs and without") else { return };
    let workspace = Workspace::new().with_teacher();
    let training = json!({"epochs": 4, "augmentation": "crop_flip", "precision": "float32"});
    let spec = merged(workspace.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}, "training": training}));
    let student = |output: &str, spec: &serde_json::Value, flags: &[&str]| {
        let run = workspace.command_on("cuda", spec, output).args(flags).output().unwrap();
        assert!(run.status.success(), "{}", text(&run.stderr));
        assert!(!text(&run.stdout).contains("warning"), "{}", text(&run.stdout));
        workspace.bytes(format!("{output}/student-last.safetensors"))
    };
    assert!(student("graphs", &spec, &[]) == student("eager", &spec, &["--no-cuda-graphs"]));
    // Batches that are copied to the GPU while it computes.
    let streamed = ["--data-memory-mib", "0", "--no-cuda-graphs"];
    assert!(student("streamed", &spec, &streamed[..2]) == student("streamed-eager", &spec, &streamed));
    // Teacher logits that are cached on the GPU.
    let views = merged(spec, json!({"training": {"teacher_cache": "views:2"}}));
    assert!(student("views", &views, &[]) == student("none", &views, &["--cache-mib", "0", "--no-cuda-graphs"]));
}
