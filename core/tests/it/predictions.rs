//! Promise: what two networks predict is counted right, and comes back from its file as it was.

use distillery_core::checkpoint::{self, Dtype, NewTensor};
use distillery_core::predictions::{
    ConfusionCell, NetworkPredictions, OutcomeCounts, Pictures, PredictionFile, PredictionOutcome, Predictions,
    RegionVotes, read, write,
};
use std::collections::BTreeMap;

/// Six images of three classes.
fn predictions() -> Predictions {
    Predictions {
        classes: 3,
        positions: vec![0, 1, 2, 4, 5, 6],
        labels: vec![0, 0, 1, 1, 2, 2],
        student: NetworkPredictions {
            predicted: vec![0, 1, 1, 2, 2, 0],
            confidence: vec![0.9, 0.62, 0.81, 0.5, 0.65, 0.41],
            of_label: vec![0.9, 0.3, 0.81, 0.4, 0.65, 0.35],
        },
        teacher: Some(NetworkPredictions {
            predicted: vec![0, 0, 1, 2, 1, 1],
            confidence: vec![0.95, 0.8, 0.9, 0.6, 0.55, 0.5],
            of_label: vec![0.95, 0.8, 0.9, 0.3, 0.35, 0.2],
        }),
    }
}

fn file() -> PredictionFile {
    let names = ["cat", "dog", "owl"].map(str::to_owned).to_vec();
    let regions = RegionVotes {
        scales: vec![1, 2],
        student: vec![1, 0, 1, 2, 0, 0, 0, 0, 0, 0],
        teacher: vec![0, 0, 1, 0, 2, 1, 1, 1, 1, 1],
        complementary: vec![false, false, true, false, true, false, false, false, false, false],
    };
    let pictures = Pictures { images: vec![1, 5], side: 2, pixels: (0..24).collect(), regions: Some(regions) };
    PredictionFile { split: "test".into(), names: Some(names), predictions: predictions(), pictures: Some(pictures) }
}

#[test]
fn confusion_classes_and_agreement_are_those_computed_by_hand() {
    let names = ["cat", "dog", "owl"].map(str::to_owned);
    let report = predictions().report("test", Some(&names));
    assert_eq!((report.split.as_str(), report.images, report.agreement), ("test", 6, Some(50.0)));
    assert_eq!(report.outcomes, OutcomeCounts { right: 2, student_wrong: 1, teacher_wrong: 1, both_wrong: 2 });
    let teacher = report.teacher.as_ref().unwrap();
    assert!((report.student.top1 - 50.0).abs() < 1e-9 && (teacher.top1 - 50.0).abs() < 1e-9, "{report:?}");
    let cell = |[label, predicted, student, teacher]: [u32; 4]| ConfusionCell {
        label,
        predicted,
        student: student.into(),
        teacher: teacher.into(),
    };
    let cells =
        [[0, 0, 1, 2], [0, 1, 1, 0], [1, 1, 1, 1], [1, 2, 1, 1], [2, 0, 1, 0], [2, 1, 0, 2], [2, 2, 1, 0]].map(cell);
    assert_eq!((report.cells.as_slice(), report.cells_left_out), (cells.as_slice(), 0));
    let of_class = |class: usize| {
        let of = &report.classes[class];
        let recalls = [of.student, of.teacher, of.agreement].map(Option::unwrap);
        (of.name.clone().unwrap(), of.images, recalls, [of.student_predicted, of.teacher_predicted.unwrap()])
    };
    assert_eq!(of_class(0), ("cat".into(), 2, [50.0, 100.0, 50.0], [2, 2]));
    assert_eq!(of_class(1), ("dog".into(), 2, [50.0, 50.0, 100.0], [2, 3]));
    assert_eq!(of_class(2), ("owl".into(), 2, [50.0, 0.0, 0.0], [2, 1]));
}

#[test]
fn the_calibration_error_weighs_the_bins_by_their_images() {
    let report = predictions().report("test", None);
    let calibration = &report.student.calibration;
    // The confidences 0.62 (wrong) and 0.65 (right) are in one bin, the others in bins of their own.
    let expected = (0.1 + (1.27 - 1.0) + 0.19 + 0.5 + 0.41) / 6.0;
    assert!((calibration.ece - 100.0 * expected).abs() < 1e-4, "{}", calibration.ece);
    let images: Vec<u64> = calibration.bins.iter().map(|bin| bin.images).collect();
    assert_eq!(images, [0, 0, 0, 0, 0, 0, 1, 1, 0, 2, 0, 0, 1, 1, 0]);
    let bin = &calibration.bins[9];
    assert!((bin.up_to - 200.0 / 3.0).abs() < 1e-9 && bin.accuracy == Some(50.0), "{bin:?}");
    assert!((bin.confidence.unwrap() - 63.5).abs() < 1e-4, "{bin:?}");
    assert_eq!((calibration.bins[0].confidence, calibration.bins[0].accuracy), (None, None));
}

