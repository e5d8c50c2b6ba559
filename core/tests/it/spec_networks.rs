//! Promise: an exported network is its own architecture, and what a specification leaves out follows from it.

use distillery_core::architecture;
use distillery_core::exported::Description;
use distillery_core::spec::{
    Defaults, DescribedNetwork, Fault, FoundNetwork, FoundNetworks, JobSpec, Request, TrainingPlan,
};
use serde_json::{Value, json};

/// A network with 10 classes, of this description.
fn exported(name: &str, change: Value) -> FoundNetwork {
    let mut description = json!({
        "format": "torch_export", "schema": "8.17", "torch": "2.11.0", "input": [3, 64, 64], "batch": [2, null],
        "classes": 10, "parameters": 5, "macs": 7, "mode": "training", "operators": {},
        "feature_map": {"shape": [64, 2, 2], "layout": "channels_first"},
        "head": {"begins_after": "pool", "operators": [], "is_linear": true, "classifier": null}, "warnings": [],
    });
    description.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let description: Description = serde_json::from_value(description).unwrap();
    FoundNetwork::Exported(Box::new(DescribedNetwork { name: name.to_owned(), description }))
}

fn known(name: &str) -> FoundNetwork {
    FoundNetwork::Known(architecture::find(name).unwrap())
}

/// Both networks are left to their checkpoints.
fn pair() -> Value {
    json!({"teacher": {"checkpoint": "ckpt_1"}, "student": {"checkpoint": "ckpt_2"}, "dataset": {"name": "ten"}})
}

fn networks(teacher: FoundNetwork, student: FoundNetwork) -> FoundNetworks {
    FoundNetworks { teacher: Some(teacher), student: Some(student) }
}

fn read(document: &Value, teacher: FoundNetwork, student: FoundNetwork) -> Result<JobSpec, Vec<Fault>> {
    Request::read_with(document, &networks(teacher, student)).complete()
}

fn assert_one_fault(document: &Value, teacher: FoundNetwork, student: FoundNetwork, pointer: &str, detail: &str) {
    let faults = read(document, teacher, student).expect_err("the specification is faulty");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].pointer, pointer, "{faults:?}");
    assert!(faults[0].detail.contains(detail), "{faults:?} does not hold {detail:?}");
}

#[test]
fn defaults_follow_from_exported_networks() {
    let found = networks(exported("vit.pt2", json!({"macs": 8})), exported("mine.pt2", json!({})));
    let request = Request::read_with(&pair(), &found);
    let said = request.defaults.noted.join("\n");
    assert!(
        said.contains("distillation.scales is [1, 2]: the other") && said.contains("learning_rate is 0.01"),
        "{said}"
    );
    assert_eq!(request.defaults.published, [""; 0]);
    let job = serde_json::to_value(request.complete().unwrap()).unwrap();
    assert_eq!(job["name"], "vit.pt2 to mine.pt2 by sdd_kd");
    assert_eq!((&job["teacher"], &job["student"]), (&pair()["teacher"], &pair()["student"]));
    assert_eq!(job["dataset"]["image_size"], 64);
    assert_eq!(job["distillation"]["scales"], json!([1, 2]));
    assert_eq!(job["distillation"]["scale_weights"], json!([1.0, 1.0]));
    assert_eq!(job["training"]["optimizer"]["learning_rate"], 0.01);
    assert_eq!(job["training"]["augmentation"], "crop_flip");
}

#[test]
fn a_student_whose_parameters_overlap_is_refused_by_name_and_a_teacher_is_not() {
    let overlapping = || exported("mine.pt2", json!({"overlapping": "a and b"}));
    let detail = "and training would change them apart: a and b. Give each its own";
    assert_one_fault(&pair(), exported("vit.pt2", json!({})), overlapping(), "/student/checkpoint", detail);
    read(&pair(), overlapping(), exported("b", json!({}))).unwrap();
}

#[test]
fn what_is_given_stays_and_no_choice_is_told() {
    let mut document = pair();
    document["distillation"] = json!({"scales": [1, 2, 4]});
    document["training"] = json!({"optimizer": {"learning_rate": 0.2}});
    document["dataset"]["image_size"] = json!(64);
    document["teacher"] = json!({"checkpoint": "ckpt_1", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]});
    let found = networks(exported("a", json!({})), exported("b", json!({})));
    let request = Request::read_with(&document, &found);
    let Defaults { doubtful, noted, published } = &request.defaults;
    assert_eq!([doubtful, noted, published].map(Vec::len), [0; 3]);
    let job = request.complete().unwrap();
    assert_eq!(job.distillation.scales, [1, 2, 4]);
    assert_eq!(job.training.optimizer.learning_rate(), 0.2);
    let Some(FoundNetwork::Exported(teacher)) = &found.teacher else { panic!() };
    let fine: Vec<_> = teacher.fine_scales(&job.distillation, "teacher").collect();
    assert_eq!(fine, ["scale 4 is finer than the 2×2 feature map of the teacher a: its regions overlap"]);
}

