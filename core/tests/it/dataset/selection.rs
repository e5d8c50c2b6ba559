//! Promise: a limit and a fraction for evaluation take each class in proportion, the same images for every seed, and
//! what a job would miss is said.

use distillery_core::dataset::{
    Dataset, Fold, Frame, HeldOut, SelectionRequest, hold_out, plane_bytes, split_off, spread,
};

use super::support::{open, plain, put};

/// A folder of images whose red counts up, with so many images of each class.
fn folder(splits: &[(&str, &[(&str, u8)])]) -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    let mut red = 0;
    for (split, classes) in splits {
        for (class, images) in *classes {
            for image in 0..*images {
                put(&dir.path().join(format!("{split}/{class}/{image:03}.png")), &plain(red));
                red += 1;
            }
        }
    }
    let dataset = open(dir.path()).unwrap();
    (dir, dataset)
}

fn counts(labels: &[u32], classes: u32) -> Vec<usize> {
    (0..classes).map(|class| labels.iter().filter(|&&label| label == class).count()).collect()
}

#[test]
fn a_limit_is_spread_over_the_classes_of_a_sorted_split() {
    let even: &[(&str, u8)] = &[("blue", 5), ("green", 5), ("red", 5)];
    let (_dir, dataset) = folder(&[("train", even), ("test", even)]);
    let select = |limit| dataset.select(SelectionRequest { limit, ..SelectionRequest::default() }).unwrap();
    let selection = select(Some(6));
    assert_eq!(counts(&selection.train.labels, 3), [2, 2, 2]);
    assert_eq!(selection.eval.labels.len(), 15);
    assert_eq!(
        selection.notes,
        [
            "limit takes 6 of 15 training images, spread over 3 of 3 classes as the split has them and the same for every seed"
        ]
    );
    assert!(selection.warnings.is_empty());
    // The images are those that the labels say.
    let images = selection.train.open(&dataset).unwrap();
    let mut planes = vec![0; plane_bytes(2)];
    let reds: Vec<u8> = (0..6)
        .map(|index| {
            images.read(index, &Frame::Whole, 2, &mut planes).unwrap();
            planes[0]
        })
        .collect();
    assert_eq!(reds, [0, 2, 5, 7, 10, 12]);
    assert_eq!((0..6).map(|index| images.position(index)).collect::<Vec<_>>(), [0, 2, 5, 7, 10, 12]);
    assert_eq!(images.labels(), [0, 0, 1, 1, 2, 2]);
    assert!(select(Some(15)).train.positions.is_none() && select(Some(15)).notes.is_empty());
    let selection = select(Some(99));
    assert!(selection.train.positions.is_none());
    assert_eq!(selection.notes, ["limit is 99, but the data set has 15 training images: all of them are used"]);
    // Fewer images than classes: some are missing, which is said before anything is trained.
    let selection = select(Some(2));
    assert_eq!(counts(&selection.train.labels, 3), [1, 1, 0]);
    let [warning] = selection.warnings.as_slice() else { panic!("{:?}", selection.warnings) };
    assert!(warning.contains("lack 1 of the 3 classes that the evaluation has (red)"), "{warning}");
}

#[test]
fn classes_that_only_the_evaluation_has_are_named() {
    let (_dir, dataset) = folder(&[("train", &[("a", 3), ("b", 3)]), ("test", &[("b", 1)])]);
    let select = |train_split, eval_split| {
        dataset.select(SelectionRequest { train_split, eval_split, ..SelectionRequest::default() }).unwrap()
    };
    let [warning] = &*select(None, None).warnings else { panic!("there is one warning") };
    assert!(warning.contains("lack 1 of the 2 classes that are trained on (a)"), "{warning}");
    let [warning] = &*select(Some("test"), Some("train")).warnings else { panic!("there is one warning") };
    assert!(warning.contains("lack 1 of the 2 classes that the evaluation has (a)"), "{warning}");
}

#[test]
fn a_data_set_of_one_class_is_warned_of() {
    let (_dir, dataset) = folder(&[("train", &[("a", 3)]), ("test", &[("a", 1)])]);
    let [warning] = &*dataset.select(SelectionRequest::default()).unwrap().warnings else { panic!("one warning") };
    assert!(warning.contains("the data set has one class, so that every answer is right"), "{warning}");
}

