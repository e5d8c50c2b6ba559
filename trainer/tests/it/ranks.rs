//! Several devices train a student like one device does, and end together.

use distillery_core::architecture;
use distillery_core::protocol::{EXIT_STOPPED, ErrorClass, Event};
use distillery_core::spec::{Grouping, OptimizerSpec};
use distillery_trainer::data::normalisation::Normalisation;
use distillery_trainer::data::{Portion, Shard};
use distillery_trainer::loss::region::Loss;
use distillery_trainer::loss::sdd::{Distillation, GroupWeights};
use distillery_trainer::loss::target::CrossEntropy;
use distillery_trainer::models::{self, Network};
use distillery_trainer::ranks::Ranks;
use distillery_trainer::run::metrics::{Meter, Metric};
use distillery_trainer::run::optim::Optimizer;
use distillery_trainer::run::step::{Inputs, Objective, StepScalars, step};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tch::{Device, Kind, Reduction, Tensor};

use crate::support::torch::one_thread;
use crate::support::{Supervised, Workspace, alter, appears, merged, program, started, text};

const STEPS: u64 = 10;
const CLASSES: u32 = 4;

/// In float64, where no rounding takes a pixel to the other side of a ReLU.
fn network(seed: u64) -> Network {
    let mut network = models::build(architecture::find("resnet8").unwrap(), CLASSES, seed);
    network.place(Device::Cpu, Kind::Double);
    network
}

fn optimizer(student: &Network) -> Optimizer {
    let spec = OptimizerSpec::Sgd { learning_rate: 0.0, momentum: 0.9, weight_decay: 5e-4, nesterov: false };
    let trained = student.weights().iter().filter(|weight| weight.trained);
    Optimizer::new(&spec, trained.map(|weight| (weight.name.clone(), weight.tensor.shallow_clone())).collect())
}

