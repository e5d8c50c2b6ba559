//! Decoded images are cached across runs, and stale ones are never used.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use distillery_core::protocol::ErrorClass;
use distillery_trainer::cache::Cache;
use serde_json::{Value, json};

use crate::support::{Workspace, merged, warnings};

fn spec(workspace: &Workspace) -> Value {
    merged(workspace.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}, "training": {"epochs": 1}}))
}

/// Trains to the end and returns the warnings.
fn train(workspace: &Workspace, spec: &Value, output: &str) -> Vec<String> {
    let cache = workspace.path("cache");
    let events = workspace.finish(spec, output, &["--cache-dir", cache.to_str().unwrap()]);
    warnings(&events).into_iter().map(str::to_owned).collect()
}

fn kept(workspace: &Workspace, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(workspace.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let is_wanted = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(kind);
    let mut files: Vec<_> = entries.filter(is_wanted).collect();
    files.sort();
    files
}

/// Changes the content of a file but not its size, modification time or inode.
fn change_keeping_the_time(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

/// Darker images are harder, and a run may warn of that.
fn assert_none_of_the_cache(warnings: &[String]) {
    assert!(!warnings.iter().any(|warning| warning.contains("cache")), "{warnings:?}");
}

#[test]
fn cached_images_are_not_decoded_again_and_give_the_same_student() {
    let workspace = Workspace::new().with_teacher();
    assert!(workspace.train(&spec(&workspace), "plain", &[]).status.success());
    for output in ["first", "second"] {
        assert!(train(&workspace, &spec(&workspace), output).is_empty());
        assert!(
            workspace.bytes(format!("{output}/student.safetensors")) == workspace.bytes("plain/student.safetensors")
        );
        assert_eq!((kept(&workspace, "images-").len(), kept(&workspace, "evaluation-").len()), (2, 1));
    }
    for key in ["data", "teacher"] {
        assert_eq!(workspace.json("second/manifest.json")[key], workspace.json("plain/manifest.json")[key]);
    }
    assert_eq!(workspace.json("second/regions.json"), workspace.json("plain/regions.json"));
    // A limit makes another set of images.
    train(&workspace, &merged(spec(&workspace), json!({"dataset": {"limit": 100}})), "limited");
    assert_eq!(workspace.json("limited/manifest.json")["data"]["train_images"], 100);
    assert_eq!(kept(&workspace, "images-").len(), 3);
}

#[test]
fn stale_cached_images_never_reach_a_student() {
    let workspace = Workspace::new().with_teacher();
    train(&workspace, &spec(&workspace), "before");
    let images = workspace.path("data/train-images-idx3-ubyte");
    // A change with a new modification time: the images are decoded again.
    let darker = |bytes: &mut Vec<u8>| bytes[16..].iter_mut().for_each(|pixel| *pixel /= 2);
    let mut bytes = fs::read(&images).unwrap();
    darker(&mut bytes);
    fs::write(&images, bytes).unwrap();
    assert_none_of_the_cache(&train(&workspace, &spec(&workspace), "darker"));
    assert!(workspace.bytes("darker/student.safetensors") != workspace.bytes("before/student.safetensors"));
    assert_eq!(kept(&workspace, "images-").len(), 3);
    // A change that keeps the time: the run notices before it writes a manifest, and the next run decodes again.
    change_keeping_the_time(&images, darker);
    let cache = workspace.path("cache");
    let failure = workspace.fail(&spec(&workspace), "secret", &["--cache-dir", cache.to_str().unwrap()]);
    assert_eq!(failure.class, ErrorClass::Storage);
    assert!(
        failure.message.contains("have changed") && failure.message.contains("run it again"),
        "{}",
        failure.message
    );
    assert!(!workspace.path("secret/manifest.json").exists() && kept(&workspace, "images-").len() == 2);
    assert_none_of_the_cache(&train(&workspace, &spec(&workspace), "again"));
    assert!(workspace.train(&spec(&workspace), "uncached", &[]).status.success());
    assert!(workspace.bytes("again/student.safetensors") == workspace.bytes("uncached/student.safetensors"));
}

#[test]
fn damaged_cache_files_are_rebuilt() {
    let workspace = Workspace::new().with_teacher();
    train(&workspace, &spec(&workspace), "whole");
    let sound: Vec<(PathBuf, Vec<u8>)> = ["images-", "evaluation-"]
        .iter()
        .flat_map(|kind| kept(&workspace, kind))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    type Harm<'a> = &'a dyn Fn(&mut Vec<u8>);
    let harms: [(&str, Harm<'_>); 5] = [
        ("a flipped bit at the end", &|bytes| *bytes.last_mut().unwrap() ^= 1),
        ("a flipped bit at the start", &|bytes| bytes[30] ^= 1),
        ("a number of images that is too large", &|bytes| {
            let end = bytes.len().min(4248);
            bytes[end - 8..end].fill(0xff);
        }),
        ("half of it", &|bytes| bytes.truncate(bytes.len() / 2)),
        ("nothing", &|bytes| bytes.clear()),
    ];
    for (index, (what, harm)) in harms.iter().enumerate() {
        for (path, bytes) in &sound {
            let mut bytes = bytes.clone();
            harm(&mut bytes);
            fs::write(path, bytes).unwrap();
        }
        let output = format!("harmed-{index}");
        let warnings = train(&workspace, &spec(&workspace), &output);
        assert_eq!(warnings.len(), 2, "{what}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains("decoding the split again")), "{what}: {warnings:?}");
        assert!(
            workspace.bytes(format!("{output}/student.safetensors")) == workspace.bytes("whole/student.safetensors")
        );
        assert!(sound.iter().all(|(path, bytes)| fs::read(path).unwrap() == *bytes), "{what} is mended");
    }
}

#[test]
fn the_least_recently_used_entry_is_evicted_first() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path(), 1000).unwrap();
    let path = |name: &str| cache.path("test", name);
    let put = |name: &str, length| cache.put(&path(name), length, |file| file.write_all(b"content")).map(drop);
    for (name, minutes) in [("old", 3), ("older", 5), ("new", 1)] {
        put(name, 300).unwrap();
        let used = SystemTime::now() - Duration::from_secs(60 * minutes);
        File::options().write(true).open(path(name)).unwrap().set_modified(used).unwrap();
    }
    // A lookup counts as a use.
    assert!(Cache::find(&path("older")).unwrap().is_some() && Cache::find(&path("none")).unwrap().is_none());
    put("newest", 350).unwrap();
    let there = |name: &str| path(name).exists();
    assert_eq!(["old", "older", "new", "newest"].map(there), [false, true, true, true]);
    let error = put("huge", 1001).unwrap_err();
    assert!(error.to_string().contains("1001 bytes") && ["older", "new", "newest"].into_iter().all(there), "{error}");
    // A replaced entry does not count towards the limit.
    put("newest", 400).unwrap();
    assert!(["older", "new", "newest"].into_iter().all(there));
    assert_eq!(fs::read(path("newest")).unwrap().len(), 400);
    // Foreign files are left alone. Partial files of killed processes are removed once they are old.
    fs::write(directory.path().join("foreign"), [0; 2000]).unwrap();
    for (name, hours) in [(".part-old", 30), (".part-new", 1)] {
        let file = File::create(directory.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3600 * hours)).unwrap();
    }
    put("newest", 350).unwrap();
    let left = |name: &str| directory.path().join(name).exists();
    assert_eq!([left("foreign"), left(".part-old"), left(".part-new"), there("older")], [true, false, true, true]);
}