#[test]
fn the_published_scales_follow_the_pair() {
    let map = |side: u64| json!({"feature_map": {"shape": [64, side, side], "layout": "channels_first"}});
    let with = |mut change: Value, key: &str, value: Value| {
        change[key] = value;
        change
    };
    let frozen = with(map(8), "mode", json!("evaluation"));
    let of_two = "is [1, 2, 4], which is published for a teacher and a student of two families: an exported network";
    let of_one = "is [1, 2], which is published for a teacher and a student of one family";
    for (teacher, student, scales, said) in [
        (known("resnet56"), known("resnet8x4"), json!([1, 2]), Some("of one family (here cifar_resnet)")),
        (known("vgg13"), known("vgg8"), json!([1, 2]), Some("of one family (here vgg)")),
        (known("shufflenet_v1"), known("shufflenet_v2"), json!([1, 2]), Some("of one family (here shufflenet)")),
        (known("wrn_40_2"), known("resnet20"), json!([1, 2, 4]), None),
        (known("resnet50_cifar"), known("resnet20"), json!([1, 2, 4]), None),
        (known("resnet32x4"), known("shufflenet_v1"), json!([1, 2, 4]), None),
        (exported("a", map(8)), known("resnet20"), json!([1, 2, 4]), Some(of_two)),
        (known("resnet56"), exported("a", map(8)), json!([1, 2, 4]), Some(of_two)),
        (exported("a", with(map(8), "parameters", json!(6))), exported("b", map(8)), json!([1, 2, 4]), Some(of_two)),
        (exported("a", map(8)), exported("b", map(8)), json!([1, 2]), Some(of_one)),
        (exported("a", frozen), exported("b", map(8)), json!([1, 2]), Some(of_one)),
        // The only scale of one family that this map has a cell for.
        (exported("a", map(1)), exported("b", map(1)), json!([1]), None),
    ] {
        let found = networks(teacher, student);
        let request = Request::read_with(&pair(), &found);
        assert_eq!(json!(request.distillation.scales), scales, "{found:?}");
        assert_eq!(request.distillation.scale_weights.len(), request.distillation.scales.len());
        assert_eq!(request.defaults.published.len(), usize::from(said.is_some()), "{:?}", request.defaults);
        assert!(said.is_none_or(|said| request.defaults.published[0].contains(said)), "{:?}", request.defaults);
        // One scale is left to the methods that have no other.
        let mut plain = pair();
        plain["distillation"] = json!({"method": "dkd"});
        let request = Request::read_with(&plain, &found);
        assert_eq!((request.distillation.scales, request.defaults.published.len()), (vec![1], 0), "{found:?}");
    }
}

#[test]
fn an_exported_network_and_one_of_the_list_may_be_a_pair() {
    let document = json!({
        "teacher": {"checkpoint": "ckpt_1"}, "student": {"architecture": "shufflenet_v1"}, "dataset": {"name": "ten"},
    });
    let found = FoundNetworks { teacher: Some(exported("vit.pt2", json!({}))), student: None };
    let job = Request::read_with(&document, &found).complete().unwrap();
    assert_eq!(job.name, "vit.pt2 to shufflenet_v1 by sdd_kd");
    assert_eq!(job.dataset.image_size, 64, "the teacher takes no other");
    assert_eq!(job.teacher.as_ref().unwrap().architecture, None);
    let job = read(&pair(), known("resnet56"), exported("mine.pt2", json!({}))).unwrap();
    assert_eq!(job.teacher.as_ref().unwrap().architecture.as_deref(), Some("resnet56"));
    assert_eq!((job.student.architecture, job.dataset.image_size), (None, 64));
}

#[test]
fn only_jobs_with_exported_networks_need_workers_that_know_them() {
    let plain = read(&pair(), known("resnet56"), known("resnet20")).unwrap();
    assert_eq!((plain.version(), plain.name.as_str()), (1, "resnet56 to resnet20 by sdd_kd"));
    assert_eq!(read(&pair(), exported("a", json!({})), known("resnet20")).unwrap().version(), 2);
    assert_eq!(read(&pair(), known("resnet56"), exported("a", json!({}))).unwrap().version(), 2);
    assert_eq!(JobSpec::VERSION, 3);
}