/// Runs `work` as each of `count` ranks, which are threads here. Returns the final weights of each.
fn together(count: u32, work: impl Fn(&mut Ranks, &Network, &mut Optimizer) + Sync) -> Vec<Vec<Tensor>> {
    one_thread();
    let workspace = tempfile::tempdir().unwrap();
    let rank = |number: u32| {
        let mut ranks = match count {
            1 => Ranks::single(),
            _ => Ranks::join(Shard { rank: number, world_size: count }, workspace.path(), Device::Cpu, |_| ()).unwrap(),
        };
        // Each starts with weights of its own and takes over those of rank 0.
        let student = network(u64::from(number));
        let mut optimizer = optimizer(&student);
        ranks.begin(&student, &optimizer.state(), Device::Cpu).unwrap();
        work(&mut ranks, &student, &mut optimizer);
        student.trained().map(|tensor| tensor.detach().copy()).collect()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || rank(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn assert_same_steps(one: &[Vec<Tensor>], several: &[Vec<Tensor>]) {
    let begun: Vec<Tensor> = network(0).trained().map(|tensor| tensor.detach().copy()).collect();
    for (index, weights) in several.iter().enumerate() {
        assert!(weights.iter().zip(&several[0]).all(|(own, first)| own.equal(first)), "rank {index} has other bits");
    }
    let apart = |one: &[Tensor], other: &[Tensor]| {
        one.iter().zip(other).map(|(one, other)| (one - other).abs().max().double_value(&[])).fold(0.0, f64::max)
    };
    let (moved, apart) = (apart(&one[0], &begun), apart(&one[0], &several[0]));
    assert!(moved > 0.01, "nothing was learned: weights moved by {moved} at most");
    assert!(apart < 1e-5, "weights are {apart} apart, having moved by {moved}");
}

/// The images and labels of a step, the same for all ranks.
fn images(step: u64, count: i64) -> (Tensor, Tensor) {
    let numbers = Tensor::arange(count * 3 * 64, (Kind::Double, Device::Cpu)) + (step as f64 * 1e4);
    let hashed = (numbers * 12.9898).sin() * 43_758.545_3;
    let pixels = (&hashed - hashed.floor()) * 255.0;
    let labels = Tensor::arange(count, (Kind::Int64, Device::Cpu)).fmod(i64::from(CLASSES));
    (pixels.to_kind(Kind::Uint8).view([count, 3, 8, 8]), labels)
}

#[test]
fn several_ranks_take_the_same_steps_as_one_on_the_whole_batch() {
    // 7 images cannot be divided evenly, and with 2 images the third rank gets none.
    let batches = [8, 7, 2];
    let learn = |ranks: &mut Ranks, student: &Network, optimizer: &mut Optimizer| {
        for number in 0..STEPS {
            let all = batches[number as usize % batches.len()];
            let (images, labels) = images(number, all);
            let rows = ranks.shard().rows(all as usize);
            ranks.weight_loss(&Portion { rows: rows.clone(), batch_size: all as usize });
            let rows = if rows.is_empty() { 0..1 } else { rows };
            let part = |tensor: &Tensor| tensor.narrow(0, rows.start as i64, rows.len() as i64);
            // In evaluation mode, since batch statistics are those of a rank's own shard.
            let logits = student.logits(&(part(&images).to_kind(Kind::Float) / 255.0), false);
            let loss = logits.cross_entropy_loss::<Tensor>(&part(&labels), None, Reduction::Mean, -100, 0.0);
            optimizer.drop_gradients();
            ranks.backward(&loss, true);
            let _ = optimizer.clip_grad_norm(5.0);
            optimizer.step(&Tensor::from(0.05_f32));
        }
    };
    let one = together(1, learn);
    assert_same_steps(&one, &together(2, learn));
    assert_same_steps(&one, &together(3, learn));
}

#[test]
fn several_ranks_distil_like_one_when_their_batch_statistics_are_equal() {
    // Both ranks see the same images with different labels, so that their batch statistics are those of the whole batch
    // and their gradients differ.
    let learn = |ranks: &mut Ranks, student: &Network, optimizer: &mut Optimizer| {
        let scales = [1, 2];
        let mut objective = objective(&scales);
        objective.batch_size = if ranks.shard().world_size == 1 { 16 } else { 8 };
        let mut meter = Meter::new(&scales, Device::Cpu);
        for number in 1..=STEPS {
            let (images, labels) = images(number, 8);
            let labels = [&labels, &labels.flip([0])].map(Tensor::shallow_clone);
            let (images, labels) = match ranks.shard() {
                Shard { world_size: 1, .. } => (Tensor::cat(&[&images, &images], 0), Tensor::cat(&labels, 0)),
                Shard { rank, .. } => (images, labels[rank as usize].shallow_clone()),
            };
            ranks.weight_loss(&Portion { rows: 0..8, batch_size: 16 });
            let scalars = StepScalars::new(0.02, 0.9, number, Device::Cpu);
            meter.count(labels.size()[0].unsigned_abs());
            let inputs = Inputs::new(images, labels, scalars);
            step(student, &objective, optimizer, &mut meter, ranks, &inputs, |_| {});
        }
        let means = meter.read(ranks).unwrap().unwrap();
        assert_eq!(means.images, 16 * STEPS);
        let loss = means.metrics.iter().find(|(metric, _)| *metric == Metric::Loss).unwrap().1;
        println!("rank {} of {}: mean loss {loss}", ranks.shard().rank, ranks.shard().world_size);
    };
    assert_same_steps(&together(1, learn), &together(2, learn));
}

fn objective(scales: &[u32]) -> Objective {
    let teacher = network(9);
    let teacher = teacher.constant(Kind::Double, 16, 8);
    let loss = Loss::Kd { temperature: 4.0 };
    let ones = vec![1.0; scales.len()];
    Objective {
        normalisation: Normalisation::new([0.5; 3], [0.25; 3], Device::Cpu),
        teacher_normalisation: None,
        batch_size: 16,
        teacher: Some(teacher),
        kept_scales: scales.to_vec(),
        distillation: Some(Distillation::from_parts(
            loss,
            scales,
            &ones,
            Grouping::Label,
            GroupWeights { consistent: 1.0, complementary: 2.0 },
            Device::Cpu,
        )),
        label_loss: CrossEntropy::default(),
        cross_entropy: 0.1,
        weight: 0.9,
        clip: Some(5.0),
    }
}

#[test]
fn collective_operations_reach_every_rank() {
    let workspace = tempfile::tempdir().unwrap();
    let rank = |number: u32| {
        let ranks = Ranks::join(Shard { rank: number, world_size: 3 }, workspace.path(), Device::Cpu, |_| ()).unwrap();
        let numbers = Tensor::from_slice(&[i64::from(number) + 1, -i64::from(number)]);
        let least = numbers.copy();
        ranks.all_reduce_sum(&numbers).unwrap();
        ranks.all_reduce_min(&least).unwrap();
        assert_eq!(Vec::<i64>::try_from(numbers).unwrap(), [6, -3]);
        assert_eq!(Vec::<i64>::try_from(least).unwrap(), [1, -2]);
        assert!(ranks.any(number == 1).unwrap() && !ranks.any(false).unwrap());
        assert_eq!(ranks.broadcast_text(|| Ok(format!("rank {number} says ö"))).unwrap(), "rank 0 says ö");
        assert_eq!(ranks.broadcast_text(|| Ok(String::new())).unwrap(), "");
        let own = ["", "ö", "two"][number as usize];
        assert_eq!(ranks.gather_texts(own).unwrap(), ["", "ö", "two"]);
    };
    std::thread::scope(|scope| (0..3).for_each(|number| drop(scope.spawn(move || rank(number)))));
}

/// A run on several devices that is long enough to be interrupted.
fn long(workspace: &Workspace, devices: u32) -> Value {
    let training =
        json!({"epochs": 4, "batch_size": 8, "devices": devices, "augmentation": "crop_flip", "precision": "float32"});
    merged(workspace.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}, "training": training}))
}

