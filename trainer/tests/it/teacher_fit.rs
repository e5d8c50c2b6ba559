//! Promise: a teacher whose classes have another order is understood by their names, and one that does not fit the data
//! is told why.

use distillery_core::checkpoint::{Checkpoint, NewTensor, write};
use distillery_core::protocol::{Evaluation, Event};
use serde_json::{Value, json};

use crate::support::bounded::U;
use crate::support::{Workspace, merged, warnings};

/// The order of the permuted teacher's outputs.
const ORDER: [usize; 4] = [1, 2, 0, 3];

/// A workspace with a teacher of the four classes in `good`, and the same with its outputs in another order in
/// `permuted.safetensors`.
fn workspace() -> Workspace {
    let workspace = Workspace::new();
    let longer = json!({"training": {"epochs": 12}});
    workspace.finish(&merged(workspace.plain(), longer), "good", &[]);
    permute(&workspace, "permuted.safetensors", None);
    workspace
}

/// Writes the teacher with its outputs in another order and, if they are given, names of its classes.
fn permute(workspace: &Workspace, name: &str, classes: Option<[&str; 4]>) {
    let read = Checkpoint::open_as_written(&workspace.path("good/student.safetensors")).unwrap();
    let permuted = |name: &str, bytes: Vec<u8>| {
        if !name.starts_with("fc.") {
            return bytes;
        }
        let row = bytes.len() / 4;
        ORDER.iter().flat_map(|&output| bytes[output * row..][..row].to_vec()).collect()
    };
    let bytes: Vec<_> =
        read.tensors().iter().map(|tensor| permuted(tensor.name(), read.bytes(tensor).unwrap())).collect();
    let tensors: Vec<_> = read.tensors().iter().zip(&bytes).collect();
    let tensors: Vec<_> = tensors
        .into_iter()
        .map(|(tensor, bytes)| NewTensor { name: tensor.name(), dtype: tensor.dtype(), shape: tensor.shape(), bytes })
        .collect();
    let mut metadata = read.metadata().clone();
    metadata.extend(classes.map(|classes| ("classes".to_owned(), json!(classes).to_string())));
    write(&workspace.path(name), &tensors, &metadata).unwrap();
}

/// A short distillation from a file.
fn taught(workspace: &Workspace, checkpoint: &str, teacher: Value) -> Value {
    let mut changes = json!({"teacher": {"checkpoint": workspace.path(checkpoint)}, "training": {"epochs": 1}});
    changes["teacher"].as_object_mut().unwrap().extend(teacher.as_object().unwrap().clone());
    merged(workspace.distilled("kd"), changes)
}

fn of_teacher(events: &[Event]) -> Evaluation {
    let found = events.iter().find_map(|event| if let Event::Teacher(found) = event { Some(*found) } else { None });
    found.unwrap_or_else(|| panic!("{events:?}"))
}

fn logs(events: &[Event], part: &str) -> bool {
    events.iter().any(|event| matches!(event, Event::Log { message, .. } if message.contains(part)))
}

#[test]
fn permuted_classes_are_guessed_from_the_predictions_and_teacher_classes_puts_them_right() {
    let workspace = workspace();
    let events = workspace.finish(&taught(&workspace, "good/student.safetensors", json!({})), "straight", &[]);
    let straight = of_teacher(&events);
    assert!(straight.top1 > 60.0, "{straight:?}");
    assert!(!logs(&events, "look permuted"), "{events:?}");

    let events = workspace.finish(&taught(&workspace, "permuted.safetensors", json!({})), "permuted", &[]);
    let said = warnings(&events);
    // Class 0 is output 2, class 2 is output 1, and class 1 is output 0.
    let cycle = "the teacher's classes look permuted: 0→2→1→0";
    let remedy = r#"set teacher.classes to ["1","2","0","3"]"#;
    assert!(said.iter().any(|message| message.contains(cycle) && message.contains(remedy)), "{said:?}");

    let declared = json!({"classes": ["1", "2", "0", "3"]});
    let events = workspace.finish(&taught(&workspace, "permuted.safetensors", declared), "declared", &[]);
    let declared = of_teacher(&events);
    assert!(
        declared.top1 == straight.top1 && (declared.loss - straight.loss).abs() < 1024.0 * U * (1.0 + straight.loss),
        "{declared:?} {straight:?}"
    );
    assert!(logs(&events, "by the names in teacher.classes: 3 of 4 change places (0→2→1→0)"), "{events:?}");
    assert!(!logs(&events, "look permuted"), "{events:?}");
}