#[test]
fn a_stored_job_with_exported_networks_is_read_back() {
    let job = read(&pair(), exported("a", json!({})), exported("b", json!({}))).unwrap();
    let stored = serde_json::to_value(&job).unwrap();
    assert_eq!(JobSpec::from_stored(&stored).unwrap(), job);
}

#[test]
fn a_network_exported_for_evaluation_can_teach_and_not_learn() {
    let frozen = || exported("frozen.pt2", json!({"mode": "evaluation"}));
    assert!(read(&pair(), frozen(), exported("b", json!({}))).is_ok());
    assert_one_fault(&pair(), exported("a", json!({})), frozen(), "/student/checkpoint", "call model.train() before");
}

#[test]
fn a_network_without_a_map_is_used_by_methods_without_scales_only() {
    let tokens = || exported("vit.pt2", json!({"feature_map": null}));
    let advice =
        "Use method \"kd\", or export the network with average pooling (timm: create_model(…, global_pool=\"avg\"))";
    assert_one_fault(&pair(), tokens(), exported("b", json!({})), "/teacher", advice);
    assert_one_fault(&pair(), exported("a", json!({})), tokens(), "/student", advice);
    let mut plain = pair();
    plain["distillation"] = json!({"method": "dkd"});
    assert!(read(&plain, tokens(), tokens()).is_ok());
    plain["distillation"] = json!({"method": "none"});
    plain.as_object_mut().unwrap().remove("teacher");
    let student = FoundNetworks { teacher: None, student: Some(tokens()) };
    assert_eq!(Request::read_with(&plain, &student).complete().unwrap().name, "vit.pt2");
}

#[test]
fn images_have_the_size_for_which_networks_were_exported() {
    let large = || exported("large.pt2", json!({"input": [3, 224, 224]}));
    let small = || exported("small.pt2", json!({}));
    assert_one_fault(
        &pair(),
        large(),
        small(),
        "/student/checkpoint",
        "64×64 pixels, and the teacher large.pt2 for 224×224",
    );
    let mut document = pair();
    document["dataset"]["image_size"] = json!(32);
    let detail = "the student small.pt2 was exported for images of 64×64 pixels: leave this out";
    assert_one_fault(&document, small(), small(), "/dataset/image_size", detail);
    assert_one_fault(&document, small(), known("resnet20"), "/dataset/image_size", "the teacher small.pt2");
    let wide = exported("wide.pt2", json!({"input": [3, 64, 96]}));
    assert_one_fault(
        &pair(),
        known("resnet56"),
        wide,
        "/student/checkpoint",
        "64×96 pixels, and those of a job are square",
    );
    let job = read(&pair(), large(), known("resnet20")).unwrap();
    assert_eq!(serde_json::to_value(job.training.augmentation).unwrap(), "resized_crop_flip");
}

#[test]
fn a_student_is_an_architecture_or_a_checkpoint() {
    let neither = json!({"student": {}, "dataset": {"name": "ten"}, "distillation": {"method": "none"}});
    let faults = Request::read(&neither).complete().unwrap_err();
    assert_eq!(faults[0].pointer, "/student/architecture");
    assert!(faults[0].detail.contains("or give checkpoint alone"), "{faults:?}");
    // What a checkpoint holds is not known here.
    let faults = Request::read(&pair()).complete().unwrap_err();
    assert_eq!(faults[0].pointer, "/teacher/architecture", "{faults:?}");
}

#[test]
fn long_names_of_files_make_no_longer_name_of_a_job() {
    let name = "x".repeat(200);
    let job = read(&pair(), exported(&name, json!({})), exported(&name, json!({}))).unwrap();
    assert_eq!(job.name.chars().count(), 200);
}