fn assert_same_students(workspace: &Workspace, one: &str, other: &str) {
    for file in ["student.safetensors", "student-last.safetensors"] {
        assert!(
            workspace.bytes(format!("{one}/{file}")) == workspace.bytes(format!("{other}/{file}")),
            "{file} differs"
        );
    }
}

/// The child processes of a process.
fn children(parent: u32) -> Vec<Pid> {
    let task = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(task).unwrap();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

#[test]
fn a_run_on_two_devices_is_reproducible_and_verifiable() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace, 2);
    let events = workspace.finish(&spec, "one", &[]);
    let started = started(&events);
    assert_eq!((started.device.as_str(), started.steps_per_epoch), ("cpu,cpu", 19));
    let evaluated =
        events.iter().filter_map(|event| if let Event::Teacher(teacher) = event { Some(teacher) } else { None });
    assert_eq!(evaluated.map(|teacher| teacher.images).collect::<Vec<_>>(), [50]);
    workspace.finish(&spec, "other", &[]);
    assert_same_students(&workspace, "one", "other");
    let manifest = workspace.json("one/manifest.json");
    assert_eq!(manifest["last"]["evaluation"]["images"], 50);
    assert!(manifest["last"]["evaluation"]["top1"].as_f64().unwrap() > 50.0, "{manifest}");
    let left = std::fs::read_dir(workspace.path("one")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
    let mut verify = program("verify");
    let verify = verify.arg(workspace.path("one/manifest.json")).args(["--threads", "1"]).output().unwrap();
    assert!(verify.status.success(), "{}{}", text(&verify.stdout), text(&verify.stderr));
}

#[test]
fn a_run_paused_on_two_devices_resumes_at_the_next_step() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace, 2);
    workspace.finish(&spec, "whole", &[]);
    let mut run = Supervised::start(workspace.command(&spec, "paused"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    assert_eq!(children(run.child.id()).len(), 1);
    run.tell("pause");
    run.until(|event| matches!(event, Event::Stopped { .. }));
    assert_eq!(run.status(), Some(i32::from(EXIT_STOPPED)));
    workspace.finish(&spec, "paused", &[]);
    assert_same_students(&workspace, "whole", "paused");
}

#[test]
fn a_run_on_two_devices_resumes_on_no_other_data_and_stays_as_it_is_once_finished() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace, 2);
    let mut run = Supervised::start(workspace.command(&spec, "out"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    run.kill();
    let labels = workspace.path("data/train-labels-idx1-ubyte");
    alter(&labels);
    let failure = workspace.fail(&spec, "out", &[]);
    assert!(failure.message.contains("the data set has changed since the checkpoint"), "{failure:?}");
    alter(&labels);
    workspace.finish(&spec, "out", &[]);
    let manifest = workspace.bytes("out/manifest.json");
    workspace.finish(&spec, "out", &[]);
    assert!(workspace.bytes("out/manifest.json") == manifest, "the manifest has changed");
}

#[test]
fn a_run_killed_on_three_devices_resumes_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace, 3);
    workspace.finish(&spec, "whole", &[]);
    let mut run = Supervised::start(workspace.command(&spec, "killed"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 2, .. }));
    assert_eq!(children(run.child.id()).len(), 2);
    run.kill();
    workspace.finish(&spec, "killed", &[]);
    assert_same_students(&workspace, "whole", "killed");
}

