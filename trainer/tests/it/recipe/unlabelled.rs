//! What is measured where few images have a label, or none.

use distillery_trainer::ranks::Ranks;
use distillery_trainer::run::metrics::{Meter, Metric, StepMetrics};
use tch::{Device, Kind, Tensor};

#[test]
fn training_accuracy_is_that_of_the_labelled_images_and_missing_without_one() {
    let mut meter = Meter::new(&[], Device::Cpu).with_unlabelled();
    let scalar = |value: f64| Tensor::from(value).to_kind(Kind::Float);
    // The student predicts class 1 for every image.
    let logits = Tensor::from_slice(&[0_f32, 1.0]).expand([4, 2], false);
    let mut means_of = |batches: &[[i64; 4]]| {
        for (step, labels) in (1_i64..).zip(batches) {
            // The loss of an image with a label is 2, and the mean is over all images.
            let labelled = labels.iter().filter(|&&label| label >= 0).count() as f64;
            let (loss, cross_entropy, labels) = (scalar(1.0), scalar(labelled / 2.0), Tensor::from_slice(labels));
            meter.add(&StepMetrics::new(&loss, &cross_entropy, &logits, &labels, None), 4, &Tensor::from(step));
            meter.count(4);
        }
        let means = meter.read(&Ranks::single()).unwrap().unwrap();
        (means.images, means.labelled, means.metrics)
    };
    let (images, labelled, metrics) = means_of(&[[-1, 1, -1, -1], [0, -1, 1, -1]]);
    assert_eq!((images, labelled), (8, 3));
    let value = |wanted: Metric| metrics.iter().find(|(metric, _)| *metric == wanted).map(|(_, value)| *value);
    let near = |found: Option<f64>, expected: f64| found.is_some_and(|found| (found - expected).abs() < 1e-9);
    assert!(near(value(Metric::Top1), 200.0 / 3.0) && near(value(Metric::CrossEntropy), 2.0), "{metrics:?}");
    assert!(near(value(Metric::LabelledFraction), 3.0 / 8.0) && near(value(Metric::Loss), 1.0), "{metrics:?}");
    let (images, labelled, metrics) = means_of(&[[-1; 4]]);
    assert_eq!((images, labelled), (4, 0));
    assert_eq!(metrics, [(Metric::Loss, 1.0), (Metric::LabelledFraction, 0.0)]);
}
