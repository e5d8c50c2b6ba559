//! Promise: ONNX Runtime gives the logits that the student gives. Needs `scripts/setup onnxruntime`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use distillery_core::checkpoint::{self, Checkpoint, Dtype, NewTensor};
use distillery_core::dataset::{Frame, MeanStd};
use distillery_core::export::bundle::{self, BundledFile, Contents};
use distillery_core::export::int8::{self, Ranges};
use distillery_core::export::onnx::{Numbers, Options};
use distillery_core::export::{TOLERANCE, write_pt2};
use serde_json::Value;
use tempfile::TempDir;

use super::onnx::written;
use super::operators;
use super::reference::Tensor;
use super::students::{self, Files, Noise, bytes, exported, of_fixture, zoo};
use crate::dataset::support::{encode, open, put, read_part};
use crate::exported::fixtures::fixture;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Python with ONNX and ONNX Runtime.
fn python() -> Command {
    let program = root().join(".deps/onnxruntime/run");
    assert!(program.exists(), "{} is missing: run `scripts/setup onnxruntime`", program.display());
    Command::new(program)
}

/// Exported files with images and the logits that they should give.
struct Checks {
    dir: TempDir,
}

impl Checks {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn add(&self, file: &str, content: &[u8], images: &Tensor, logits: &Tensor) {
        let path = self.dir.path().join(file);
        std::fs::write(&path, content).unwrap();
        let of = |tensor: &Tensor| {
            let shape: Vec<u64> = tensor.shape.iter().map(|&size| size as u64).collect();
            (shape, bytes(tensor.data.iter().map(|&value| value as f32)))
        };
        let parts = [("images", of(images)), ("logits", of(logits))];
        let tensors =
            parts.each_ref().map(|(name, (shape, bytes))| NewTensor { name, dtype: Dtype::F32, shape, bytes });
        checkpoint::write(&path.with_extension("safetensors"), &tensors, &BTreeMap::new()).unwrap();
    }

    /// What the runtime says of each file.
    fn run(&self) -> BTreeMap<String, Value> {
        self.run_by(python())
    }

    fn run_by(&self, mut command: Command) -> BTreeMap<String, Value> {
        command.arg(root().join("scripts/check_export.py")).arg(self.dir.path());
        let output = command.output().expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("it prints JSON")
    }

    /// Checks that every file gives the right logits.
    #[track_caller]
    fn hold(&self) {
        self.hold_by(python());
    }