#[test]
fn an_evaluation_on_the_split_that_is_trained_on_is_warned_of_however_it_is_spelt() {
    let (_dir, dataset) = folder(&[("Training", &[("a", 3), ("b", 3)]), ("test", &[("a", 1), ("b", 1)])]);
    let warnings = |train_split, eval_split, eval_fraction| {
        let request = SelectionRequest { train_split, eval_split, eval_fraction, ..SelectionRequest::default() };
        dataset.select(request).unwrap().warnings
    };
    for (train_split, eval_split) in [
        (None, Some("Training")),
        (None, Some("training")),
        (Some("training"), Some("TRAINING")),
        (Some("test"), None),
        (Some("Test"), Some("test")),
    ] {
        let found = warnings(train_split, eval_split, None);
        let [warning] = found.as_slice() else { panic!("{train_split:?} {eval_split:?}: {found:?}") };
        let split = if train_split.is_none_or(|split| split == "training") { "Training" } else { "test" };
        assert!(warning.contains(&format!("evaluated on {split:?}, the split that is trained on")), "{warning}");
    }
    assert_eq!(warnings(None, Some("test"), None), [""; 0]);
    assert_eq!(warnings(None, None, Some(0.4)), [""; 0]);
}

#[test]
fn shares_follow_the_classes_and_leave_none_out() {
    let labels: Vec<u32> =
        [(0, 900), (1, 90), (2, 9), (3, 1)].iter().flat_map(|&(class, count)| vec![class; count]).collect();
    let chosen = |wanted| -> Vec<u32> { spread(&labels, wanted).into_iter().map(|at| labels[at]).collect() };
    assert_eq!(counts(&chosen(100), 4), [89, 9, 1, 1]);
    assert_eq!(counts(&chosen(4), 4), [1, 1, 1, 1]);
    assert_eq!(counts(&chosen(2), 4), [2, 0, 0, 0]);
    assert_eq!(spread(&labels, 5_000).len(), 1_000);
    for wanted in 0..1_000 {
        let positions = spread(&labels, wanted);
        assert_eq!(positions.len(), wanted);
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(wanted < 4 || counts(&chosen(wanted), 4).iter().all(|&count| count > 0), "{wanted}");
    }
}

#[test]
fn a_fraction_for_evaluation_takes_of_each_class_and_overlaps_nothing() {
    let labels: Vec<u32> =
        [(0, 50), (1, 10), (2, 2), (3, 1)].iter().flat_map(|&(class, count)| vec![class; count]).collect();
    for fraction in [0.001, 0.1, 0.5, 0.9] {
        let (kept, held_out) = hold_out(&labels, fraction);
        let mut all = [kept.clone(), held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..63).collect::<Vec<_>>());
        let of = |positions: &[usize]| counts(&positions.iter().map(|&at| labels[at]).collect::<Vec<_>>(), 4);
        assert!(of(&kept).iter().all(|&count| count > 0), "{fraction}");
        assert_eq!(of(&held_out)[2..], [1, 0], "{fraction}");
        if fraction == 0.1 {
            assert_eq!(of(&held_out), [5, 1, 1, 0]);
        }
    }
}

#[test]
fn a_folder_without_splits_is_evaluated_on_a_stated_fraction() {
    let dir = tempfile::tempdir().unwrap();
    for class in ["cat", "dog"] {
        for image in 0..10 {
            put(&dir.path().join(format!("{class}/{image}.png")), &plain(image));
        }
    }
    let dataset = open(dir.path()).unwrap();
    let fault = dataset.select(SelectionRequest::default()).unwrap_err();
    assert_eq!(fault.field, Some("eval_split"));
    assert!(
        fault
            .to_string()
            .contains("its splits are: train; to evaluate on a part of the training split, set eval_fraction")
    );
    let request = SelectionRequest { eval_fraction: Some(0.2), ..SelectionRequest::default() };
    let selection = dataset.select(request).unwrap();
    assert_eq!((selection.train.labels.len(), selection.eval.labels.len()), (16, 4));
    let request = SelectionRequest { eval_fraction: Some(0.2), limit: Some(4), ..SelectionRequest::default() };
    let selection = dataset.select(request).unwrap();
    assert_eq!((counts(&selection.train.labels, 2), counts(&selection.eval.labels, 2)), (vec![2, 2], vec![2, 2]));
    let positions = |of: &distillery_core::dataset::SelectedImages| of.positions.clone().unwrap();
    assert!(positions(&selection.train).iter().all(|at| !positions(&selection.eval).contains(at)));
    assert_ne!(selection.train.digest(), selection.eval.digest());
    assert_eq!(
        selection.notes,
        [
            "the directory has no splits: all of its images are in the train split",
            "eval_fraction 0.2 holds out 4 of the 20 images of the train split for evaluation, from each class in \
             proportion and the same ones for every seed",
            "limit takes 4 of 16 training images, spread over 2 of 2 classes as the split has them and the same for \
             every seed",
        ]
    );
    let (_dir, single) = folder(&[("train", &[("a", 1), ("b", 1)])]);
    let fault =
        single.select(SelectionRequest { eval_fraction: Some(0.5), ..SelectionRequest::default() }).unwrap_err();
    assert!(fault.to_string().contains("no class of the train split has two images"), "{fault}");
}

