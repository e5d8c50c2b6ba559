//! The texts of a bundle: a model card in Hugging Face's form, and Python that runs the student.

use std::fmt::Write;

use serde_json::Value;

use super::contents::{BundledFile, Contents};
use super::preprocessing::class_names;
use super::{ExportFormat, Student, StudentSource};
use crate::checkpoint::NETWORK;

/// What is told of how a student was made, from its job's manifest.
#[derive(Debug, Default)]
struct Facts {
    method: Option<String>,
    teacher: Option<String>,
    dataset: Option<String>,
    epochs: Option<u64>,
    top1: Option<f64>,
    last_top1: Option<f64>,
    teacher_top1: Option<f64>,
    teacher_sha256: Option<String>,
    teacher_network_sha256: Option<String>,
    seed: Option<u64>,
}

impl Facts {
    fn of(manifest: &Value) -> Self {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).map(plain);
        let number = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_f64);
        let whole = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_u64);
        let place = text("/specification/dataset/name").or_else(|| {
            let path = text("/specification/dataset/path")?;
            path.rsplit('/').find(|part| !part.is_empty()).map(str::to_owned)
        });
        Self {
            method: text("/specification/distillation/method"),
            teacher: text("/specification/teacher/architecture"),
            dataset: place,
            epochs: whole("/specification/training/epochs"),
            top1: number("/best/evaluation/top1"),
            last_top1: number("/last/evaluation/top1"),
            teacher_top1: number("/teacher/evaluation/top1"),
            teacher_sha256: text("/teacher/sha256"),
            teacher_network_sha256: text("/teacher/network_sha256"),
            seed: whole("/seed"),
        }
    }
}

/// A text without what has a meaning in YAML or Markdown, and not too long.
fn plain(text: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || " ._-/+".contains(c);
    text.chars().take(100).map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// The student's architecture, or the name that the exported network was given.
fn network(student: &Student, given: Option<&str>) -> String {
    match student.source() {
        StudentSource::Zoo(architecture) => architecture.name.to_owned(),
        StudentSource::Exported(_) => exported(given),
    }
}

fn exported(given: Option<&str>) -> String {
    match given {
        Some(name) => format!("{} (exported network)", plain(name)),
        None => "exported network".to_owned(),
    }
}

/// The SHA-256 of the file with the graph of a student that came as an exported network.
fn graph_sha256(student: &Student) -> Option<String> {
    let is_exported = matches!(student.source(), StudentSource::Exported(_));
    student.metadata().get(NETWORK).filter(|_| is_exported).map(|sha256| plain(sha256))
}

/// The teacher's architecture, or the name that the exported network was given.
fn teacher(facts: &Facts, given: Option<&str>) -> Option<String> {
    let has_teacher = facts.teacher_top1.is_some() || facts.teacher_sha256.is_some();
    facts.teacher.clone().or_else(|| has_teacher.then(|| exported(given)))
}

/// `README.md`.
pub(super) fn readme(student: &Student, contents: &Contents<'_>) -> String {
    let facts = contents.manifest.map(Facts::of).unwrap_or_default();
    let mut card = String::new();
    front_matter(&mut card, &facts, student);
    let network = network(student, contents.network);
    let [channels, height, width] = student.input();
    let _ = write!(
        card,
        "\n# {}\n\nAn image classifier with {} classes: {network}, {} parameters, images of {channels}×{height}×{width}.\n",
        plain(contents.name),
        student.classes(),
        student.parameters()
    );
    let _ = writeln!(card, "\n| | |\n| --- | --- |");
    let row = |card: &mut String, name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(card, "| {name} | {value} |");
        }
    };
    let percent = |top1: f64| format!("{top1:.2} %");
    row(&mut card, "network", Some(network));
    row(&mut card, "SHA-256 of the network's graph", graph_sha256(student));
    row(&mut card, "method", facts.method.clone());
    row(&mut card, "teacher", teacher(&facts, contents.teacher));
    row(&mut card, "SHA-256 of the teacher's file", facts.teacher_sha256.clone());
    row(&mut card, "SHA-256 of the teacher's graph", facts.teacher_network_sha256.clone());
    row(&mut card, "data", facts.dataset.clone());
    row(&mut card, "epochs", facts.epochs.map(|epochs| epochs.to_string()));
    row(&mut card, "seed", facts.seed.map(|seed| seed.to_string()));
    row(&mut card, "top-1 of the best student", facts.top1.map(percent));
    row(&mut card, "top-1 of the last student", facts.last_top1.map(percent));
    row(&mut card, "top-1 of the teacher", facts.teacher_top1.map(percent));
    row(&mut card, "SHA-256 of the manifest", contents.manifest_sha256.map(str::to_owned));
    let _ = writeln!(card, "\n## Input\n");
    for step in student.preprocessing().steps() {
        let _ = writeln!(card, "- {step}");
    }
    let normalising: Vec<_> =
        contents.students().filter(|file| file.normalises).map(|file| format!("`{}`", file.name)).collect();
    if !normalising.is_empty() {
        let _ = writeln!(
            card,
            "\nLeave the last step out for {}: the graph does it, and its input is pixels in [0, 1].",
            normalising.join(" and ")
        );
    }
    let _ = writeln!(
        card,
        "\n`preprocess.json` has these numbers and, as `normalises`, which files do the last step themselves; \
         `labels.json` has the names of the classes.\n\n## Run\n"
    );
    let _ = writeln!(card, "```python\n{}```", python(student, contents));
    card
}

