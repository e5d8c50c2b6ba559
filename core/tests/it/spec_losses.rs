//! Promise: losses that came after the paper are chosen by a field each, and jobs without them are what they were
//! before.

use distillery_core::spec::{Fault, JobSpec, Request, doubts};
use serde_json::{Value, json};

fn document(distillation: Value) -> Value {
    json!({
        "teacher": {"architecture": "resnet56", "checkpoint": "ckpt_1"},
        "student": {"architecture": "resnet20"},
        "dataset": {"name": "cifar100"},
        "distillation": distillation,
    })
}

fn parse(distillation: Value) -> Result<JobSpec, Vec<Fault>> {
    Request::read(&document(distillation)).complete()
}

fn assert_one_fault(distillation: Value, pointer: &str, detail: &str) {
    let faults = parse(distillation).expect_err("the specification is faulty");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].pointer == pointer && faults[0].detail.contains(detail), "{faults:?}");
}

/// Temperature, both weights and the warm-up of a job.
fn settings(distillation: Value) -> (f64, f64, f64, u32) {
    let job = parse(distillation).unwrap().distillation;
    (job.temperature.unwrap(), job.weights.cross_entropy, job.weights.distillation, job.warmup_epochs.unwrap())
}

#[test]
fn each_loss_has_the_settings_of_its_authors_code() {
    for (base, expected) in [
        ("kd", (4.0, 0.1, 0.9, 0)),
        ("dkd", (4.0, 1.0, 1.0, 20)),
        ("nkd", (4.0, 1.0, 1.0, 20)),
        ("ttm", (10.0, 1.0, 45.0, 0)),
        ("wttm", (5.0, 1.0, 4.0, 0)),
        ("dist", (4.0, 1.0, 2.0, 0)),
    ] {
        assert_eq!(settings(json!({"method": base})), expected, "{base}");
        assert_eq!(settings(json!({"method": format!("sdd_{base}")})), expected, "sdd_{base}");
    }
    let dist = parse(json!({"method": "sdd_dist"})).unwrap().distillation;
    assert_eq!((dist.alpha, dist.beta, dist.gamma, dist.exclude_target), (None, Some(1.0), Some(1.0), None));
    let ttm = parse(json!({"method": "ttm"})).unwrap().distillation;
    assert_eq!((ttm.beta, ttm.gamma, ttm.scales.as_slice()), (None, None, &[1][..]));
    assert_one_fault(
        json!({"method": "ttm", "gamma": 1}),
        "/distillation/gamma",
        "nkd, dist, sdd_nkd and sdd_dist only",
    );
    assert_one_fault(json!({"method": "dist", "alpha": 1}), "/distillation/alpha", "dkd and sdd_dkd only");
}

#[test]
fn standardised_logits_bring_their_published_settings() {
    let on = |mut distillation: Value| {
        distillation["logit_standardisation"] = json!(true);
        distillation
    };
    for (method, expected) in [
        ("sdd_kd", (2.0, 0.1, 9.0, 0)),
        ("dkd", (2.0, 1.0, 9.0, 20)),
        ("sdd_nkd", (2.0, 1.0, 9.0, 20)),
        ("sdd_dist", (4.0, 1.0, 2.0, 0)),
        ("wttm", (5.0, 1.0, 4.0, 0)),
    ] {
        assert_eq!(settings(on(json!({"method": method}))), expected, "{method}");
    }
    let request = Request::read(&document(on(json!({}))));
    let said = request.defaults.published.join("\n");
    for part in ["temperature is 2, which is published for standardised logits", "weights.distillation is 9, which"] {
        assert!(said.contains(part), "{said}");
    }
    let given = on(json!({"temperature": 3, "weights": {"distillation": 1}, "scales": [1, 2]}));
    assert_eq!(settings(given.clone()), (3.0, 0.1, 1.0, 0));
    assert_eq!(Request::read(&document(given)).defaults.published, [""; 0]);
    let off = parse(json!({"logit_standardisation": false})).unwrap();
    assert_eq!(off, parse(json!({})).unwrap());
    let faulty = json!({"method": "none", "logit_standardisation": true});
    let mut plain = document(faulty);
    plain.as_object_mut().unwrap().remove("teacher");
    let faults = Request::read(&plain).faults;
    assert!(faults.len() == 1 && faults[0].detail.contains("is used by distillation methods only"), "{faults:?}");
}

#[test]
fn regions_are_compared_with_each_other_where_there_are_several() {
    let weight = |distillation: Value| parse(distillation).map(|job| job.distillation.weights.clustering);
    assert_eq!(weight(json!({"weights": {"clustering": 2}})).unwrap(), Some(2.0));
    assert_eq!(weight(json!({"method": "sdd_dkd"})).unwrap(), None);
    assert_eq!(weight(json!({"weights": {"clustering": 0}})).unwrap(), None);
    let pointer = "/distillation/weights/clustering";
    assert_one_fault(json!({"method": "kd", "weights": {"clustering": 2}}), pointer, "is used by sdd_ methods only");
    assert_one_fault(json!({"weights": {"clustering": -1}}), pointer, "found -1");
    // The clustering is something to learn, too.
    let alone = json!({"weights": {"cross_entropy": 0, "distillation": 0, "clustering": 1}});
    assert!(parse(alone).is_ok());
    let doubted = |distillation: Value| {
        let job = parse(distillation).unwrap();
        doubts(&job.distillation, &job.training).join("\n")
    };
    let whole = json!({"scales": [1], "weights": {"clustering": 2}});
    assert!(doubted(whole).contains("scale 1 has only one: it has no effect"));
    assert_eq!(doubted(json!({"weights": {"clustering": 2}})), "");
}

#[test]
fn correlations_over_one_image_are_doubted() {
    let doubted = |training: Value| {
        let mut document = document(json!({"method": "sdd_dist"}));
        document["training"] = training;
        let job = Request::read(&document).complete().unwrap();
        doubts(&job.distillation, &job.training).join("\n")
    };
    assert_eq!(doubted(json!({"batch_size": 2})), "");
    assert!(doubted(json!({"batch_size": 3, "devices": 2})).contains("a device has 1 image of a batch"));
}

#[test]
fn only_jobs_with_later_losses_need_workers_that_know_them() {
    let version = |distillation: Value| parse(distillation).unwrap().version();
    for distillation in [json!({}), json!({"method": "sdd_nkd"}), json!({"logit_standardisation": false})] {
        assert_eq!(version(distillation.clone()), 1, "{distillation}");
    }
    for distillation in [
        json!({"method": "ttm"}),
        json!({"method": "sdd_wttm"}),
        json!({"method": "dist"}),
        json!({"logit_standardisation": true}),
        json!({"weights": {"clustering": 2}}),
    ] {
        let job = parse(distillation.clone()).unwrap();
        assert_eq!(job.version(), JobSpec::VERSION, "{distillation}");
        let stored = serde_json::to_value(&job).unwrap();
        assert_eq!(JobSpec::from_stored(&stored).unwrap(), job, "{distillation}");
        assert_eq!(Request::read(&stored).complete().unwrap(), job, "{distillation}");
    }
}
