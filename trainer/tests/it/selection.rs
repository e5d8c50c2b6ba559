//! Which images a run trains and evaluates on, and what it says about them before it starts.

use distillery_core::protocol::{Event, Level};
use serde_json::json;

use crate::support::{Workspace, merged, started, text, trainer, warnings};

/// What a run says before its first epoch.
fn infos(events: &[Event]) -> Vec<&str> {
    let before = events.iter().take_while(|event| !matches!(event, Event::Started(_)));
    before
        .filter_map(|event| match event {
            Event::Log { level: Level::Info, message } => Some(message.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_limit_keeps_all_classes_and_a_lack_of_one_is_said_before_the_run_starts() {
    let workspace = Workspace::new();
    let limited = |limit| merged(workspace.plain(), json!({"dataset": {"limit": limit}, "training": {"epochs": 1}}));
    let events = workspace.finish(&limited(8), "eight", &[]);
    assert_eq!((started(&events).train_images, started(&events).eval_images), (8, 50));
    assert_eq!(
        infos(&events),
        [
            "limit takes 8 of 150 training images, spread over 4 of 4 classes as the split has them and the same for every seed"
        ]
    );
    assert!(!warnings(&events).iter().any(|warning| warning.contains("lack")));
    let events = workspace.finish(&limited(3), "three", &[]);
    let first = events.iter().position(|event| matches!(event, Event::Started(_))).unwrap();
    let warnings = warnings(&events[..first]);
    assert!(
        warnings.iter().any(|warning| warning.contains("lack 1 of the 4 classes that the evaluation has (3)")),
        "{warnings:?}"
    );
}

#[test]
fn a_fraction_of_the_training_split_stands_in_for_a_split() {
    let workspace = Workspace::new();
    for file in ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        std::fs::remove_file(workspace.path("data").join(file)).unwrap();
    }
    let plain = merged(workspace.plain(), json!({"training": {"epochs": 1}}));
    let failure = workspace.fail(&plain, "refused", &[]);
    assert!(
        failure.message.contains("to evaluate on a part of the training split, set eval_fraction"),
        "{}",
        failure.message
    );
    let spec = merged(plain, json!({"dataset": {"eval_fraction": 0.2}}));
    let cache = workspace.path("cache");
    let flags = ["--cache-dir", cache.to_str().unwrap()];
    // The second run finds both parts decoded.
    for output in ["first", "second"] {
        let events = workspace.finish(&spec, output, &flags);
        // 38, 38, 37 and 37 images of four classes, of which 8, 8, 7 and 7 are held out.
        assert_eq!((started(&events).train_images, started(&events).eval_images), (120, 30));
        assert!(infos(&events)[0].starts_with("eval_fraction 0.2 holds out 30 of the 150 images"), "{events:?}");
    }
    assert_eq!(workspace.bytes("first/student.safetensors"), workspace.bytes("second/student.safetensors"));
}

#[test]
fn a_specification_may_begin_with_a_byte_order_mark() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"epochs": 1.0}}));
    let path = workspace.path("marked.json");
    std::fs::write(&path, format!("\u{feff}{spec}")).unwrap();
    let mut command = trainer("train");
    let run = command.arg(&path).arg("--output").arg(workspace.path("marked")).output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
}
