//! Promise: `examples/published` has a job for every row and method of the published tables, with the published recipe
//! in full. `UPDATE_EXAMPLES=1 cargo test --test it examples::` rewrites the files.

use std::collections::BTreeMap;
use std::path::Path;

use distillery::architecture;
use distillery::spec::Request;
use serde_json::{Value, json};

/// Teacher, student, and top-1 of kd, sdd_kd, dkd, sdd_dkd, nkd and sdd_nkd (Wei et al. 2024): pairs of two families.
const CIFAR100: [(&str, &str, [f64; 6]); 6] = [
    ("resnet32x4", "shufflenet_v1", [74.07, 76.30, 76.45, 77.30, 75.31, 76.34]),
    ("wrn_40_2", "shufflenet_v1", [74.83, 76.65, 76.70, 77.21, 75.96, 76.81]),
    ("resnet50_cifar", "mobilenet_v2", [67.35, 69.55, 70.35, 71.36, 69.39, 70.25]),
    ("vgg13", "mobilenet_v2", [67.37, 68.79, 69.71, 70.25, 68.72, 69.50]),
    ("resnet32x4", "shufflenet_v2", [74.45, 76.67, 77.07, 78.05, 76.26, 77.07]),
    ("resnet50_cifar", "vgg8", [73.81, 74.89, 75.34, 75.86, 74.01, 74.62]),
];
const METHODS: [&str; 6] = ["kd", "sdd_kd", "dkd", "sdd_dkd", "nkd", "sdd_nkd"];
/// The only pair of one family, resnet32x4 to resnet8x4: with scale 1 and with scales 1 and 2 (the same source's
/// ablation of the scales).
const SCALES: [(&str, f64); 2] = [("kd", 73.33), ("sdd_kd", 76.63)];
/// resnet50 to mobilenet_v1 (the same source).
const IMAGENET: [(&str, f64); 4] = [("kd", 70.50), ("sdd_kd", 72.24), ("sdd_dkd", 73.08), ("sdd_nkd", 73.12)];

/// The tables of that source.
const FAMILIES_TABLE: &str = "CIFAR-100, two families";
const SCALES_TABLE: &str = "CIFAR-100, ablation of the scales";
const IMAGENET_TABLE: &str = "ImageNet";

/// The settings of CIFAR-100, where the temperature is 4, or of ImageNet.
fn distillation(method: &str, table: &str) -> Value {
    let imagenet = table == IMAGENET_TABLE;
    let mut distillation = json!({"method": method});
    let mut add = |name: &str, value: Value| distillation[name] = value;
    let base = method.trim_start_matches("sdd_");
    if base != method {
        add("scales", if table == SCALES_TABLE { json!([1, 2]) } else { json!([1, 2, 4]) });
    }
    let (temperature, strength, warmup) = if imagenet && base != "kd" { (1.0, 2.0, 1) } else { (4.0, 8.0, 20) };
    add("temperature", json!(temperature));
    match base {
        "dkd" => {
            add("alpha", json!(1.0));
            add("beta", json!(strength));
        }
        "nkd" => add("gamma", json!(strength)),
        _ => {}
    }
    let (cross_entropy, weight) = if base == "kd" { (0.1, 0.9) } else { (1.0, 1.0) };
    if base != "kd" {
        add("warmup_epochs", json!(warmup));
    }
    let mut weights = json!({"cross_entropy": cross_entropy, "distillation": weight});
    if base != method {
        weights["consistent"] = json!(1.0);
        weights["complementary"] = json!(2.0);
    }
    add("weights", weights);
    distillation
}

