//! Promise: a run tells what its best student gets wrong and what its teacher makes of the same images, without
//! evaluating either again.

use distillery_core::checkpoint::Checkpoint;
use distillery_core::predictions::{NetworkPredictions, PredictionFile, PredictionOutcome, PredictionReport, read};
use distillery_core::protocol::Event;
use serde_json::{Value, json};

use crate::support::bounded::U;
use crate::support::{Workspace, merged, text, trainer, warnings};

fn file(workspace: &Workspace, output: &str) -> PredictionFile {
    read(&workspace.path(format!("{output}/predictions.safetensors"))).unwrap()
}

fn report(workspace: &Workspace, output: &str) -> PredictionReport {
    serde_json::from_value(workspace.json(&format!("{output}/predictions.json"))).unwrap()
}

/// What `evaluate` says: the logits [50, 4] of a checkpoint, as rows.
fn logits(workspace: &Workspace, checkpoint: &str) -> Vec<[f32; 4]> {
    let path = workspace.path("logits.safetensors");
    let mut command = trainer("evaluate");
    command.args(["--architecture", "resnet8", "--checkpoint"]).arg(workspace.path(checkpoint));
    command.arg("--dataset").arg(workspace.path("data")).arg("--logits").arg(&path);
    let run = command.output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let file = Checkpoint::open_as_written(&path).unwrap();
    let values = file.floats(file.get("logits").unwrap()).unwrap();
    values.as_chunks::<4>().0.to_vec()
}

/// Computes by hand what the logits predict, and compares.
fn assert_answers(answers: &NetworkPredictions, labels: &[u32], logits: &[[f32; 4]]) {
    assert_eq!(logits.len(), labels.len());
    for (image, (logits, &label)) in logits.iter().zip(labels).enumerate() {
        let exponentials = logits.map(|logit| f64::from(logit).exp());
        let probability = |class: u32| exponentials[class as usize] / exponentials.iter().sum::<f64>();
        let predicted = (0..4).max_by(|&one, &other| probability(one).total_cmp(&probability(other))).unwrap();
        assert_eq!(answers.predicted[image], predicted, "image {image}: {logits:?}");
        // Other batches have other kernels, so the logits may differ by the roundings of a network's sums; and a
        // probability moves by half of what its logit does at most.
        let largest = logits.iter().fold(1.0, |largest: f64, logit| largest.max(f64::from(logit.abs())));
        let allowed = 1024.0 * U * largest;
        let near = |found: f32, expected: f64| (f64::from(found) - expected).abs() < allowed;
        assert!(near(answers.confidence[image], probability(predicted)), "image {image}: {logits:?}");
        assert!(near(answers.of_label[image], probability(label)), "image {image}: {logits:?}");
    }
}

fn distilled(workspace: &Workspace) -> Value {
    let changes = json!({"distillation": {"scales": [1, 2]}, "training": {"precision": "float32"}});
    merged(workspace.distilled("sdd_kd"), changes)
}

#[test]
fn predictions_are_those_of_the_logits_of_the_best_student_and_the_teacher() {
    let workspace = Workspace::new().with_teacher();
    workspace.finish(&distilled(&workspace), "out", &[]);
    let PredictionFile { split, predictions, .. } = file(&workspace, "out");
    assert_eq!((split.as_str(), predictions.classes, predictions.len()), ("test", 4, 50));
    assert_eq!(predictions.positions, (0..50).collect::<Vec<_>>());
    assert_eq!(predictions.labels, (0..50).map(|image| image % 4).collect::<Vec<_>>());
    let of_student = logits(&workspace, "out/student.safetensors");
    assert_answers(&predictions.student, &predictions.labels, &of_student);
    let of_teacher = logits(&workspace, "teacher/student.safetensors");
    assert_answers(predictions.teacher.as_ref().unwrap(), &predictions.labels, &of_teacher);
}

#[test]
fn the_report_agrees_with_the_other_files_of_the_run() {
    let workspace = Workspace::new().with_teacher();
    let events = workspace.finish(&distilled(&workspace), "out", &[]);
    let (report, file) = (report(&workspace, "out"), file(&workspace, "out"));
    let wrong = report.outcomes.student_wrong + report.outcomes.both_wrong;
    let of_teacher = format!("its teacher is right about {} of these", report.outcomes.student_wrong);
    let says = |event: &Event| {
        let Event::Log { message, .. } = event else { return false };
        message.contains(&format!("is wrong about {wrong} of 50 evaluation images")) && message.contains(&of_teacher)
    };
    assert!(events.iter().any(says), "{events:?}");
    // Reading JSON may change the last bit of a number.
    let counted = serde_json::to_string(&file.predictions.report(&file.split, file.names.as_deref())).unwrap();
    assert_eq!(report, serde_json::from_str(&counted).unwrap());
    let manifest = workspace.json("out/manifest.json");
    let near = |found: f64, expected: &Value| (found - expected.as_f64().unwrap()).abs() < 1e-9;
    assert!(near(report.student.top1, &manifest["best"]["evaluation"]["top1"]), "{report:?}");
    assert!(near(report.teacher.as_ref().unwrap().top1, &manifest["teacher"]["evaluation"]["top1"]), "{report:?}");
    let classes = workspace.json("out/classes.json");
    for (class, counted) in report.classes.iter().zip(classes.as_array().unwrap()) {
        assert!(near(class.student.unwrap(), &counted["recall"]), "{class:?} {counted}");
        assert_eq!(class.images, counted["images"], "{class:?}");
    }
    assert_eq!(report.cells.iter().map(|cell| cell.student).sum::<u64>(), 50);
    assert_eq!(report.cells.iter().map(|cell| cell.teacher).sum::<u64>(), 50);
}

