//! Cached teacher logits do not change the student.

use std::fs;
use std::path::{Path, PathBuf};

use distillery_core::architecture;
use distillery_core::protocol::Event;
use distillery_trainer::data::view_of;
use distillery_trainer::models;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::support::disk::{can_mount, on_a_disk};
use crate::support::torch::{hashed, one_thread};
use crate::support::{Workspace, merged, text, warnings};

/// SD-KD in four epochs with a smaller last batch.
fn spec(workspace: &Workspace, training: Value) -> Value {
    let training = merged(json!({"epochs": 4, "precision": "float32"}), training);
    merged(workspace.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}, "training": training}))
}

fn student(workspace: &Workspace, output: &str) -> Vec<u8> {
    workspace.bytes(format!("{output}/student-last.safetensors"))
}

/// Trains to the end and returns the warnings.
fn train(workspace: &Workspace, spec: &Value, output: &str, flags: &[&str]) -> Vec<String> {
    warnings(&workspace.finish(spec, output, flags)).into_iter().map(str::to_owned).collect()
}

fn cached(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| text(path.as_os_str().as_encoded_bytes()).contains("teacher-")).collect();
    files.sort();
    files
}

fn used(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn cached_exact_logits_give_the_student_of_a_run_without_cache() {
    let workspace = Workspace::new().with_teacher();
    assert!(train(&workspace, &spec(&workspace, json!({"teacher_cache": "off"})), "off", &[]).is_empty());
    assert!(train(&workspace, &spec(&workspace, json!({})), "memory", &[]).is_empty());
    let directory = workspace.path("cache");
    let flags = ["--cache-dir", directory.to_str().unwrap()];
    assert!(train(&workspace, &spec(&workspace, json!({})), "first", &flags).is_empty());
    assert!(train(&workspace, &spec(&workspace, json!({"epochs": 4})), "second", &flags).is_empty());
    for output in ["memory", "first", "second"] {
        assert!(student(&workspace, output) == student(&workspace, "off"), "{output}");
    }
    let manifest =
        |output: &str| workspace.json(&format!("{output}/manifest.json"))["specification"]["training"].clone();
    assert_eq!(
        (&manifest("off")["teacher_cache"], &manifest("memory")["teacher_cache"]),
        (&json!("off"), &json!("exact"))
    );
    // Without scale 1, although the logits of the whole image still determine the groups.
    let of_regions = |cache: &str| {
        merged(spec(&workspace, json!({"teacher_cache": cache})), json!({"distillation": {"scales": [2]}}))
    };
    train(&workspace, &of_regions("off"), "regions-off", &[]);
    train(&workspace, &of_regions("exact"), "regions-exact", &[]);
    assert!(student(&workspace, "regions-off") == student(&workspace, "regions-exact"));
}

#[test]
fn views_give_the_same_student_wherever_logits_are_cached() {
    // Crops of images in memory, and of images that are decoded again in every epoch.
    for augmentation in ["crop_flip", "resized_crop_flip"] {
        let workspace = Workspace::new().with_teacher();
        let views = spec(&workspace, json!({"augmentation": augmentation, "teacher_cache": "views:2"}));
        assert!(train(&workspace, &views, "memory", &[]).is_empty());
        let none = train(&workspace, &views, "none", &["--cache-mib", "0"]);
        assert!(
            none.len() == 1 && none[0].contains("room for 0 of 2 views") && none[0].contains("--cache-mib"),
            "{none:?}"
        );
        let directory = workspace.path("cache");
        let flags = ["--cache-dir", directory.to_str().unwrap()];
        assert!(train(&workspace, &views, "files", &flags).is_empty());
        assert_eq!(cached(&directory).len(), 2);
        for output in ["none", "files"] {
            assert!(student(&workspace, output) == student(&workspace, "memory"), "{augmentation}, {output}");
        }
        // Not the student of one view or of new crops in every epoch.
        for (output, cache) in [("one", "views:1"), ("new", "off")] {
            train(&workspace, &merged(views.clone(), json!({"training": {"teacher_cache": cache}})), output, &[]);
            assert!(student(&workspace, output) != student(&workspace, "memory"), "{augmentation}, {output}");
        }
    }
}

#[test]
fn cached_logits_are_shared_between_students_but_not_between_teachers() {
    let workspace = Workspace::new().with_teacher();
    let directory = workspace.path("cache");
    let flags = ["--cache-dir", directory.to_str().unwrap()];
    train(&workspace, &spec(&workspace, json!({})), "one", &flags);
    let [file] = cached(&directory).try_into().unwrap();
    let (before, bytes) = (used(&file), fs::read(&file).unwrap());
    let grid = json!({"student": {"architecture": "resnet14"}, "training": {"seed": 9}});
    train(&workspace, &merged(spec(&workspace, json!({})), grid), "two", &flags);
    assert_eq!(cached(&directory), std::slice::from_ref(&file));
    assert!(used(&file) > before && fs::read(&file).unwrap() == bytes);
    // Settings that change the logits make another file; others do not.
    fs::copy(workspace.path("one/student.safetensors"), workspace.path("teacher/student.safetensors")).unwrap();
    train(&workspace, &spec(&workspace, json!({})), "three", &flags);
    assert_eq!(cached(&directory).len(), 2);
    train(
        &workspace,
        &merged(spec(&workspace, json!({})), json!({"distillation": {"scales": [1, 4]}})),
        "four",
        &flags,
    );
    assert_eq!(cached(&directory).len(), 3);
    let weights = json!({"distillation": {"temperature": 2.0}, "training": {"optimizer": {"learning_rate": 0.01}}});
    train(&workspace, &merged(spec(&workspace, json!({})), weights), "five", &flags);
    assert_eq!(cached(&directory).len(), 3);
}

#[test]
fn runs_with_other_scales_share_one_file_and_have_the_students_of_runs_without_cache() {
    let workspace = Workspace::new().with_teacher();
    let directory = workspace.path("cache");
    let flags = ["--cache-dir", directory.to_str().unwrap(), "--cache-scales", "1,2,4"];
    let mut known: Option<Vec<u8>> = None;
    for (index, scales) in [vec![1, 2], vec![1], vec![4], vec![1, 2, 4]].iter().enumerate() {
        let of = |cache: &str| {
            let distillation = json!({"distillation": {"scales": scales}});
            merged(spec(&workspace, json!({"teacher_cache": cache})), distillation)
        };
        let [off, shared] = ["off", "shared"].map(|name| format!("{name}-{index}"));
        train(&workspace, &of("off"), &off, &[]);
        let events = workspace.finish(&of("exact"), &shared, &flags);
        let says = |event: &Event| matches!(event, Event::Log { message, .. } if message.contains("are kept at scales [1, 2, 4]"));
        let is_said = events.iter().any(says);
        assert_eq!(is_said, scales.len() < 3, "{scales:?}");
        assert!(student(&workspace, &off) == student(&workspace, &shared), "{scales:?}");
        let [file] = cached(&directory).try_into().unwrap();
        let bytes = fs::read(&file).unwrap();
        assert!(known.is_none_or(|known| known == bytes), "{scales:?}");
        known = Some(bytes);
    }
}

#[test]
fn on_a_disk_that_is_too_full_for_other_scales_those_of_the_run_are_kept() {
    let workspace = Workspace::new().with_teacher();
    let directory = workspace.path("cache");
    fs::create_dir(&directory).unwrap();
    if !can_mount(&directory, "teacher_cache::on_a_disk_…") {
        return;
    }
    let spec = merged(spec(&workspace, json!({})), json!({"distillation": {"scales": [1]}}));
    // Scales 1, 2 and 4 of 150 images take 55 kB, and scale 1 alone takes 8.
    let mut command = on_a_disk("28k", &directory, &workspace.command(&spec, "small"));
    command.args(["--cache-dir", directory.to_str().unwrap(), "--cache-scales", "1,2,4", "--data-memory-mib", "0"]);
    let run = command.arg("--events").output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let events: Vec<Event> = text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let warnings = warnings(&events);
    assert!(
        warnings.len() == 1 && warnings[0].contains("too full for the scales that other jobs take"),
        "{warnings:?}"
    );
    train(&workspace, &spec, "usual", &["--data-memory-mib", "0"]);
    assert!(student(&workspace, "small") == student(&workspace, "usual"));
}

#[test]
fn damaged_cache_files_are_reported_and_replaced() {
    let workspace = Workspace::new().with_teacher();
    let spec = spec(&workspace, json!({}));
    let directory = workspace.path("cache");
    let flags = ["--cache-dir", directory.to_str().unwrap()];
    assert!(train(&workspace, &spec, "whole", &flags).is_empty());
    let [file] = cached(&directory).try_into().unwrap();
    let sound = fs::read(&file).unwrap();
    type Harm<'a> = &'a dyn Fn(&mut Vec<u8>);
    let harms: [(&str, Harm<'_>); 6] = [
        ("a flipped bit", &|bytes| bytes[6000] ^= 4),
        ("a byte of a checksum", &|bytes| bytes[4096] ^= 1),
        ("another head", &|bytes| bytes[20] ^= 1),
        ("half of it", &|bytes| bytes.truncate(sound.len() / 2)),
        ("nothing", &|bytes| bytes.clear()),
        ("too much", &|bytes| bytes.push(0)),
    ];
    for (index, (what, harm)) in harms.iter().enumerate() {
        let mut bytes = sound.clone();
        harm(&mut bytes);
        fs::write(&file, bytes).unwrap();
        let output = format!("harmed-{index}");
        let warnings = train(&workspace, &spec, &output, &flags);
        assert!(warnings.len() == 1 && warnings[0].contains("was damaged"), "{what}: {warnings:?}");
        assert!(student(&workspace, &output) == student(&workspace, "whole"), "{what}");
        assert!(fs::read(&file).unwrap() == sound, "{what} is mended");
    }
    // Unwritten rows are not damage: a killed run leaves such a file.
    let mut half = sound.clone();
    half[sound.len() / 2..].fill(0);
    fs::write(&file, half).unwrap();
    let warnings = train(&workspace, &spec, "half", &flags);
    // The row at the border is half written.
    assert!(warnings.len() <= 1, "{warnings:?}");
    assert!(student(&workspace, "half") == student(&workspace, "whole") && fs::read(&file).unwrap() == sound);
    // A directory in place of the file.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let warnings = train(&workspace, &spec, "blocked", &flags);
    assert!(warnings.len() == 1 && warnings[0].contains("cannot be cached"), "{warnings:?}");
    assert!(student(&workspace, "blocked") == student(&workspace, "whole"));
}

#[test]
fn an_unusable_cache_directory_is_only_a_warning() {
    let workspace = Workspace::new().with_teacher();
    let spec = spec(&workspace, json!({}));
    fs::write(workspace.path("file"), "").unwrap();
    let path = workspace.path("file/cache");
    let flags = ["--cache-dir", path.to_str().unwrap(), "--cache-scales", "1,2,4"];
    let warnings = train(&workspace, &spec, "out", &flags);
    assert!(warnings.iter().any(|warning| warning.contains("cannot be used")), "{warnings:?}");
    train(&workspace, &spec, "usual", &[]);
    assert!(student(&workspace, "out") == student(&workspace, "usual"));
}

#[test]
fn concurrent_runs_share_a_cache_directory() {
    let workspace = Workspace::new().with_teacher();
    let directory = workspace.path("cache");
    let views = spec(&workspace, json!({"augmentation": "crop_flip", "teacher_cache": "views:2"}));
    let runs = ["a", "b", "c"].map(|output| {
        let mut command = workspace.command(&views, output);
        command.arg("--cache-dir").arg(&directory).arg("--events").stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    });
    for run in runs {
        let run = run.wait_with_output().unwrap();
        assert!(run.status.success() && !text(&run.stdout).contains("warning"), "{}", text(&run.stdout));
    }
    assert!(
        student(&workspace, "a") == student(&workspace, "b") && student(&workspace, "b") == student(&workspace, "c")
    );
    assert_eq!(cached(&directory).len(), 2);
    let unfinished = fs::read_dir(&directory)
        .unwrap()
        .filter(|entry| text(entry.as_ref().unwrap().file_name().as_encoded_bytes()).starts_with('.'));
    assert_eq!(unfinished.count(), 0);
}

#[test]
fn each_round_of_epochs_visits_every_view_once_in_a_new_order() {
    let rounds: Vec<Vec<u32>> =
        (0..4).map(|round| (0..16).map(|epoch| view_of(3, round * 16 + epoch, 16)).collect()).collect();
    for round in &rounds {
        let mut sorted = round.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..16).collect::<Vec<_>>());
    }
    assert!(rounds.windows(2).all(|pair| pair[0] != pair[1]), "{rounds:?}");
    assert_ne!(rounds[0], (0..16).map(|epoch| view_of(4, epoch, 16)).collect::<Vec<_>>());
    assert!((0..9).all(|epoch| view_of(3, epoch, 1) == 0));
}

/// The assumption behind `exact`: logits do not depend on the other images of a batch. They do depend on their number:
/// those of a single image differ by 3e-5 here.
#[test]
fn teacher_logits_of_an_image_do_not_depend_on_the_rest_of_the_batch() {
    one_thread();
    let scales = [1, 2, 4];
    for name in ["resnet8x4", "vgg8", "mobilenet_v2", "shufflenet_v1"] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut network = models::build(architecture::find(name).unwrap(), 100, 1);
            network.place(Device::Cpu, Kind::Float);
            network.compute_in(kind);
            network.freeze(32, 32);
            let images = hashed(&[32, 3, 32, 32], 7).to_kind(Kind::Float);
            let logits =
                |images: &Tensor| no_grad(|| network.logits_by_scale(&network.features(images, false), &scales));
            let all = logits(&images);
            let order = hashed(&[32], 8).argsort(0, false);
            let shuffled = logits(&images.index_select(0, &order));
            assert!(shuffled.equal(&all.index_select(0, &order)), "{name} {kind:?}: another order");
        }
    }
}