    #[track_caller]
    fn hold_by(&self, command: Command) {
        let facts = self.run_by(command);
        let count = std::fs::read_dir(self.dir.path()).unwrap().count() / 2;
        assert_eq!(facts.len(), count);
        let wrong: Vec<String> = facts
            .iter()
            .filter(|(_, facts)| {
                let number = |key: &str| facts[key].as_f64();
                let holds = number("largest_difference").zip(number("largest_logit"));
                !holds.is_some_and(|(difference, largest)| difference <= TOLERANCE * largest)
            })
            .map(|(name, facts)| format!("{name}: {facts}"))
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn images(files: &Files, count: usize) -> Tensor {
    let [channels, height, width] = files.student().input().map(|size| size as usize);
    Noise::new(11).tensor(&[count, channels, height, width])
}

/// Adds a student, and the logits of random images.
fn add(checks: &Checks, name: &str, files: &Files, options: &Options<'_>, count: usize) {
    let images = images(files, count);
    let logits = files.logits(&images);
    checks.add(&format!("{name}.onnx"), &written(&files.student(), options), &images, &logits);
}

#[test]
fn every_operation_gives_the_same_logits() {
    let checks = Checks::new();
    for (name, network) in operators::cases() {
        let name = name.replace(['[', ']', ' ', ','], "_");
        add(&checks, &name, &exported(&network.bytes()), &Options::default(), 3);
    }
    checks.hold();
}

/// Images and PyTorch's logits of them, in evaluation.
fn recorded(name: &str) -> (Tensor, Tensor) {
    let recorded = Checkpoint::open_as_written(&fixture(&format!("{name}.safetensors"))).unwrap();
    let tensor = |key: &str| {
        let tensor = recorded.get(key).unwrap();
        let shape: Vec<usize> = tensor.shape().iter().map(|&size| size as usize).collect();
        Tensor::new(&shape, recorded.floats(tensor).unwrap().into_iter().map(f64::from).collect())
    };
    (tensor("images"), tensor("eval_logits"))
}

const FIXTURES: [&str; 4] = ["test_byobnet", "test_convnext", "test_efficientnet", "test_vit_avg"];

#[test]
fn networks_of_timm_give_pytorchs_logits() {
    let checks = Checks::new();
    for name in FIXTURES {
        let (images, logits) = recorded(name);
        let files = of_fixture(name);
        checks.add(&format!("{name}.onnx"), &written(&files.student(), &Options::default()), &images, &logits);
    }
    checks.hold();
}

#[test]
fn the_tests_own_implementation_gives_pytorchs_logits() {
    for name in ["test_convnext", "test_efficientnet"] {
        let (images, expected) = recorded(name);
        let found = of_fixture(name).logits(&images);
        let largest = expected.data.iter().fold(0.0_f64, |largest, logit| largest.max(logit.abs()));
        let is_near = |(one, two): (&f64, &f64)| (one - two).abs() <= 1e-5 * largest;
        assert!(found.data.iter().zip(&expected.data).all(is_near), "{name}: {found:?} {expected:?}");
    }
}

#[test]
fn networks_of_the_zoo_give_the_same_logits() {
    let checks = Checks::new();
    // One of each family, and each kind of node.
    for name in ["resnet8", "resnet20_a", "wrn_16_1", "vgg8", "shufflenet_v1", "shufflenet_v2", "mobilenet_v2"] {
        add(&checks, name, &zoo(name, 10), &Options::default(), 1);
    }
    checks.hold();
}

#[test]
fn a_network_that_normalises_gives_the_same_logits_for_pixels() {
    let checks = Checks::new();
    let files = zoo("resnet8", 10);
    let MeanStd { mean, std } = files.student().preprocessing().normalisation().unwrap();
    let normalised = images(&files, 2);
    let plane = 32 * 32;
    let pixel = |(at, value): (usize, &f64)| value * std[at / plane % 3] + mean[at / plane % 3];
    let pixels = Tensor::new(&normalised.shape, normalised.data.iter().enumerate().map(pixel).collect());
    let options = Options { preprocess: true, ..Options::default() };
    let logits = files.logits(&normalised);
    checks.add("student.onnx", &written(&files.student(), &options), &pixels, &logits);
    checks.hold();
}

/// Calibrates in ONNX Runtime, and compares int8 with float32.
fn int8_difference(files: &Files) -> Value {
    let student = files.student();
    let (images, watched) = (images(files, 8), int8::watched(&student));
    let logits = files.logits(&images);
    let checks = Checks::new();
    let observing = Options { numbers: Numbers::Observed(&watched), ..Options::default() };
    checks.add("observed.onnx", &written(&student, &observing), &images, &logits);
    let observed = &checks.run()["observed.onnx"];
    let mut ranges = Ranges::default();
    for &value in &watched {
        let [low, high] = int8::outputs(value).map(|name| observed["outputs"][&name][0].as_f64());
        let (Some(low), Some(high)) = (low, high) else { panic!("no range of {value} in {observed}") };
        ranges.observe(value, low as f32, high as f32).unwrap();
    }
    let checks = Checks::new();
    let quantised = Options { numbers: Numbers::Int8(&ranges), ..Options::default() };
    checks.add("int8.onnx", &written(&student, &quantised), &images, &logits);
    checks.run()["int8.onnx"].clone()
}

/// Random weights make some logits as small as what rounding changes, so their mean squares are compared; and each of
/// mobilenet_v2's 53 layers in series adds its rounding.
fn assert_int8_is_near(files: &Files) {
    let facts = int8_difference(files);
    let (difference, logit) = (facts["mean_square_difference"].as_f64(), facts["mean_square_logit"].as_f64());
    let (Some(difference), Some(logit)) = (difference, logit) else { panic!("{facts}") };
    assert!(difference > 0.0 && difference < 0.3_f64.powi(2) * logit, "{facts}");
    assert_eq!(facts["metadata"]["numbers"], "int8");
}

#[test]
fn int8_of_exported_networks_is_near_to_float32() {
    assert_int8_is_near(&of_fixture("test_convnext"));
    assert_int8_is_near(&of_fixture("test_efficientnet"));
}

#[test]
fn int8_of_mobilenet_v2_is_near_to_float32() {
    assert_int8_is_near(&zoo("mobilenet_v2", 10));
}

#[test]
fn int8_of_resnet8_is_near_to_float32() {
    assert_int8_is_near(&zoo("resnet8", 10));
}

#[test]
fn the_python_of_a_bundle_runs_the_student() {
    let files = zoo("resnet8", 4);
    let student = files.student();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.png");
    image::RgbImage::from_fn(48, 40, |x, y| image::Rgb([5 * x as u8, 6 * y as u8, 90])).save(&image).unwrap();
    let said = [false, true].map(|preprocess| {
        let model = dir.path().join("student.onnx");
        std::fs::write(&model, written(&student, &Options { preprocess, ..Options::default() })).unwrap();
        let parts = vec![BundledFile { name: "student.onnx", path: &model, normalises: preprocess }];
        let contents = Contents {
            name: "student",
            files: parts,
            manifest: None,
            teacher: None,
            network: None,
            manifest_sha256: None,
        };
        let mut output = std::io::Cursor::new(Vec::new());
        bundle::write(&student, &contents, &mut output).unwrap();
        let unpacked = dir.path().join(format!("bundle_{preprocess}"));
        zip::ZipArchive::new(output).unwrap().extract(&unpacked).unwrap();
        // From anywhere: the program finds what is beside it.
        let elsewhere = Path::new("/");
        let output = python().arg(unpacked.join("run.py")).arg(&image).current_dir(elsewhere).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    });
    assert!(said[0].starts_with("class "), "{said:?}");
    assert_eq!(said[0], said[1], "the same image is of the same class, wherever it is normalised");
}

/// Runs the lines of a bundle's program that make `images` of an image, and writes them.
const PREPARE: &str = r#"
import sys
program, image, output = sys.argv[1:]
lines = open(program, encoding="utf-8").read().splitlines()
last = next(at for at, line in enumerate(lines) if line.startswith("images = "))
sys.argv = [program, image]
names = {"__file__": program}
exec("\n".join(lines[: last + 1]), names)
names["images"].tofile(output)
"#;

/// The pixels that the Python of a student's bundle gives to the network, as bytes in planes.
fn prepared(files: &Files, image: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (model, unpacked, output) =
        (dir.path().join("student.onnx"), dir.path().join("bundle"), dir.path().join("images"));
    let student = files.student();
    std::fs::write(&model, written(&student, &Options { preprocess: true, ..Options::default() })).unwrap();
    let parts = vec![BundledFile { name: "student.onnx", path: &model, normalises: true }];
    let contents =
        Contents { name: "student", files: parts, manifest: None, teacher: None, network: None, manifest_sha256: None };
    let mut archive = std::io::Cursor::new(Vec::new());
    bundle::write(&student, &contents, &mut archive).unwrap();
    zip::ZipArchive::new(archive).unwrap().extract(&unpacked).unwrap();
    let program = unpacked.join("run.py");
    let said = python().arg("-c").arg(PREPARE).arg(program).arg(image).arg(&output).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let floats = std::fs::read(&output).unwrap();
    floats.as_chunks::<4>().0.iter().map(|bytes| (f32::from_le_bytes(*bytes) * 255.0).round() as u8).collect()
}

#[test]
fn the_python_of_a_bundle_prepares_images_as_the_evaluation_did() {
    const SIDE: u32 = 32;
    let sizes = [[51, 70], [33, 90], [101, 47], [64, 65], [200, 57], [20, 31]];
    let files = zoo("resnet8", 4);
    let dir = tempfile::tempdir().unwrap();
    for (at, [width, height]) in sizes.into_iter().enumerate() {
        // Neighbours differ, so that a shift by half a pixel shows.
        let colour = |x: u32, y: u32| image::Rgb([(x * 37) as u8, (y * 29) as u8, (x * 13 + y * 53) as u8]);
        let png = encode(image::RgbImage::from_fn(width, height, colour), image::ImageFormat::Png);
        put(&dir.path().join(format!("train/a/{at}.png")), &png);
    }
    let dataset = open(dir.path()).unwrap();
    for resize in [None, Some(32), Some(37), Some(40)] {
        students::rewrite(&files.weights, |_, metadata| {
            metadata.remove("eval_resize");
            metadata.insert("eval_crop".to_owned(), if resize.is_some() { "centre" } else { "whole" }.to_owned());
            metadata.extend(resize.map(|resize: u32| ("eval_resize".to_owned(), resize.to_string())));
        });
        for (at, size) in sizes.into_iter().enumerate() {
            let frame = resize.map_or(Frame::Whole, |resize| Frame::Centre { resize });
            let evaluated = read_part(&dataset, "train", at, &frame, SIDE).unwrap();
            let found = prepared(&files, &dir.path().join(format!("train/a/{at}.png")));
            assert_eq!(found.len(), evaluated.len());
            // Both libraries round after rows and after columns.
            let largest = found.iter().zip(&evaluated).map(|(one, two)| one.abs_diff(*two)).max().unwrap();
            assert!(largest <= 2, "{size:?} with {resize:?}: differs by {largest}");
        }
    }
}

/// Python with PyTorch, if it is there.
fn pytorch() -> Option<Command> {
    let program = root().join(".deps/pytorch_bench/run");
    if !program.exists() {
        let missing = format!("not run: {} is not there (scripts/setup pytorch_bench)", program.display());
        assert!(std::env::var_os("DISTILLERY_TEST_NETWORKS").is_none(), "{missing}");
        eprintln!("{missing}");
    }
    program.exists().then(|| Command::new(program))
}

fn pt2(files: &Files) -> Vec<u8> {
    let mut output = std::io::Cursor::new(Vec::new());
    write_pt2(&files.student(), &mut output).unwrap_or_else(|error| panic!("{error}"));
    output.into_inner()
}

#[test]
fn pytorch_runs_the_pt2() {
    let Some(torch) = pytorch() else { return };
    let checks = Checks::new();
    for name in FIXTURES {
        let (images, logits) = recorded(name);
        checks.add(&format!("{name}.pt2"), &pt2(&of_fixture(name)), &images, &logits);
    }
    checks.hold_by(torch);
}

#[test]
fn pytorch_drops_nothing_when_it_runs_the_pt2() {
    let (Some(torch), Some(mut exporter)) = (pytorch(), pytorch()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let network = dir.path().join("network.pt2");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/export/dropping.py");
    let output = exporter.arg(script).arg(&network).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let computed: BTreeMap<String, Vec<f64>> = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let tensor = |name: &str, shape: &[usize]| Tensor::new(shape, computed[name].clone());
    let (images, logits) = (tensor("images", &[4, 3, 8, 8]), tensor("logits", &[4, 5]));
    let files = exported(&std::fs::read(&network).unwrap());
    assert_eq!(files.student().graph().nodes.iter().filter(|node| node.op.training() == Some(true)).count(), 6);

    let checks = Checks::new();
    checks.add("student.pt2", &pt2(&files), &images, &logits);
    checks.hold_by(torch);
    // The export as it was made in training mode gives other logits, or this test would show nothing.
    let checks = Checks::new();
    checks.add("network.pt2", &std::fs::read(&network).unwrap(), &images, &logits);
    let facts = checks.run_by(pytorch().unwrap());
    assert!(facts["network.pt2"]["largest_difference"].as_f64().unwrap() > 0.01, "{facts:?}");
}