#[test]
fn a_classifier_is_replaced_if_the_network_shows_which_it_is() {
    let mut document = pair();
    document["student"]["head"] = json!("new");
    let plain = || exported("a", json!({}));
    assert_one_fault(&document, plain(), plain(), "/student/head", "cannot be replaced");
    let kept = json!({
        "begins_after": "pool", "operators": [], "is_linear": true, "classifier": "fc.weight",
        "keeps_classifier": "rows (aten.view.default) has sizes of its own",
    });
    let kept = exported("b", json!({"head": kept}));
    assert_one_fault(
        &document,
        plain(),
        kept,
        "/student/head",
        "because rows (aten.view.default) has sizes of its own.",
    );
    let head = json!({"begins_after": "pool", "operators": [], "is_linear": true, "classifier": "fc.weight"});
    let job = read(&document, plain(), exported("b", json!({"head": head}))).unwrap();
    assert_eq!(serde_json::to_value(&job.student).unwrap(), json!({"checkpoint": "ckpt_2", "head": "new"}));
    assert_eq!(read(&document, known("resnet56"), known("resnet20")).unwrap().version(), 2);
    document["student"] = json!({"architecture": "resnet20", "head": "new"});
    assert_one_fault(&document, plain(), plain(), "/student/head", "is used with checkpoint only");
}

#[test]
fn a_training_file_names_exported_networks_by_their_paths() {
    let document = json!({
        "teacher": {"checkpoint": "student.safetensors", "network": "teacher.pt2"},
        "student": {"checkpoint": "mine.pt2"}, "dataset": {"path": "/data/ten"},
    });
    let plan = TrainingPlan::parse(&document).unwrap();
    let teacher = plan.teacher.as_ref().unwrap();
    assert!(teacher.architecture.is_none() && plan.student.architecture.is_none());
    assert_eq!(teacher.network.as_deref().unwrap().to_str(), Some("teacher.pt2"));
    assert_eq!(plan.student.network, None);
    let written = serde_json::to_value(&plan).unwrap();
    assert_eq!(written["teacher"], document["teacher"]);
    assert_eq!(serde_json::to_value(TrainingPlan::parse(&written).unwrap()).unwrap(), written);
    // Defaults follow once the files were read.
    let known = FoundNetworks { teacher: None, student: Some(exported("mine.pt2", json!({}))) };
    assert_eq!(TrainingPlan::parse_with(&document, &known).unwrap().dataset.image_size, 64);
    let mut both = document.clone();
    both["teacher"]["architecture"] = json!("resnet56");
    let faults = TrainingPlan::parse(&both).unwrap_err();
    assert_eq!((faults.len(), faults[0].pointer.as_str()), (1, "/teacher/network"), "{faults:?}");
}

#[test]
fn a_student_whose_parameters_are_all_frozen_is_refused() {
    let frozen = exported("frozen.pt2", json!({"parameters": 0}));
    let teacher = || exported("teacher.pt2", json!({"parameters": 0}));
    assert_one_fault(&pair(), teacher(), frozen, "/student/checkpoint", "has no parameters that training changes");
    read(&pair(), teacher(), exported("mine.pt2", json!({}))).unwrap();
}

#[test]
fn how_an_exported_teachers_images_are_normalised_is_told_unless_it_is_given_or_its_file_says_it() {
    let said = |document: &Value, teacher: FoundNetwork| {
        Request::read_with(document, &networks(teacher, known("resnet20"))).defaults.doubtful.join("\n")
    };
    let mut document = pair();
    let told = said(&document, exported("vit.pt2", json!({})));
    assert!(told.contains("the images of the teacher vit.pt2 are normalised like the student's"), "{told}");
    assert!(!said(&document, known("resnet56")).contains("normalised"));
    document["teacher"] = json!({"job": "job_1"});
    assert!(!said(&document, exported("vit.pt2", json!({}))).contains("normalised"), "its student's file names it");
}

#[test]
fn a_student_that_was_exported_for_smaller_batches_is_doubtful_and_a_teacher_is_not() {
    let doubts = |teacher: Value, student: Value, training: Value| {
        let mut document = pair();
        document["training"] = training;
        document["teacher"]["mean"] = json!([0.5, 0.5, 0.5]);
        document["teacher"]["std"] = json!([0.2, 0.2, 0.2]);
        let networks = networks(exported("a", teacher), exported("mine.pt2", student));
        Request::read_with(&document, &networks).defaults.doubtful.join("\n")
    };
    let small = json!({"batch": [2, 64]});
    let said = doubts(json!({}), small.clone(), json!({"batch_size": 128}));
    assert!(said.contains("mine.pt2 was exported for batches of at most 64 images"), "{said}");
    assert!(said.contains("training.batch_size is 128 on 1 device"), "{said}");
    assert_eq!(doubts(json!({}), small.clone(), json!({"batch_size": 64})), "");
    assert_eq!(doubts(json!({}), small.clone(), json!({"batch_size": 128, "devices": 2})), "");
    assert_eq!(doubts(small, json!({}), json!({"batch_size": 128})), "");
}
