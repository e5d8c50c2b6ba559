//! Promise: a network whose classes are in another order is understood by their names, or its order is guessed from
//! what it predicts.

use distillery_core::class_order::ClassOrder;

use crate::support::random::Random;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn by_name(network: &[&str], data: &[&str]) -> Result<ClassOrder, String> {
    ClassOrder::by_name(&names(network), &names(data))
}

#[test]
fn classes_are_found_by_name_in_any_order_and_spelling() {
    let order = by_name(&["dog", "owl", "cat"], &["cat", "dog", "owl"]).unwrap();
    assert_eq!((order.outputs(), order.moved(), order.is_identity()), (&[2, 0, 1][..], 3, false));
    assert_eq!(order.names(&names(&["cat", "dog", "owl"])), ["dog", "owl", "cat"]);
    assert!(by_name(&["a", "b"], &["a", "b"]).unwrap().is_identity());
    let spelt = by_name(&["Maine_Coon", "great-dane"], &["great dane", "maine coon"]).unwrap();
    assert_eq!(spelt.outputs(), [1, 0]);
    assert_eq!(by_name(&["dog", "caf\u{e9}"], &["cafe\u{301}", "dog"]).unwrap().outputs(), [1, 0]);
    // Names that differ only in case are two classes where each is there as it is.
    assert_eq!(by_name(&["A", "a"], &["a", "A"]).unwrap().outputs(), [1, 0]);
    let accents = by_name(&["A", "a", "caf\u{e9}"], &["a", "cafe\u{301}", "A"]).unwrap();
    assert_eq!(accents.outputs(), [1, 2, 0]);
}

#[test]
fn names_of_other_classes_are_told() {
    let wrong = |network: &[&str], data: &[&str]| by_name(network, data).unwrap_err();
    assert_eq!(
        wrong(&["cat", "lion"], &["cat", "dog"]),
        "names \"lion\", which the data set does not have, and not \"dog\""
    );
    assert_eq!(wrong(&["cat"], &["cat", "dog"]), "has 1 names for 2 classes");
    // As people read them, whatever form their accents have.
    let accented = wrong(&["A\u{308}pfel", "cat"], &["Birnen", "cat"]);
    assert_eq!(accented, "names \"A\u{308}pfel\", which the data set does not have, and not \"Birnen\"");
    assert_eq!(wrong(&["cat", "cat"], &["cat", "dog"]), "names \"cat\" twice");
    let many: Vec<String> = (0..9).map(|number| format!("n{number}")).collect();
    let others: Vec<String> = (0..9).map(|number| format!("m{number}")).collect();
    let told = ClassOrder::by_name(&many, &others).unwrap_err();
    assert!(told.contains("\"n4\" and 4 more, which") && told.ends_with("\"m4\" and 4 more"), "{told}");
}

#[test]
fn cycles_name_the_classes_that_change_places() {
    let order = by_name(&["a", "c", "b", "f", "d", "e"], &["a", "b", "c", "d", "e", "f"]).unwrap();
    assert_eq!(order.outputs(), [0, 2, 1, 4, 5, 3]);
    assert_eq!(order.cycles(&[]), "1↔2, 3→4→5→3");
    assert_eq!(order.cycles(&names(&["a", "b", "c", "d", "e", "f"])), "b↔c, d→e→f→d");
}

/// Pairs of 20 images for each class, of which 15 are predicted by an order and the others as the class after.
fn pairs(order: &[u32]) -> Vec<[u32; 2]> {
    let classes = order.len() as u32;
    let of_class = |(label, &predicted): (u32, &u32)| {
        (0..20).map(move |image| [label, if image < 15 { predicted } else { (predicted + 1) % classes }])
    };
    (0..).zip(order).flat_map(of_class).collect()
}

#[test]
fn an_order_that_explains_the_predictions_is_guessed_with_its_accuracy() {
    let order = [0, 2, 1, 3, 4, 5, 8, 6, 7, 9];
    let guess = ClassOrder::guess(&pairs(&order), 10).unwrap();
    assert_eq!((guess.order.outputs(), guess.top1), (&order[..], 75.0));
    assert_eq!(guess.order.cycles(&[]), "1↔2, 6→8→7→6");
}

#[test]
fn a_class_that_is_never_predicted_takes_the_output_that_is_left() {
    // Class 1 has no images, and its output is free.
    let some: Vec<[u32; 2]> = pairs(&[3, 1, 2, 0]).into_iter().filter(|[label, _]| *label != 1).collect();
    let guess = ClassOrder::guess(&some, 4).unwrap();
    assert_eq!(guess.order.outputs(), [3, 1, 2, 0]);
}

#[test]
fn nothing_is_guessed_of_a_teacher_that_is_right_or_guesses_or_of_few_images() {
    assert_eq!(ClassOrder::guess(&pairs(&[0, 1, 2, 3]), 4), None);
    assert_eq!(ClassOrder::guess(&pairs(&[1, 0, 2, 3])[..19], 4), None);
    let mut random = Random(5);
    let noise: Vec<[u32; 2]> = (0..1000).map(|image| [image % 10, random.below(10) as u32]).collect();
    assert_eq!(ClassOrder::guess(&noise, 10), None);
}
