//! Promise: a sweep's document says exactly which jobs it makes, or everything that is wrong with it.

use distillery_core::spec::Fault;
use distillery_core::sweep::{Strategy, SweepSpec, halving_counts, kept};
use serde_json::{Value, json};

fn base() -> Value {
    json!({"student": {"architecture": "resnet8"}, "dataset": {"name": "ten"}, "distillation": {"method": "none"}})
}

fn sweep(changes: Value) -> Value {
    let mut document = json!({"name": "grid", "base": base(), "axes": {"/training/epochs": [1, 2, 3]}});
    document.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    document
}

fn pointers(document: &Value) -> Vec<String> {
    let faults = SweepSpec::read(document).expect_err("it has faults");
    faults.into_iter().map(|Fault { pointer, .. }| pointer).collect()
}

#[test]
fn a_grid_has_every_combination_once_with_every_seed() {
    let axes = json!({"/training/batch_size": [32, 64], "/training/optimizer/learning_rate": [0.1, 0.01, null]});
    let sweep = SweepSpec::read(&sweep(json!({"axes": axes, "seeds": 2}))).unwrap();
    let combinations = sweep.combinations();
    assert_eq!(combinations.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let settings: Vec<_> = combinations.iter().map(|one| Value::from(sweep.settings(one))).collect();
    let expected = [
        json!([32, 0.1]),
        json!([32, 0.01]),
        json!([32, null]),
        json!([64, 0.1]),
        json!([64, 0.01]),
        json!([64, null]),
    ];
    assert_eq!(settings, expected);
    let document = sweep.document(&combinations[4], 1).unwrap();
    let training = json!({"batch_size": 64, "optimizer": {"learning_rate": 0.01}, "seed": 1});
    assert_eq!(document["training"], training);
    assert_eq!(document["student"], base()["student"]);
    assert_eq!(document["name"], "grid: batch_size 64, learning_rate 0.01, run 2");
}

#[test]
fn webhooks_are_a_short_list_of_different_names() {
    let names = json!(["ops", "registry"]);
    assert_eq!(SweepSpec::read(&sweep(json!({"webhooks": names}))).unwrap().webhooks, ["ops", "registry"]);
    for none in [json!({}), json!({"webhooks": null}), json!({"webhooks": []})] {
        assert!(SweepSpec::read(&sweep(none)).unwrap().webhooks.is_empty());
    }
    let many: Vec<String> = (0..11).map(|number| number.to_string()).collect();
    for (webhooks, pointer) in [
        (json!("ops"), "/webhooks"),
        (json!({"ops": true}), "/webhooks"),
        (json!(many), "/webhooks"),
        (json!(["ops", 7]), "/webhooks/1"),
        (json!(["ops", "registry", "ops"]), "/webhooks/2"),
    ] {
        assert_eq!(pointers(&sweep(json!({"webhooks": webhooks}))), [pointer]);
    }
}

#[test]
fn seeds_ascend_from_that_of_the_base() {
    let mut document = sweep(json!({"seeds": 3}));
    document["base"]["training"] = json!({"seed": 7});
    let sweep = SweepSpec::read(&document).unwrap();
    let seeds = (0..3).map(|seed| sweep.document(&sweep.combinations()[0], seed).unwrap()["training"]["seed"].clone());
    assert_eq!(seeds.collect::<Vec<_>>(), [7, 8, 9]);
}

#[test]
fn a_random_sweep_draws_different_combinations_and_the_same_ones_each_time() {
    let values: Vec<u32> = (1..=100).collect();
    let axes = json!({"/a": values, "/b": values, "/c": values});
    let drawn = |seed: u32| {
        let strategy = json!({"type": "random", "jobs": 20, "seed": seed});
        let sweep = SweepSpec::read(&sweep(json!({"axes": axes, "strategy": strategy, "seeds": 3}))).unwrap();
        sweep.combinations()
    };
    let first = drawn(0);
    assert_eq!(first.len(), 6, "six combinations of three seeds are at most 20 jobs");
    assert_eq!(first, drawn(0));
    assert_ne!(first, drawn(1));
    let mut places: Vec<_> = first.iter().map(|one| one.places.clone()).collect();
    places.dedup();
    assert_eq!(places.len(), 6);
    // More than there are is all there are.
    let strategy = json!({"type": "random", "jobs": 20});
    assert_eq!(SweepSpec::read(&sweep(json!({"strategy": strategy}))).unwrap().combinations().len(), 3);
}

#[test]
fn halving_trains_every_job_to_the_last_rung() {
    let strategy = json!({"type": "halving", "rungs": [5, 15, 60], "keep": 0.33});
    let sweep =
        SweepSpec::read(&sweep(json!({"axes": {"/training/batch_size": [1, 2]}, "strategy": strategy}))).unwrap();
    assert_eq!(sweep.strategy, Strategy::Halving { rungs: vec![5, 15, 60], keep: 0.33 });
    assert_eq!(sweep.document(&sweep.combinations()[0], 0).unwrap()["training"]["epochs"], 60);
    assert_eq!(halving_counts(9, 3, 0.33), [9, 3, 1]);
    assert_eq!([kept(9, 1.0 / 3.0), kept(3, 1.0 / 3.0), kept(1, 0.1), kept(10, 0.25), kept(2, 0.9)], [3, 1, 1, 3, 2]);
}

#[test]
fn all_faults_of_a_sweep_are_reported_with_their_places() {
    for (changes, expected) in [
        (json!({"bass": 1}), "/bass"),
        (json!({"base": 1}), "/base"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "\u{a0} "}), "/name"),
        (json!({"name": "a\u{7}"}), "/name"),
        (json!({"axes": {}}), "/axes"),
        (json!({"axes": {"epochs": [1]}}), "/axes/epochs"),
        (json!({"axes": {"/training/epochs": 3}}), "/axes/~1training~1epochs"),
        (json!({"axes": {"/training/epochs": []}}), "/axes/~1training~1epochs"),
        (json!({"axes": {"/training/epochs": [1, 2, 1]}}), "/axes/~1training~1epochs/2"),
        (json!({"axes": {"/name": ["a"]}}), "/axes/~1name"),
        (json!({"axes": {"/training": [{}], "/training/epochs": [1]}}), "/axes/~1training~1epochs"),
        (json!({"axes": {"/training/seed": [1]}, "seeds": 2}), "/axes/~1training~1seed"),
        (json!({"seeds": 0}), "/seeds"),
        (json!({"seeds": 33}), "/seeds"),
        (json!({"max_parallel": 0}), "/max_parallel"),
        (json!({"strategy": {"type": "bayes"}}), "/strategy/type"),
        (json!({"strategy": {"type": "grid", "jobs": 1}}), "/strategy/jobs"),
        (json!({"strategy": {"type": "random"}}), "/strategy/jobs"),
        (json!({"strategy": {"type": "random", "jobs": 2}, "seeds": 3}), "/strategy/jobs"),
        (json!({"strategy": {"type": "halving", "rungs": [1, 2]}}), "/axes/~1training~1epochs"),
    ] {
        assert_eq!(pointers(&sweep(changes.clone())), [expected], "{changes}");
    }
    let halving = |strategy: Value| sweep(json!({"axes": {"/a": [1]}, "strategy": strategy}));
    for (rungs, keep, expected) in [
        (json!([5]), json!(0.5), "/strategy/rungs"),
        (json!([5, 5]), json!(0.5), "/strategy/rungs/1"),
        (json!([0, 5]), json!(0.5), "/strategy/rungs/0"),
        (json!([1, 5]), json!(1), "/strategy/keep"),
    ] {
        let document = halving(json!({"type": "halving", "rungs": rungs, "keep": keep}));
        assert_eq!(pointers(&document), [expected], "{document}");
    }
    assert_eq!(pointers(&json!([])), [""]);
    let many: Vec<u32> = (0..100).collect();
    assert_eq!(pointers(&sweep(json!({"axes": {"/a": many, "/b": many}}))), ["/axes"]);
    assert_eq!(pointers(&sweep(json!({"axes": {"/a": many}, "seeds": 11}))), ["/axes"]);
}