/// The workspace's images as a folder, whose classes have names.
fn write_folder(workspace: &Workspace) {
    for (prefix, split) in [("train", "train"), ("t10k", "test")] {
        let images = workspace.bytes(format!("data/{prefix}-images-idx3-ubyte"));
        let labels = workspace.bytes(format!("data/{prefix}-labels-idx1-ubyte"));
        for (number, (pixels, label)) in images[16..].chunks(64).zip(&labels[8..]).enumerate() {
            let class = ["ant", "bee", "cat", "dog"][usize::from(*label)];
            let directory = workspace.path(format!("named/{split}/{class}"));
            std::fs::create_dir_all(&directory).unwrap();
            let colours = pixels.iter().flat_map(|&grey| [grey; 3]);
            let picture: Vec<u8> = b"P6 8 8 255\n".iter().copied().chain(colours).collect();
            std::fs::write(directory.join(format!("{number:04}.ppm")), picture).unwrap();
        }
    }
}

#[test]
fn classes_that_the_teachers_file_names_are_found_by_name() {
    let workspace = workspace();
    write_folder(&workspace);
    let folder = json!({"dataset": {"path": workspace.path("named")}});
    let run = |checkpoint: &str, output: &str| {
        workspace.finish(&merged(taught(&workspace, checkpoint, json!({})), folder.clone()), output, &[])
    };
    let straight = of_teacher(&run("good/student.safetensors", "straight"));
    permute(&workspace, "named.safetensors", Some(["Bee", "cat", "ant", "dog"]));
    let events = run("named.safetensors", "named-run");
    assert_eq!(of_teacher(&events).top1, straight.top1);
    assert!(logs(&events, "by the names in its file: 3 of 4 change places (ant→cat→bee→ant)"), "{events:?}");

    permute(&workspace, "others.safetensors", Some(["bee", "cat", "ant", "lion"]));
    let events = run("others.safetensors", "others-run");
    let said = warnings(&events);
    let other = "the teacher's file names \"lion\", which the data set does not have, and not \"dog\"";
    assert!(said.iter().any(|message| message.contains(other)), "{said:?}");
    assert!(said.iter().any(|message| message.contains("look permuted: ant→cat→bee→ant")), "{said:?}");
}

#[test]
fn classes_that_are_not_those_of_the_data_end_the_run() {
    let workspace = Workspace::new().with_teacher();
    for (classes, why) in [
        (json!(["0", "1", "2"]), "teacher.classes has 3 names for 4 classes"),
        (json!(["0", "1", "2", "four"]), "teacher.classes names \"four\", which the data set does not have"),
        (json!(["0", "1", "2", "2"]), "teacher.classes names \"2\" twice"),
    ] {
        let spec = taught(&workspace, "teacher/student.safetensors", json!({"classes": classes}));
        let failure = workspace.fail(&spec, "out", &[]);
        assert!(failure.message.contains(why), "{failure:?}");
    }
}

#[test]
fn a_wrong_normalisation_is_found_among_the_usual_ones() {
    let workspace = workspace();
    // Every pixel is far below what the teacher has seen.
    let wrong = json!({"mean": [10, 10, 10], "std": [0.01, 0.01, 0.01]});
    let events = workspace.finish(&taught(&workspace, "good/student.safetensors", wrong), "wrong", &[]);
    assert!(of_teacher(&events).top1 < 50.0, "{events:?}");
    let said = warnings(&events);
    assert!(said.iter().any(|message| message.contains("the teacher's images look wrongly normalised")), "{said:?}");
    assert!(said.iter().any(|message| message.contains("set teacher.mean to [")), "{said:?}");
}