#[test]
fn pictures_show_the_images_and_what_both_networks_see_in_their_regions() {
    let workspace = Workspace::new().with_teacher();
    workspace.finish(&distilled(&workspace), "out", &[]);
    let file = file(&workspace, "out");
    // There are fewer images than pictures.
    let pictures = file.pictures.unwrap();
    assert_eq!((pictures.images.clone(), pictures.side), ((0..50).collect::<Vec<u32>>(), 8));
    let stored = workspace.bytes("data/t10k-images-idx3-ubyte");
    for image in [0_usize, 31] {
        let grey = &stored[16 + 64 * image..][..64];
        assert_eq!(pictures.planes(image), [grey; 3].concat());
    }
    let regions = pictures.regions.unwrap();
    assert_eq!((regions.scales.as_slice(), regions.of_image(), regions.student.len()), (&[1, 2][..], 5, 250));
    // The region of scale 1 is the whole image.
    let whole = |votes: &[u32]| votes.iter().step_by(5).copied().collect::<Vec<u32>>();
    assert_eq!(whole(&regions.student), file.predictions.student.predicted);
    assert_eq!(whole(&regions.teacher), file.predictions.teacher.as_ref().unwrap().predicted);
    let fraction = regions.complementary.iter().filter(|&&is| is).count() as f64 / 250.0;
    let counted = workspace.json("out/regions.json")["complementary_fraction"].as_f64().unwrap();
    assert!((fraction - counted).abs() < 1e-9, "{fraction} {counted}");
    let right: u32 = (0..50).map(|image| u32::from(file.predictions.outcome(image) == PredictionOutcome::Right)).sum();
    assert_eq!(u64::from(right), report(&workspace, "out").outcomes.right);
}

#[test]
fn pictures_are_left_out_where_the_operator_says_so() {
    let workspace = Workspace::new();
    workspace.finish(&workspace.plain(), "out", &["--no-samples"]);
    let file = file(&workspace, "out");
    assert!(file.pictures.is_none() && file.predictions.teacher.is_none());
    let report = report(&workspace, "out");
    assert!(report.teacher.is_none() && report.agreement.is_none() && report.images == 50, "{report:?}");
}

#[test]
fn a_teacher_whose_evaluation_is_cached_has_the_same_predictions() {
    let workspace = Workspace::new().with_teacher();
    let cache = workspace.path("cache");
    let flags = ["--cache-dir", cache.to_str().unwrap()];
    for output in ["first", "second"] {
        workspace.finish(&distilled(&workspace), output, &flags);
    }
    let [first, second] =
        ["first", "second"].map(|output| workspace.bytes(format!("{output}/predictions.safetensors")));
    assert!(first == second);
}

#[test]
fn two_ranks_note_the_predictions_of_one() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"devices": 2, "precision": "float32"}}));
    let run = workspace.command_on("cpu,cpu", &spec, "two").arg("--events").output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let predictions = file(&workspace, "two").predictions;
    assert_eq!(predictions.positions, (0..50).collect::<Vec<_>>());
    assert_answers(&predictions.student, &predictions.labels, &logits(&workspace, "two/student.safetensors"));
}

#[test]
fn a_streamed_split_has_its_pictures_too() {
    let workspace = Workspace::new().with_teacher();
    workspace.finish(&distilled(&workspace), "whole", &[]);
    // Room for none of the images.
    workspace.finish(&distilled(&workspace), "streamed", &["--data-memory-mib", "0"]);
    let [whole, streamed] = ["whole", "streamed"].map(|output| file(&workspace, output));
    assert_eq!(streamed.predictions.positions, whole.predictions.positions);
    let of_teacher = |file: &PredictionFile| file.predictions.teacher.as_ref().unwrap().predicted.clone();
    assert_eq!(of_teacher(&streamed), of_teacher(&whole));
    let [whole, streamed] = [whole, streamed].map(|file| file.pictures.unwrap());
    assert_eq!((streamed.images, streamed.pixels), (whole.images, whole.pixels));
}

#[test]
fn a_run_that_cannot_write_its_predictions_warns_and_keeps_its_students() {
    let workspace = Workspace::new();
    // A file cannot take the place of a directory.
    std::fs::create_dir_all(workspace.path("out/predictions.safetensors")).unwrap();
    let events = workspace.finish(&workspace.plain(), "out", &[]);
    let said = warnings(&events);
    assert!(said.iter().any(|message| message.contains("what the student gets wrong was not written")), "{said:?}");
    assert!(matches!(events.last(), Some(Event::Finished(_))));
}
