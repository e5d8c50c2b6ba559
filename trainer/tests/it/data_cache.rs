//! Images are decoded once for all runs, and only images that are still the data set's are used.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use distillery::protocol::{Event, Level};
use distillery_trainer::cache::Cache;
use serde_json::{Value, json};

use crate::support::{Place, merged, text};

fn spec(place: &Place) -> Value {
    merged(place.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}, "training": {"epochs": 1}}))
}

fn events(place: &Place, spec: &Value, output: &str) -> Vec<Event> {
    let run = place.train(spec, output, &["--events", "--cache-dir", place.path("cache").to_str().unwrap()]);
    text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Trains to the end, and gives the warnings.
fn train(place: &Place, spec: &Value, output: &str) -> Vec<String> {
    let events = events(place, spec, output);
    assert!(matches!(events.last(), Some(Event::Finished(_))), "{:?}", events.last());
    let warning = |event: Event| match event {
        Event::Log { level: Level::Warning, message } => Some(message),
        _ => None,
    };
    events.into_iter().filter_map(warning).collect()
}

fn kept(place: &Place, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let is_wanted = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(kind);
    let mut files: Vec<_> = entries.filter(is_wanted).collect();
    files.sort();
    files
}

/// Writes into a file and leaves its size, its times and its place on the disk as they were.
fn change_in_secret(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn what_was_decoded_once_is_not_decoded_again_and_gives_the_same_student() {
    let place = Place::new().with_teacher();
    assert!(place.train(&spec(&place), "plain", &[]).status.success());
    for output in ["first", "second"] {
        assert!(train(&place, &spec(&place), output).is_empty());
        assert!(place.bytes(&format!("{output}/student.safetensors")) == place.bytes("plain/student.safetensors"));
        assert_eq!((kept(&place, "images-").len(), kept(&place, "evaluation-").len()), (2, 1));
    }
    for key in ["data", "teacher"] {
        assert_eq!(place.json("second/manifest.json")[key], place.json("plain/manifest.json")[key]);
    }
    assert_eq!(place.json("second/regions.json"), place.json("plain/regions.json"));
    // A limit or another side are other images.
    train(&place, &merged(spec(&place), json!({"dataset": {"limit": 100}})), "limited");
    assert_eq!(place.json("limited/manifest.json")["data"]["train_images"], 100);
    assert_eq!(kept(&place, "images-").len(), 3);
}

#[test]
fn images_of_files_that_were_changed_are_never_used_for_a_student() {
    let place = Place::new().with_teacher();
    train(&place, &spec(&place), "before");
    let images = place.path("data/train-images-idx3-ubyte");
    // In the usual way: it has another time, and is decoded anew.
    let darker = |bytes: &mut Vec<u8>| bytes[16..].iter_mut().for_each(|pixel| *pixel /= 2);
    let mut bytes = fs::read(&images).unwrap();
    darker(&mut bytes);
    fs::write(&images, bytes).unwrap();
    assert!(train(&place, &spec(&place), "darker").is_empty());
    assert!(place.bytes("darker/student.safetensors") != place.bytes("before/student.safetensors"));
    assert_eq!(kept(&place, "images-").len(), 3);
    // In secret: the run finds out before it writes a manifest, and the next one decodes anew.
    change_in_secret(&images, darker);
    let events = events(&place, &spec(&place), "secret");
    let Some(Event::Failed(failure)) = events.last() else { panic!("{:?}", events.last()) };
    assert_eq!(failure.class.name(), "storage");
    assert!(
        failure.message.contains("have changed") && failure.message.contains("run it again"),
        "{}",
        failure.message
    );
    assert!(!place.path("secret/manifest.json").exists() && kept(&place, "images-").len() == 2);
    assert!(train(&place, &spec(&place), "again").is_empty());
    assert!(place.train(&spec(&place), "uncached", &[]).status.success());
    assert!(place.bytes("again/student.safetensors") == place.bytes("uncached/student.safetensors"));
}

#[test]
fn damaged_files_are_decoded_or_found_anew() {
    let place = Place::new().with_teacher();
    train(&place, &spec(&place), "whole");
    let sound: Vec<(PathBuf, Vec<u8>)> = ["images-", "evaluation-"]
        .iter()
        .flat_map(|kind| kept(&place, kind))
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
        let warnings = train(&place, &spec(&place), &output);
        assert_eq!(warnings.len(), 2, "{what}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains("decoding the split again")), "{what}: {warnings:?}");
        assert!(place.bytes(&format!("{output}/student.safetensors")) == place.bytes("whole/student.safetensors"));
        assert!(sound.iter().all(|(path, bytes)| fs::read(path).unwrap() == *bytes), "{what} is mended");
    }
}

#[test]
fn what_was_used_longest_ago_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path(), 1000).unwrap();
    let path = |name: &str| cache.path("test", name);
    let put = |name: &str, length| cache.put(&path(name), length, |file| file.write_all(b"content")).map(drop);
    for (name, minutes) in [("old", 3), ("older", 5), ("new", 1)] {
        put(name, 300).unwrap();
        let used = SystemTime::now() - Duration::from_secs(60 * minutes);
        File::options().write(true).open(path(name)).unwrap().set_modified(used).unwrap();
    }
    // Finding makes young.
    assert!(Cache::find(&path("older")).unwrap().is_some() && Cache::find(&path("none")).unwrap().is_none());
    put("newest", 350).unwrap();
    let there = |name: &str| path(name).exists();
    assert_eq!(["old", "older", "new", "newest"].map(there), [false, true, true, true]);
    let error = put("huge", 1001).unwrap_err();
    assert!(error.to_string().contains("1001 bytes") && ["older", "new", "newest"].into_iter().all(there), "{error}");
    // What is replaced needs no room beside itself.
    put("newest", 400).unwrap();
    assert!(["older", "new", "newest"].into_iter().all(there));
    assert_eq!(fs::read(path("newest")).unwrap().len(), 400);
    // What others put there is left alone, and what a killed process left is removed when it is old.
    fs::write(directory.path().join("foreign"), [0; 2000]).unwrap();
    for (name, hours) in [(".part-old", 30), (".part-new", 1)] {
        let file = File::create(directory.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3600 * hours)).unwrap();
    }
    put("newest", 350).unwrap();
    let left = |name: &str| directory.path().join(name).exists();
    assert_eq!([left("foreign"), left(".part-old"), left(".part-new"), there("older")], [true, false, true, true]);
}