#[test]
fn a_fault_of_a_job_is_found_in_the_sweep_that_makes_it() {
    let axes = json!({"/distillation/scales": [[1], [1, 0]], "/training/epochs": [1]});
    let sweep = SweepSpec::read(&sweep(json!({"axes": axes}))).unwrap();
    let combination = &sweep.combinations()[1];
    let fault = |pointer: &str| {
        let fault = Fault { pointer: pointer.to_owned(), detail: "is wrong".to_owned() };
        let Fault { pointer, detail } = sweep.fault(combination, fault);
        (pointer, detail)
    };
    let own = |pointer: &str| (pointer.to_owned(), "is wrong".to_owned());
    assert_eq!(fault("/distillation/scales/1"), own("/axes/~1distillation~1scales/1/1"));
    assert_eq!(fault("/training/epochs"), own("/axes/~1training~1epochs/0"));
    assert_eq!(fault("/distillation/alpha"), own("/base/distillation/alpha"));
    assert_eq!(sweep.summary(combination), "scales [1,0], epochs 1");
    // The base has no such place.
    let document = json!({"base": {"student": 1}, "axes": {"/student/architecture": ["resnet8"]}});
    let sweep = SweepSpec::read(&document).unwrap();
    let refused = sweep.document(&sweep.combinations()[0], 0).expect_err("a number has no members");
    assert_eq!(refused.pointer, "/axes/~1student~1architecture");
}