#[test]
fn a_killed_rank_ends_the_run_with_its_number() {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(long(&workspace, 3), json!({"training": {"epochs": 1000}}));
    let mut run = Supervised::start(workspace.command(&spec, "output"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    let ranks = children(run.child.id());
    kill_process(ranks[1], Signal::KILL).unwrap();
    let Event::Failed(failure) = run.until(|event| matches!(event, Event::Failed(_))) else { unreachable!() };
    assert_eq!(failure.class, ErrorClass::WorkerLost, "{failure:?}");
    assert!(failure.message.starts_with("rank 2: its process was killed by signal 9"), "{failure:?}");
    assert_eq!(run.status(), Some(1));
}

#[test]
fn a_rank_killed_before_it_joins_the_others_ends_the_run() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace, 2);
    // Ranks meet in a file that the first of them creates. Rank 0 then waits for the other one.
    let output = workspace.path("output");
    std::fs::create_dir(&output).unwrap();
    let mut run = Supervised::start(workspace.command(&spec, "output"));
    let meeting = appears(&output, ".ranks-");
    appears(&meeting, "meeting");
    let [rank] = children(run.child.id())[..] else { panic!("one rank besides the first") };
    kill_process(rank, Signal::KILL).unwrap();
    let Event::Failed(failure) = run.until(|event| matches!(event, Event::Failed(_))) else { unreachable!() };
    assert_eq!(failure.class, ErrorClass::WorkerLost, "{failure:?}");
    assert_eq!(run.status(), Some(1));
}

#[test]
fn a_run_on_two_devices_stops_on_request() {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(long(&workspace, 2), json!({"training": {"epochs": 1000}}));
    let mut run = Supervised::start(workspace.command(&spec, "output"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    run.tell("stop");
    run.until(|event| matches!(event, Event::Stopped { .. }));
    assert_eq!(run.status(), Some(i32::from(EXIT_STOPPED)));
}

#[test]
fn cached_teacher_logits_do_not_change_a_run_on_two_devices() {
    let workspace = Workspace::new().with_teacher();
    let spec = |cache: &str| {
        merged(long(&workspace, 2), json!({"training": {"augmentation": "none", "teacher_cache": cache}}))
    };
    workspace.finish(&spec("off"), "off", &[]);
    workspace.finish(&spec("exact"), "memory", &[]);
    assert_same_students(&workspace, "off", "memory");
    let cache = workspace.path("cache");
    // Ranks agree on what they keep for runs with other scales, too, and put it into one file.
    let flags = ["--cache-dir", cache.to_str().unwrap(), "--cache-scales", "1,2,4"];
    workspace.finish(&spec("exact"), "files", &flags);
    assert_same_students(&workspace, "off", "files");
    let names = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("teacher-")).count(), 1);
}

#[test]
fn a_last_batch_smaller_than_the_number_of_devices_is_trained_on() {
    let workspace = Workspace::new();
    // 28 batches of 5 images and one of 1.
    let spec = merged(
        workspace.plain(),
        json!({"dataset": {"limit": 141}, "training": {"batch_size": 5, "devices": 4, "precision": "float32"}}),
    );
    workspace.finish(&spec, "output", &[]);
}

#[test]
fn a_device_list_of_the_wrong_length_is_refused() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"devices": 3}}));
    let file = workspace.path("spec.json");
    std::fs::write(&file, spec.to_string()).unwrap();
    let mut command = program("train");
    command.arg(file).arg("--output").arg(workspace.path("output")).args(["--device", "cpu,cpu"]);
    let run = command.output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let message = text(&run.stderr);
    assert!(message.contains("training.devices is 3, but --device lists 2: list 3 devices"), "{message}");
}