#[test]
fn a_wrong_normalisation_and_permuted_classes_are_said_together() {
    let workspace = workspace();
    let wrong = json!({"mean": [10, 10, 10], "std": [0.01, 0.01, 0.01]});
    let events = workspace.finish(&taught(&workspace, "permuted.safetensors", wrong), "both", &[]);
    let said = warnings(&events);
    let words = [
        "the teacher's images look wrongly normalised",
        "Its classes look permuted, too: 0→2→1→0",
        r#"set teacher.classes to ["1","2","0","3"]"#,
    ];
    assert!(said.iter().any(|message| words.iter().all(|words| message.contains(words))), "{said:?}");
    assert!(!logs(&events, "blue, green, red"), "{events:?}");
}

#[test]
fn what_is_wrong_is_said_before_a_run_ends_for_its_teacher() {
    let workspace = workspace();
    let least = json!({"min_top1": 99.9, "classes": ["1", "2", "0", "3"]});
    // The classes of the good teacher are in order, so these are wrong.
    let spec = taught(&workspace, "good/student.safetensors", least);
    let events = workspace.events(&spec, "out", &[]);
    assert!(matches!(events.last(), Some(Event::Failed(_))), "{events:?}");
    // The remedy undoes what was declared.
    assert!(logs(&events, r#"set teacher.classes to ["0","1","2","3"]"#), "{events:?}");
}

/// The workspace's images as a folder in colour: the pattern of the label in one channel, and that of any image in the
/// one at the other end.
fn write_coloured(workspace: &Workspace, name: &str, is_reversed: bool) {
    let mut random = 1_u32;
    for (prefix, split) in [("train", "train"), ("t10k", "test")] {
        let images = workspace.bytes(format!("data/{prefix}-images-idx3-ubyte"));
        let labels = workspace.bytes(format!("data/{prefix}-labels-idx1-ubyte"));
        let pictures: Vec<&[u8]> = images[16..].chunks(64).collect();
        let mut any = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            pictures[(random >> 16) as usize % pictures.len()]
        };
        for (number, (&own, label)) in pictures.iter().zip(&labels[8..]).enumerate() {
            let (middle, other) = (any(), any());
            let colours = (0..64).flat_map(|pixel| {
                let [red, blue] = if is_reversed { [other, own] } else { [own, other] };
                [red[pixel], middle[pixel], blue[pixel]]
            });
            let picture: Vec<u8> = b"P6 8 8 255\n".iter().copied().chain(colours).collect();
            let directory = workspace.path(format!("{name}/{split}/{label}"));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(format!("{number:04}.ppm")), picture).unwrap();
        }
    }
}

#[test]
fn a_teacher_of_another_order_of_channels_is_told_from_one_of_another_normalisation() {
    let workspace = Workspace::new();
    write_coloured(&workspace, "rgb", false);
    write_coloured(&workspace, "bgr", true);
    let on = |name: &str| json!({"dataset": {"path": workspace.path(name)}});
    let longer = merged(workspace.plain(), json!({"training": {"epochs": 30}}));
    workspace.finish(&merged(longer, on("rgb")), "good", &[]);
    let taught = taught(&workspace, "good/student.safetensors", json!({}));
    let straight = workspace.finish(&merged(taught.clone(), on("rgb")), "straight", &[]);
    assert!(of_teacher(&straight).top1 > 60.0, "{straight:?}");
    assert!(!logs(&straight, "blue, green, red"), "{straight:?}");
    let reversed = workspace.finish(&merged(taught, on("bgr")), "reversed", &[]);
    assert!(of_teacher(&reversed).top1 < 50.0, "{reversed:?}");
    let said = warnings(&reversed);
    let words = ["expect the channels of images in the order blue, green, red", "weight[:, [2, 1, 0]]"];
    assert!(said.iter().any(|message| words.iter().all(|words| message.contains(words))), "{said:?}");
}