#[test]
fn the_images_that_are_chosen_are_where_one_is_wrong_then_where_the_networks_differ() {
    use PredictionOutcome::{BothWrong, Right, StudentWrong, TeacherWrong};
    let predictions = predictions();
    let outcomes: Vec<PredictionOutcome> = (0..6).map(|image| predictions.outcome(image)).collect();
    assert_eq!(outcomes, [Right, StudentWrong, Right, BothWrong, TeacherWrong, BothWrong]);
    assert!((predictions.difference(1) - 0.5).abs() < 1e-6);
    assert_eq!(predictions.chosen(4), [1, 3, 4, 5]);
    assert_eq!(predictions.chosen(5), [1, 2, 3, 4, 5]);
    assert_eq!(predictions.chosen(100), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn without_a_teacher_the_student_alone_is_counted() {
    let alone = Predictions { teacher: None, ..predictions() };
    let report = alone.report("test", None);
    assert_eq!(report.outcomes, OutcomeCounts { right: 3, student_wrong: 3, ..OutcomeCounts::default() });
    assert_eq!((report.agreement, report.teacher.is_none(), report.classes[0].teacher), (None, true, None));
    assert!((alone.difference(1) - 0.7).abs() < 1e-6);
}

#[test]
fn the_rarest_of_many_cells_are_left_out_and_counted() {
    // 30,000 images of 200 classes: each pair of label and prediction once, but the first one again and again.
    let images = 30_000_u32;
    let cell = |image: u32| if image < 25_000 { [image / 200, image % 200] } else { [124, 199] };
    let labels = (0..images).map(|image| cell(image)[0]).collect();
    let predicted: Vec<u32> = (0..images).map(|image| cell(image)[1]).collect();
    let probabilities = vec![0.5; images as usize];
    let student = NetworkPredictions { predicted, confidence: probabilities.clone(), of_label: probabilities };
    let many = Predictions { classes: 200, positions: (0..images.into()).collect(), labels, student, teacher: None };
    let report = many.report("test", None);
    assert_eq!((report.cells.len(), report.cells_left_out), (20_000, 5_000));
    let last = report.cells.last().unwrap();
    assert_eq!((last.label, last.predicted, last.student), (124, 199, 5_001));
    assert!(report.cells.is_sorted_by_key(|cell| (cell.label, cell.predicted)));
}

#[test]
fn a_file_comes_back_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("predictions.safetensors");
    write(&path, &file()).unwrap();
    assert_eq!(read(&path).unwrap(), file());
    let bytes = std::fs::read(&path).unwrap();
    write(&path, &file()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let plain = PredictionFile {
        names: None,
        predictions: Predictions { teacher: None, ..predictions() },
        pictures: None,
        ..file()
    };
    write(&path, &plain).unwrap();
    assert_eq!(read(&path).unwrap(), plain);
}

#[test]
fn files_whose_parts_do_not_fit_each_other_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("predictions.safetensors");
    let refused = |change: &dyn Fn(&mut PredictionFile), why: &str| {
        let mut wrong = file();
        change(&mut wrong);
        write(&path, &wrong).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    let pictures = |file: &mut PredictionFile| file.pictures.take().unwrap();
    refused(&|file| file.predictions.labels[3] = 3, "have 3 in labels, where every number is below 3");
    refused(&|file| file.predictions.classes = 2, "every number is below 2");
    refused(&|file| file.pictures = Some(Pictures { images: vec![1, 6], ..pictures(file) }), "pictures.image");
    let of_regions = |file: &mut PredictionFile, change: &dyn Fn(&mut RegionVotes)| {
        change(file.pictures.as_mut().unwrap().regions.as_mut().unwrap());
    };
    refused(&|file| of_regions(file, &|regions| regions.teacher[0] = 7), "have 7 in regions.teacher");
    let labels = 0_u32.to_le_bytes();
    let only = NewTensor { name: "labels", dtype: Dtype::I32, shape: &[1], bytes: &labels };
    let classes = BTreeMap::from([("num_classes".to_owned(), "3".to_owned())]);
    checkpoint::write(&path, &[only], &classes).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("have no tensor positions"), "{error}");
    checkpoint::write(&path, &[only], &BTreeMap::new()).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("do not say how many classes"));
}
