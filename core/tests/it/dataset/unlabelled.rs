//! Promise: images without labels, or whose labels are not to be used, are found beside those with labels.

use distillery_core::dataset::{Dataset, Frame, Images, Joined, SelectionRequest, UNLABELLED, plane_bytes};

use super::support::{open, plain, put};

/// Two classes with three images each, an evaluation split, and four images without labels, whose red counts up.
fn folder() -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    let names = ["train/a/0", "train/a/1", "train/a/2", "train/b/0", "train/b/1", "train/b/2", "test/a/0", "test/b/0"];
    let unlabelled = ["more/0", "more/deep/1", "more/2", "more/3"];
    for (red, name) in (0..).zip(names.iter().chain(&unlabelled)) {
        put(&dir.path().join(format!("{name}.png")), &plain(red));
    }
    let dataset = open(dir.path()).unwrap();
    (dir, dataset)
}

fn red(images: &dyn Images, index: usize) -> u8 {
    let mut planes = vec![0; plane_bytes(4)];
    images.read(index, &Frame::Whole, 4, &mut planes).unwrap();
    planes[0]
}

#[test]
fn a_directory_of_images_without_classes_beside_the_splits_is_a_split_without_labels() {
    let (_dir, dataset) = folder();
    assert_eq!(dataset.splits(), ["test", "train"]);
    let note = "the 4 images in more are in no class: a job can distil from them with dataset.unlabelled_split";
    assert!(dataset.notes().contains(&note.to_owned()), "{:?}", dataset.notes());
    let request = SelectionRequest { unlabelled_split: Some("More"), ..SelectionRequest::default() };
    let selection = dataset.select(request).unwrap();
    assert_eq!(selection.unlabelled, Some(("more".to_owned(), 4)));
    assert_eq!((selection.train.labels.len(), selection.warnings.len()), (6, 0));
    assert!(selection.notes.iter().any(|note| note.contains("distilled from the teacher alone, beside 6 with labels")));
    let images = dataset.without_labels("more").unwrap();
    assert_eq!(images.labels(), [UNLABELLED; 4]);
    let mut reds: Vec<u8> = (0..4).map(|index| red(&*images, index)).collect();
    reds.sort_unstable();
    assert_eq!(reds, [8, 9, 10, 11]);
    assert_ne!(dataset.sha256("more").unwrap(), dataset.sha256("train").unwrap());
    assert!(dataset.stamp("more").is_ok());
    // It cannot be trained on with labels, or evaluated on.
    for request in [
        SelectionRequest { train_split: Some("more"), ..SelectionRequest::default() },
        SelectionRequest { eval_split: Some("more"), ..SelectionRequest::default() },
    ] {
        assert!(dataset.select(request).is_err());
    }
}

#[test]
fn the_labels_of_another_split_are_not_used() {
    let (_dir, dataset) = folder();
    let select =
        |split| dataset.select(SelectionRequest { unlabelled_split: Some(split), ..SelectionRequest::default() });
    let selection = select("test").unwrap();
    assert_eq!(selection.unlabelled, Some(("test".to_owned(), 2)));
    let [warning] = selection.warnings.as_slice() else { panic!("{:?}", selection.warnings) };
    assert!(warning.contains("trained on without their labels and evaluated on"), "{warning}");
    assert_eq!(dataset.without_labels("test").unwrap().labels(), [UNLABELLED; 2]);
    let fault = select("train").unwrap_err();
    assert_eq!(fault.field, Some("unlabelled_split"));
    assert!(fault.to_string().contains("trained on with its labels already"), "{fault}");
    assert!(select("none").unwrap_err().to_string().contains("its splits are"));
}

#[test]
fn a_limit_of_zero_trains_on_images_without_labels_alone() {
    let (dir, dataset) = folder();
    let request = |unlabelled_split| SelectionRequest {
        limit: Some(0),
        unlabelled_split: Some(unlabelled_split),
        ..SelectionRequest::default()
    };
    // Those of the training split, too.
    for (split, images) in [("more", 4), ("train", 6)] {
        let selection = dataset.select(request(split)).unwrap();
        assert_eq!(selection.unlabelled, Some((split.to_owned(), images)));
        assert_eq!((selection.train.positions.as_deref(), selection.train.labels.len()), (Some([].as_slice()), 0));
        assert_eq!((selection.eval.labels.len(), selection.warnings.as_slice()), (2, [].as_slice()));
        assert!(selection.notes.contains(&"limit is 0: no image is trained on with its label".to_owned()));
        let joined = Joined::new(selection.train.open(&dataset).unwrap(), dataset.without_labels(split).unwrap());
        assert_eq!(joined.labels(), vec![UNLABELLED; images as usize]);
    }
    // The evaluation split has the classes, too.
    std::fs::remove_dir_all(dir.path().join("train")).unwrap();
    let selection = open(dir.path()).unwrap().select(request("more")).unwrap();
    assert_eq!((selection.train.split.as_str(), selection.train.labels.len()), ("test", 0));
    assert_eq!((selection.eval.split.as_str(), selection.warnings.len()), ("test", 0));
}

#[test]
fn two_splits_are_read_one_after_the_other() {
    let (_dir, dataset) = folder();
    let joined = Joined::new(dataset.split("train").unwrap(), dataset.without_labels("more").unwrap());
    assert_eq!(joined.labels(), [0, 0, 0, 1, 1, 1, UNLABELLED, UNLABELLED, UNLABELLED, UNLABELLED]);
    let mut reds: Vec<u8> = (0..10).map(|index| red(&joined, index)).collect();
    reds.sort_unstable();
    assert_eq!(reds, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]);
    let mut positions: Vec<usize> = (0..10).map(|index| joined.position(index)).collect();
    positions.dedup();
    assert_eq!(positions, (0..10).collect::<Vec<_>>());
    (0..10).for_each(|index| joined.fetch(index));
}
