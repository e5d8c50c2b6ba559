//! The report on what the teacher sees in the regions counts what is there.

use distillery::spec::Grouping;
use distillery_trainer::loss::region::Loss;
use distillery_trainer::loss::region_report::{Tally, Vote};
use distillery_trainer::loss::sdd::{Distillation, GroupWeights, Regions};
use tch::{Device, Kind, Tensor};

/// Logits whose largest is at the given class: `[.., 3]`.
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

/// Two images: the first is class 0 and taken for 0, but its upper right region for 2; the second is class 1 and taken
/// for 0, but its upper right region for 1 and its lower left one for 2.
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
fn by_label_a_region_is_complementary_where_one_is_right_and_the_other_wrong() {
    let names = ["bear", "wolf", "fox"].map(str::to_owned);
    let report = tally(&distillation(Grouping::Label)).report(&[1, 2], Some(&names)).unwrap();
    assert_eq!(report.images, 2);
    assert!((report.complementary_fraction - 2.0 / 10.0).abs() < 1e-12);
    assert_eq!(report.scales[0].map, [[0.0]]);
    // Both images have it in the upper right; the lower left of the second is as wrong as the whole.
    assert_eq!(report.scales[1].map, [[0.0, 1.0], [0.0, 0.0]]);
    assert!((report.scales[1].complementary_fraction - 2.0 / 8.0).abs() < 1e-12);
    assert_eq!(report.votes, [vote(0, 1, 1, 1), vote(0, 2, 1, 0)]);
}

#[test]
fn by_class_a_region_is_complementary_where_it_says_another_class() {
    let report = tally(&distillation(Grouping::Class)).report(&[1, 2], None).unwrap();
    assert_eq!(report.scales[1].map, [[0.0, 1.0], [0.5, 0.0]]);
    let votes: Vec<_> = report.votes.iter().map(|vote| (vote.predicted, vote.vote, vote.regions, vote.right)).collect();
    // The most frequent first.
    assert_eq!(votes, [(0, 2, 2, 0), (0, 1, 1, 1)]);
    assert_eq!(report.votes[0].vote_name, None);
}