#[test]
fn folds_are_disjoint_cover_the_split_and_have_its_classes() {
    let labels: Vec<u32> = [(0, 50), (1, 11), (2, 3)].iter().flat_map(|&(class, count)| vec![class; count]).collect();
    for seed in [None, Some(1)] {
        let mut all = Vec::new();
        for number in 1..=5 {
            let (kept, held_out) = split_off(&labels, HeldOut::Fold(Fold { number, of: 5 }), seed);
            assert!(kept.iter().all(|at| !held_out.contains(at)) && kept.len() + held_out.len() == labels.len());
            let found = counts(&held_out.iter().map(|&at| labels[at]).collect::<Vec<_>>(), 3);
            assert!(found[0] == 10 && (2..=3).contains(&found[1]) && found[2] <= 1, "{found:?}");
            assert!((12..=13).contains(&held_out.len()), "{}", held_out.len());
            all.extend(held_out);
        }
        all.sort_unstable();
        assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
    }
}

#[test]
fn a_fold_says_how_many_images_of_a_class_it_has_and_which_classes_are_too_small() {
    let (_dir, dataset) = folder(&[("train", &[("a", 6), ("b", 6), ("c", 2)])]);
    let select = |number, of| {
        let fold = Some(Fold { number, of });
        dataset.select(SelectionRequest { fold, ..SelectionRequest::default() }).unwrap()
    };
    let halves = select(1, 2);
    assert_eq!(counts(&halves.eval.labels, 3), [3, 3, 1]);
    assert!(halves.notes[0].contains("holds out 7 of the 14 images of the train split for evaluation, 1 to 3 of each"));
    assert_eq!(halves.warnings, [""; 0]);
    // Of the third class, the first of three folds has an image and the last has none.
    let few = "1 class has fewer images than there are folds, 3 (c): some folds evaluate on none of them";
    let [first, last] = [1, 3].map(|number| select(number, 3));
    assert_eq!([&first, &last].map(|fold| counts(&fold.eval.labels, 3)), [[2, 2, 1], [2, 2, 0]]);
    let [warning] = first.warnings.as_slice() else { panic!("{:?}", first.warnings) };
    assert!(warning.contains(few), "{warning}");
    let [lacks, warning] = last.warnings.as_slice() else { panic!("{:?}", last.warnings) };
    assert!(lacks.contains("the evaluation images lack 1 of the 3 classes that are trained on (c)"), "{lacks}");
    assert!(warning.contains(few), "{warning}");
    assert!(last.notes[0].contains("0 to 2 of each class and the same ones for every seed"), "{:?}", last.notes);
}

#[test]
fn a_seed_draws_other_images_of_the_same_classes() {
    let labels: Vec<u32> = (0..60).map(|at| at % 3).collect();
    let held_out = |seed| split_off(&labels, HeldOut::Fraction(0.2), seed).1;
    assert_eq!(held_out(None), hold_out(&labels, 0.2).1);
    assert_eq!(held_out(Some(7)), held_out(Some(7)));
    assert_ne!(held_out(Some(7)), held_out(Some(8)));
    for seed in [None, Some(7)] {
        assert_eq!(counts(&held_out(seed).iter().map(|&at| labels[at]).collect::<Vec<_>>(), 3), [4, 4, 4]);
    }
}

#[test]
fn a_limit_per_class_takes_as_many_of_each_and_says_where_there_are_fewer() {
    let (_dir, dataset) = folder(&[("train", &[("a", 9), ("b", 4), ("c", 1)]), ("test", &[("a", 1)])]);
    let request = SelectionRequest { limit_per_class: Some(4), ..SelectionRequest::default() };
    let selection = dataset.select(request).unwrap();
    assert_eq!(counts(&selection.train.labels, 3), [4, 4, 1]);
    let [note] = selection.notes.as_slice() else { panic!("{:?}", selection.notes) };
    assert!(
        note.contains("takes 9 of 14 training images, 4 of each class") && note.contains("1 of 3 classes have fewer")
    );
    let fold = Some(Fold { number: 1, of: 3 });
    let selection = dataset.select(SelectionRequest { fold, limit_per_class: Some(2), ..SelectionRequest::default() });
    let selection = selection.unwrap();
    assert_eq!(counts(&selection.train.labels, 3)[..2], [2, 2]);
    let both = |of: &distillery_core::dataset::SelectedImages| of.positions.clone().unwrap();
    assert!(both(&selection.train).iter().all(|at| !both(&selection.eval).contains(at)));
}
