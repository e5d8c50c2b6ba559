//! Keeping the teacher's logits saves time and changes nothing; views are what was asked for.

use std::fs;
use std::path::{Path, PathBuf};

use distillery::architecture;
use distillery::protocol::{Event, Level};
use distillery_trainer::data::view_of;
use distillery_trainer::loss::sdd::Regions;
use distillery_trainer::models;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::support::torch::{hashed, one_thread};
use crate::support::{Place, merged, text};

/// A student of a teacher's regions, in four epochs; the last batch is smaller than the others.
fn spec(place: &Place, training: Value) -> Value {
    let training = merged(json!({"epochs": 4, "precision": "float32"}), training);
    merged(place.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}, "training": training}))
}

fn student(place: &Place, output: &str) -> Vec<u8> {
    place.bytes(&format!("{output}/student-last.safetensors"))
}

/// Trains to the end, with flags, and gives the warnings.
fn train(place: &Place, spec: &Value, output: &str, flags: &[&str]) -> Vec<String> {
    let run = place.train(spec, output, &[&["--events"], flags].concat());
    let events: Vec<Event> = text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(matches!(events.last(), Some(Event::Finished(_))), "{:?}", events.last());
    let warning = |event: Event| match event {
        Event::Log { level: Level::Warning, message } => Some(message),
        _ => None,
    };
    events.into_iter().filter_map(warning).collect()
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
fn exact_logits_give_the_student_that_the_teacher_itself_gives() {
    let place = Place::new().with_teacher();
    assert!(train(&place, &spec(&place, json!({"teacher_cache": "off"})), "off", &[]).is_empty());
    assert!(train(&place, &spec(&place, json!({})), "memory", &[]).is_empty());
    let directory = place.path("cache");
    let flags = ["--cache-dir", directory.to_str().unwrap()];
    assert!(train(&place, &spec(&place, json!({})), "first", &flags).is_empty());
    assert!(train(&place, &spec(&place, json!({"epochs": 4})), "second", &flags).is_empty());
    for output in ["memory", "first", "second"] {
        assert!(student(&place, output) == student(&place, "off"), "{output}");
    }
    let manifest = |output: &str| place.json(&format!("{output}/manifest.json"))["specification"]["training"].clone();
    assert_eq!(
        (&manifest("off")["teacher_cache"], &manifest("memory")["teacher_cache"]),
        (&json!("off"), &json!("exact"))
    );
    // Without the scale of the whole image, whose logits decide about the groups all the same.
    let of_regions =
        |cache: &str| merged(spec(&place, json!({"teacher_cache": cache})), json!({"distillation": {"scales": [2]}}));
    train(&place, &of_regions("off"), "regions-off", &[]);
    train(&place, &of_regions("exact"), "regions-exact", &[]);
    assert!(student(&place, "regions-off") == student(&place, "regions-exact"));
}

#[test]
fn views_give_the_same_student_whatever_is_kept() {
    // Crops that are drawn of images in memory, and of images that are decoded anew in every epoch.
    for augmentation in ["crop_flip", "resized_crop_flip"] {
        let place = Place::new().with_teacher();
        let views = spec(&place, json!({"augmentation": augmentation, "teacher_cache": "views:2"}));
        assert!(train(&place, &views, "memory", &[]).is_empty());
        let none = train(&place, &views, "none", &["--cache-mib", "0"]);
        assert!(
            none.len() == 1 && none[0].contains("room for 0 of 2 views") && none[0].contains("--cache-mib"),
            "{none:?}"
        );
        let directory = place.path("cache");
        let flags = ["--cache-dir", directory.to_str().unwrap()];
        assert!(train(&place, &views, "files", &flags).is_empty());
        assert_eq!(cached(&directory).len(), 2);
        for output in ["none", "files"] {
            assert!(student(&place, output) == student(&place, "memory"), "{augmentation}, {output}");
        }
        // It is another training than with one view or with new crops in every epoch.
        for (output, cache) in [("one", "views:1"), ("new", "off")] {
            train(&place, &merged(views.clone(), json!({"training": {"teacher_cache": cache}})), output, &[]);
            assert!(student(&place, output) != student(&place, "memory"), "{augmentation}, {output}");
        }
    }
}

#[test]
fn what_one_run_kept_another_student_finds_and_another_teacher_does_not() {
    let place = Place::new().with_teacher();
    let directory = place.path("cache");
    let flags = ["--cache-dir", directory.to_str().unwrap()];
    train(&place, &spec(&place, json!({})), "one", &flags);
    let [file] = cached(&directory).try_into().unwrap();
    let (before, bytes) = (used(&file), fs::read(&file).unwrap());
    let grid = json!({"student": {"architecture": "resnet14"}, "training": {"seed": 9}});
    train(&place, &merged(spec(&place, json!({})), grid), "two", &flags);
    assert_eq!(cached(&directory), std::slice::from_ref(&file));
    assert!(used(&file) > before && fs::read(&file).unwrap() == bytes);
    // What decides about the logits makes another file, and what does not does not.
    fs::copy(place.path("one/student.safetensors"), place.path("teacher/student.safetensors")).unwrap();
    train(&place, &spec(&place, json!({})), "three", &flags);
    assert_eq!(cached(&directory).len(), 2);
    train(&place, &merged(spec(&place, json!({})), json!({"distillation": {"scales": [1, 4]}})), "four", &flags);
    assert_eq!(cached(&directory).len(), 3);
    let weights = json!({"distillation": {"temperature": 2.0}, "training": {"optimizer": {"learning_rate": 0.01}}});
    train(&place, &merged(spec(&place, json!({})), weights), "five", &flags);
    assert_eq!(cached(&directory).len(), 3);
}

#[test]
fn damaged_files_are_told_of_and_not_used() {
    let place = Place::new().with_teacher();
    let spec = spec(&place, json!({}));
    let directory = place.path("cache");
    let flags = ["--cache-dir", directory.to_str().unwrap()];
    assert!(train(&place, &spec, "whole", &flags).is_empty());
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
        let warnings = train(&place, &spec, &output, &flags);
        assert!(warnings.len() == 1 && warnings[0].contains("was damaged"), "{what}: {warnings:?}");
        assert!(student(&place, &output) == student(&place, "whole"), "{what}");
        assert!(fs::read(&file).unwrap() == sound, "{what} is mended");
    }
    // Rows that were not written yet are no damage: a run that was killed leaves such a file.
    let mut half = sound.clone();
    half[sound.len() / 2..].fill(0);
    fs::write(&file, half).unwrap();
    let warnings = train(&place, &spec, "half", &flags);
    // The row across the border is torn.
    assert!(warnings.len() <= 1, "{warnings:?}");
    assert!(student(&place, "half") == student(&place, "whole") && fs::read(&file).unwrap() == sound);
    // Something that is no file is in the way.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let warnings = train(&place, &spec, "blocked", &flags);
    assert!(warnings.len() == 1 && warnings[0].contains("cannot be cached"), "{warnings:?}");
    assert!(student(&place, "blocked") == student(&place, "whole"));
}

