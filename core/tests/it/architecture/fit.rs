//! Promise: a checkpoint's keys and shapes tell its network.

use distillery_core::architecture::{self, Certainty, Shapes, fits, guess, mismatch, suggest};

fn shapes(name: &str, classes: u32) -> Shapes {
    let layout = architecture::find(name).unwrap().layout(classes);
    layout.entries.into_iter().map(|entry| (entry.key, entry.shape)).collect()
}

fn names(shapes: &Shapes) -> Vec<(&'static str, u32)> {
    fits(shapes).into_iter().map(|fit| (fit.architecture.name, fit.classes)).collect()
}

fn rename(shapes: &mut Shapes, from: &str, to: &str) {
    for part in ["weight", "bias"] {
        let shape = shapes.remove(&format!("{from}.{part}")).unwrap();
        shapes.insert(format!("{to}.{part}"), shape);
    }
}

fn why(name: &str, shapes: &Shapes, classes: Option<u32>) -> Option<String> {
    mismatch(architecture::find(name).unwrap(), shapes, classes)
}

#[test]
fn every_network_fits_itself_only() {
    for network in architecture::all() {
        assert_eq!(names(&shapes(network.name, 17)), [(network.name, 17)]);
        assert_eq!(mismatch(network, &shapes(network.name, 17), Some(17)), None);
    }
}

#[test]
fn a_guess_says_how_sure_it_is() {
    for network in architecture::all() {
        let guess = guess(&shapes(network.name, 17)).unwrap();
        assert_eq!((guess.architecture.name, guess.classes), (network.name, Some(17)));
        assert_eq!((guess.certainty, guess.agreement, guess.difference), (Certainty::Certain, 1.0, None));
    }
    // A resnet56 with another head.
    let mut changed = shapes("resnet56", 10);
    changed.insert("projector.weight".into(), vec![128, 64]);
    changed.insert("layer1.0.conv1.weight".into(), vec![16, 16, 5, 5]);
    let near = guess(&changed).unwrap();
    assert_eq!((near.architecture.name, near.classes, near.certainty), ("resnet56", Some(10), Certainty::Near));
    assert!((0.98..1.0).contains(&near.agreement), "{}", near.agreement);
    let difference = near.difference.unwrap();
    assert!(difference.contains("layer1.0.conv1.weight is [16, 16, 5, 5]"), "{difference}");
    // A classifier under weight_norm, of which only the bias has its own name.
    let mut normed = shapes("resnet8", 3);
    let weight = normed.remove("fc.weight").unwrap();
    normed.insert("fc.parametrizations.weight.original0".into(), vec![3, 1]);
    normed.insert("fc.parametrizations.weight.original1".into(), weight);
    let near = guess(&normed).unwrap();
    assert_eq!((near.architecture.name, near.classes), ("resnet8", Some(3)));
    assert_eq!(near.difference.as_deref(), Some("fc.weight is missing"));
    // A backbone without a classifier.
    let mut headless = shapes("vgg13", 10);
    headless.retain(|key, _| !key.starts_with("classifier"));
    let near = guess(&headless).unwrap();
    assert_eq!((near.architecture.name, near.classes, near.certainty), ("vgg13", None, Certainty::Near));
    // A few common keys do not make a guess.
    let foreign = Shapes::from([("fc.weight".into(), vec![10, 64]), ("encoder.weight".into(), vec![3, 3])]);
    assert!(guess(&foreign).is_none());
    assert!(guess(&Shapes::new()).is_none());
}

#[test]
fn fc_and_linear_are_the_same_classifier() {
    let mut plain = shapes("resnet20", 10);
    rename(&mut plain, "fc", "linear");
    assert_eq!(names(&plain), [("resnet20", 10)]);
    let mut padded = shapes("resnet20_a", 10);
    rename(&mut padded, "linear", "fc");
    assert_eq!(names(&padded), [("resnet20_a", 10)]);
    padded.insert("linear.weight".into(), vec![10, 64]);
    assert_eq!(names(&padded), []);
    let why = why("resnet20_a", &padded, None).unwrap();
    assert!(why.contains("both fc.weight and linear.weight"), "{why}");
}

#[test]
fn num_batches_tracked_is_ignored() {
    let mut shapes = shapes("resnet8", 10);
    shapes.insert("bn1.num_batches_tracked".into(), vec![]);
    shapes.insert("layer1.0.bn1.num_batches_tracked".into(), vec![]);
    assert_eq!(names(&shapes), [("resnet8", 10)]);
}

#[test]
fn a_mismatch_says_what_differs_and_what_fits() {
    let resnet56 = shapes("resnet56", 10);
    assert_eq!(
        why("resnet32x4", &resnet56, Some(100)).unwrap(),
        "does not fit resnet32x4: fc.weight is [10, 64], expected [100, 256]; it fits resnet56"
    );
    assert_eq!(
        why("resnet56", &resnet56, Some(100)).unwrap(),
        "does not fit resnet56: fc.weight is [10, 64], expected [100, 64]; it has 10 classes"
    );
    assert_eq!(
        why("resnet20", &resnet56, None).unwrap(),
        "does not fit resnet20: the network has no layer1.3.bn1.bias, nor 179 more of the checkpoint's tensors; it \
         fits resnet56"
    );
    assert_eq!(
        why("resnet110", &resnet56, None).unwrap(),
        "does not fit resnet110: layer1.9.conv1.weight and 269 more of its 557 tensors are missing; it fits resnet56"
    );
    assert_eq!(
        why("resnet20", &Shapes::new(), None).unwrap(),
        "does not fit resnet20: conv1.weight and 106 more of its 107 tensors are missing; it fits no known architecture"
    );
}

#[test]
fn a_hostile_classifier_fits_nothing() {
    for classifier in [vec![], vec![0, 64], vec![u64::MAX, 64], vec![10], vec![10, 64, 1]] {
        let mut shapes = shapes("resnet20", 10);
        shapes.insert("fc.weight".into(), classifier);
        assert_eq!(names(&shapes), []);
        assert!(why("resnet20", &shapes, None).is_some());
    }
}

#[test]
fn a_misspelt_name_gets_a_suggestion() {
    assert_eq!(suggest("resnet21"), Some("resnet20"));
    assert_eq!(suggest("ResNet-56"), Some("resnet56"));
    assert_eq!(suggest("resnet32-x4"), Some("resnet32x4"));
    assert_eq!(suggest("rsenet110"), Some("resnet110"));
    assert_eq!(suggest("transformer"), None);
    assert_eq!(suggest(&"resnet20".repeat(1000)), None);
}