fn front_matter(card: &mut String, facts: &Facts, student: &Student) {
    let _ = writeln!(
        card,
        "---\npipeline_tag: image-classification\ntags:\n- image-classification\n- knowledge-distillation"
    );
    if let Some(method) = &facts.method {
        let _ = writeln!(card, "- {method}");
    }
    let library = if matches!(student.source(), StudentSource::Exported(_)) { "pytorch" } else { "safetensors" };
    let _ = writeln!(card, "library_name: {library}");
    if let Some(dataset) = &facts.dataset {
        let _ = writeln!(card, "datasets:\n- \"{dataset}\"");
    }
    if let (Some(top1), Some(dataset)) = (facts.top1, &facts.dataset) {
        let _ = write!(
            card,
            "model-index:\n- name: student\n  results:\n  - task:\n      type: image-classification\n    dataset:\n      \
             name: \"{dataset}\"\n      type: image-classification\n    metrics:\n    - type: accuracy\n      value: {}\n",
            top1 / 100.0
        );
    }
    let _ = writeln!(card, "---");
}

/// `run.py`: runs the most portable form of the student that is there.
pub(super) fn python(student: &Student, contents: &Contents<'_>) -> String {
    // Float32 before int8, whose file's name ends with `.onnx`, too.
    let forms = [".onnx", ".pt2"].map(|suffix| {
        let fitting = contents.students().filter(move |file| file.name.ends_with(suffix));
        fitting.min_by_key(|file| file.name.ends_with(ExportFormat::Int8.suffix()))
    });
    let [onnx, pt2] = forms;
    let best = "print(labels[logits[0].argmax()])\n";
    // What the network returns may be a dict, a tuple or a list, in which the logits are the only tensor.
    let leaves = "torch.utils._pytree.tree_leaves(returned)";
    let (library, run) = match (onnx, pt2) {
        (Some(BundledFile { name, .. }), _) => (
            "onnxruntime",
            format!(
                "logits = onnxruntime.InferenceSession(str(here / \"{name}\")).run(None, {{\"images\": images}})[0]\n\
                 {best}"
            ),
        ),
        // A batch has two images at least.
        (None, Some(BundledFile { name, .. })) => (
            "torch",
            format!(
                "returned = torch.export.load(str(here / \"{name}\")).module()\
                 (torch.from_numpy(images.repeat(2, 0)))\n\
                 logits = [found for found in {leaves} if found is not None][0].detach().numpy()\n{best}"
            ),
        ),
        (None, None) => (
            "safetensors.numpy",
            "weights = safetensors.numpy.load_file(str(here / \"student.safetensors\"))  # for load_state_dict\n\
             print(len(weights), \"tensors\")\n"
                .to_owned(),
        ),
    };
    let is_outside = !onnx.or(pt2).is_some_and(|file| file.normalises);
    format!("import json, pathlib, sys, numpy, PIL.Image, {library}\n{}{run}", prepare(student, is_outside))
}

/// The lines that make `images` of an image, with the pixels of an evaluation: sides and margins are rounded as for
/// [`Frame::Centre`](crate::dataset::Frame::Centre). `normalises`: whether they normalise it, because the graph does
/// not.
fn prepare(student: &Student, normalises: bool) -> String {
    let (unknown, pixels) = match (normalises, student.preprocessing().normalisation()) {
        (true, Some(_)) => ("", "((numpy.asarray(image) / 255 - how[\"mean\"]) / how[\"std\"])"),
        (true, None) => {
            ("# The student's file names no mean and std: normalise as for training.\n", "(numpy.asarray(image) / 255)")
        }
        (false, _) => ("", "(numpy.asarray(image) / 255)"),
    };
    format!(
        "here = pathlib.Path(__file__).resolve().parent  # the directory of the bundle\n\
         labels, how = (json.loads((here / f\"{{name}}.json\").read_text(\"utf-8\")) \
         for name in (\"labels\", \"preprocess\"))\n\
         image, side, resize = PIL.Image.open(sys.argv[1]).convert(\"RGB\"), how[\"image_size\"], how[\"resize\"]\n\
         size = [int(resize * edge / min(image.size)) for edge in image.size] if resize else [side, side]\n\
         box = [int(round((edge - side) / 2)) for edge in size]\n\
         image = image.resize(size, PIL.Image.Resampling.BILINEAR).crop((*box, box[0] + side, box[1] + side))\n\
         {unknown}images = {pixels}.astype(\"float32\").transpose(2, 0, 1)[None]\n"
    )
}

/// `labels.json`: the names of the classes, or their numbers.
pub(super) fn labels(student: &Student) -> Vec<String> {
    let classes = student.classes();
    class_names(student.metadata(), classes).unwrap_or_else(|| (0..classes).map(|class| class.to_string()).collect())
}
