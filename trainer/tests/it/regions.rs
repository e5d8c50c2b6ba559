//! The region report counts the teacher's predictions for regions.

use distillery_core::spec::Grouping;
use distillery_trainer::loss::region::Loss;
use distillery_trainer::loss::region_report::{Tally, Vote};
use distillery_trainer::loss::sdd::{Distillation, GroupWeights, Regions};
use tch::{Device, Kind, Tensor};

/// Logits `[.., 3]` that predict the given classes.
fn says(classes: &[i64], shape: &[i64]) -> Tensor {
    Tensor::from_slice(classes).view(shape).one_hot(3).to_kind(Kind::Float)
}

fn distillation(grouping: Grouping) -> Distillation {
    Distillation::from_parts(
        Loss::Kd { temperature: 4.0 },
        &[1, 2],
        &[1.0, 1.0],
        grouping,
        GroupWeights { consistent: 1.0, complementary: 2.0 },
        Device::Cpu,
    )
}

/// Two images. The first has label 0 and prediction 0, but 2 for its upper right region. The second has label 1 and
/// prediction 0, but 1 for its upper right region and 2 for its lower left one.
fn tally(distillation: &Distillation) -> Tally {
    let mut tally = Tally::default();
    for (label, global, regions) in [(0, 0, [0, 2, 0, 0]), (1, 0, [0, 1, 2, 0])] {
        let local = [&[global], &regions[..]].concat();
        let teacher = Regions { global: says(&[global], &[1]), local: says(&local, &[1, 5]) };
        tally.add(distillation, &teacher, &Tensor::from_slice(&[label]));
    }
    tally
}

fn vote(predicted: u32, vote: u32, regions: u64, right: u64) -> Vote {
    let name = |class: u32| Some(["bear", "wolf", "fox"][class as usize].to_owned());
    Vote { predicted, predicted_name: name(predicted), vote, vote_name: name(vote), regions, right }
}

#[test]
fn grouped_by_label_a_region_is_complementary_where_only_one_prediction_is_right() {
    let names = ["bear", "wolf", "fox"].map(str::to_owned);
    let report = tally(&distillation(Grouping::Label)).report(&[1, 2], Some(&names)).unwrap();
    assert_eq!(report.images, 2);
    assert!((report.complementary_fraction - 2.0 / 10.0).abs() < 1e-12);
    assert_eq!(report.scales[0].map, [[0.0]]);
    // The upper right of both images. The lower left of the second is wrong, as is the prediction for the whole image.
    assert_eq!(report.scales[1].map, [[0.0, 1.0], [0.0, 0.0]]);
    assert!((report.scales[1].complementary_fraction - 2.0 / 8.0).abs() < 1e-12);
    assert_eq!(report.votes, [vote(0, 1, 1, 1), vote(0, 2, 1, 0)]);
}

#[test]
fn grouped_by_class_a_region_is_complementary_where_the_predictions_differ() {
    let report = tally(&distillation(Grouping::Class)).report(&[1, 2], None).unwrap();
    assert_eq!(report.scales[1].map, [[0.0, 1.0], [0.5, 0.0]]);
    let votes: Vec<_> = report.votes.iter().map(|vote| (vote.predicted, vote.vote, vote.regions, vote.right)).collect();
    // Most frequent first.
    assert_eq!(votes, [(0, 2, 2, 0), (0, 1, 1, 1)]);
    assert_eq!(report.votes[0].vote_name, None);
}