#[test]
fn a_directory_that_cannot_be_used_costs_time_only() {
    let place = Place::new().with_teacher();
    let spec = spec(&place, json!({}));
    fs::write(place.path("file"), "").unwrap();
    let path = place.path("file/cache");
    let warnings = train(&place, &spec, "out", &["--cache-dir", path.to_str().unwrap()]);
    assert!(warnings.iter().any(|warning| warning.contains("cannot be used")), "{warnings:?}");
    assert!(place.path("out/student.safetensors").exists());
}

#[test]
fn several_runs_fill_one_directory_at_once() {
    let place = Place::new().with_teacher();
    let directory = place.path("cache");
    let views = spec(&place, json!({"augmentation": "crop_flip", "teacher_cache": "views:2"}));
    let runs = ["a", "b", "c"].map(|output| {
        let mut command = place.command(&views, output);
        command.arg("--cache-dir").arg(&directory).arg("--events").stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    });
    for run in runs {
        let run = run.wait_with_output().unwrap();
        assert!(run.status.success() && !text(&run.stdout).contains("warning"), "{}", text(&run.stdout));
    }
    assert!(student(&place, "a") == student(&place, "b") && student(&place, "b") == student(&place, "c"));
    assert_eq!(cached(&directory).len(), 2);
    let unfinished = fs::read_dir(&directory)
        .unwrap()
        .filter(|entry| text(entry.as_ref().unwrap().file_name().as_encoded_bytes()).starts_with('.'));
    assert_eq!(unfinished.count(), 0);
}

#[test]
fn every_view_comes_once_in_as_many_epochs_and_in_another_order_each_time() {
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

/// What `exact` rests on: what a teacher says of an image does not depend on which images are beside it. On how many, it
/// does: a single image is off by 3e-5 here.
#[test]
fn a_teacher_says_the_same_of_an_image_in_any_batch_of_that_size() {
    one_thread();
    let scales = [1, 2, 4];
    for name in ["resnet8x4", "vgg8", "mobilenet_v2", "shufflenet_v1"] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut network = models::build(architecture::find(name).unwrap(), 100, 1);
            network.place(Device::Cpu, Kind::Float);
            network.compute_in(kind);
            network.freeze(32, 32);
            let images = hashed(&[32, 3, 32, 32], 7).to_kind(Kind::Float);
            let logits = |images: &Tensor| {
                no_grad(|| Regions::joined(&network.regions(&network.features(images, false), &scales), &scales))
            };
            let all = logits(&images);
            let order = hashed(&[32], 8).argsort(0, false);
            let shuffled = logits(&images.index_select(0, &order));
            assert!(shuffled.equal(&all.index_select(0, &order)), "{name} {kind:?}: another order");
        }
    }
}