fn cifar100(student: &str) -> (Value, Value) {
    let light = student.starts_with("shufflenet") || student.starts_with("mobilenet");
    let learning_rate = if light { 0.01 } else { 0.05 };
    let training = json!({
        "epochs": 240, "batch_size": 64,
        "optimizer": {"type": "sgd", "learning_rate": learning_rate, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"type": "multistep", "milestones": [150, 180, 210], "gamma": 0.1},
        "augmentation": "crop_flip",
    });
    let dataset = json!({"name": "cifar100", "mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]});
    (dataset, training)
}

fn imagenet() -> (Value, Value) {
    let training = json!({
        "epochs": 100, "batch_size": 256,
        "optimizer": {"type": "sgd", "learning_rate": 0.2, "momentum": 0.9, "weight_decay": 1e-4},
        "schedule": {"type": "multistep", "milestones": [30, 60, 90], "gamma": 0.1},
        "augmentation": "resized_crop_flip",
    });
    (json!({"name": "imagenet", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}), training)
}

/// Every file below `examples/published`, with its content.
fn expected() -> BTreeMap<String, Value> {
    let mut files = BTreeMap::new();
    let student_job = |[teacher, student]: [&str; 2], method: &str, (table, published): (&str, f64)| {
        let (dataset, training) = if table == IMAGENET_TABLE { imagenet() } else { cifar100(student) };
        json!({
            "name": format!("{teacher} to {student} by {method}"),
            "teacher": {"architecture": teacher, "checkpoint": "ckpt_REPLACE_WITH_YOUR_TEACHER"},
            "student": {"architecture": student},
            "dataset": dataset,
            "distillation": distillation(method, table),
            "training": training,
            "labels": {"published_table": table, "published_top1": format!("{published:.2}")},
        })
    };
    for (teacher, student, published) in CIFAR100 {
        for (method, published) in METHODS.into_iter().zip(published) {
            let job = student_job([teacher, student], method, (FAMILIES_TABLE, published));
            files.insert(format!("cifar100/{teacher}-{student}-{method}.json"), job);
        }
        let (dataset, training) = cifar100(teacher);
        let job = json!({
            "name": format!("{teacher}, a teacher"),
            "student": {"architecture": teacher},
            "dataset": dataset,
            "distillation": {"method": "none"},
            "training": training,
        });
        files.insert(format!("cifar100/teacher-{teacher}.json"), job);
    }
    for (method, published) in SCALES {
        let job = student_job(["resnet32x4", "resnet8x4"], method, (SCALES_TABLE, published));
        files.insert(format!("cifar100/resnet32x4-resnet8x4-{method}.json"), job);
    }
    for (method, published) in IMAGENET {
        let job = student_job(["resnet50", "mobilenet_v1"], method, (IMAGENET_TABLE, published));
        files.insert(format!("imagenet/resnet50-mobilenet_v1-{method}.json"), job);
    }
    files
}

#[test]
fn every_published_result_has_a_job() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/published");
    let expected = expected();
    if std::env::var_os("UPDATE_EXAMPLES").is_some() {
        for (name, job) in &expected {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{job:#}\n")).unwrap();
        }
    }
    let mut found = BTreeMap::new();
    for directory in ["cifar100", "imagenet"] {
        for entry in std::fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{directory}/{}", path.file_name().unwrap().to_str().unwrap());
            found.insert(name, serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap());
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn what_a_published_job_leaves_out_has_the_published_value() {
    for (name, job) in expected() {
        let spec = Request::read(&job).complete().unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
        let student = architecture::find(spec.student.architecture.as_deref().unwrap()).unwrap();
        assert_eq!(spec.dataset.image_size, student.input_side, "{name}");
        if let Some(teacher) = &spec.teacher {
            let teacher = architecture::find(teacher.architecture.as_deref().unwrap()).unwrap();
            assert_eq!(teacher.input_side, student.input_side, "{name}");
        }
        // On CIFAR-100 the recipe is the default, so it can be left out.
        if name.starts_with("cifar100/") {
            let mut bare = job.clone();
            bare.as_object_mut().unwrap().remove("training");
            bare["distillation"] = json!({"method": job["distillation"]["method"]});
            assert_eq!(Request::read(&bare).complete().unwrap(), spec, "{name}");
        }
    }
}
