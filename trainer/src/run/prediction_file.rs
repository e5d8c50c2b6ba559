//! What the student gets wrong: the predictions of both networks for every evaluation image, which the run has noted,
//! and a closer look at a few hundred of these images.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use super::manifest;
use super::predictions::MOST_IMAGES;
use super::setup::{Setup, restore};
use crate::data::Batch;
use crate::device::cuda::Tf32;
use crate::error::{Error, Result};
use crate::loss::sdd::{Distillation, Regions};
use crate::models::Network;
use crate::models::state_dict::{self, StateDict};
use distillery_core::checkpoint;
use distillery_core::predictions::{self, Pictures, PredictionFile, PredictionReport, Predictions, RegionVotes};
use distillery_core::protocol::files;

/// Most images that there are pictures of: 27 KB each.
const MOST_PICTURES: usize = 256;
/// Largest side of a picture in pixels.
const LARGEST_SIDE: u32 = 96;
/// Images that are evaluated at a time.
const BATCH: u32 = 64;

/// Writes the predictions of the best student and of the teacher, and what is counted of them; with `pictures`, also
/// small pictures of some images and what both networks see in their regions. The best student remains in the network.
/// Returns what the job's history says of them.
///
/// # Errors
/// The predictions are not known, an image cannot be read, or a file cannot be written. Those of an earlier run, which
/// are of other students, are gone then too.
pub fn write(output: &Path, setup: &Setup, best: &StateDict, pictures: bool) -> Result<String> {
    let [path, report] = [files::PREDICTIONS, files::PREDICTION_REPORT].map(|name| output.join(name));
    for old in [&path, &report] {
        match std::fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::storage(old)(error)),
            _ => {}
        }
    }
    let images = setup.data.eval.len();
    if images > MOST_IMAGES {
        return Err(Error::user(format!(
            "the evaluation split has {images} images, and the predictions of at most {MOST_IMAGES} are kept"
        )));
    }
    let predictions = setup.state.predictions.joined(setup.data.classes.count)?.ok_or_else(|| {
        Error::user("an earlier version of this program made the best evaluation, and did not note its predictions")
    })?;
    let names = setup.data.classes.names.clone();
    let split = setup.data.splits.eval.clone();
    let counted = predictions.report(&split, names.as_deref());
    let pictures = if pictures { Some(take_pictures(setup, best, &predictions)?) } else { None };
    let file = PredictionFile { split, names, predictions, pictures };
    predictions::write(&path, &file).map_err(|error| match error {
        checkpoint::Error::Io(io) => Error::storage(&path)(io),
        other => Error::internal(format!("{}: {other}", path.display())),
    })?;
    manifest::write_json(&report, &counted)?;
    Ok(summary(&counted))
}

fn summary(PredictionReport { images, outcomes, teacher, .. }: &PredictionReport) -> String {
    let wrong = outcomes.student_wrong + outcomes.both_wrong;
    let of_teacher = match teacher {
        Some(_) => format!("; its teacher is right about {} of these", outcomes.student_wrong),
        None => String::new(),
    };
    format!(
        "the best student is wrong about {wrong} of {images} evaluation images{of_teacher} ({} and {})",
        files::PREDICTION_REPORT,
        files::PREDICTIONS
    )
}

/// Has both networks look at the images that people are shown.
fn take_pictures(setup: &Setup, best: &StateDict, predictions: &Predictions) -> Result<Pictures> {
    let _guard = tch::no_grad_guard();
    let _full_precision = Tf32::set(false);
    restore(&setup.student, best)?;
    let loader = &setup.data.eval;
    let chosen = predictions.chosen(MOST_PICTURES);
    let position = |&image: &usize| usize::try_from(predictions.positions[image]).unwrap_or(usize::MAX);
    let image_at: BTreeMap<usize, usize> = chosen.iter().map(|image| (position(image), *image)).collect();
    let positions: Vec<usize> = image_at.keys().copied().collect();
    let compared = RegionNetworks::of(setup, loader.side());
    let scales = compared.as_ref().map(|compared| compared.distillation.scales.clone());
    let side = loader.side().min(LARGEST_SIDE);
    let mut pictures = Pictures { images: Vec::new(), side, pixels: Vec::new(), regions: None };
    let mut votes = Votes::default();
    for batch in loader.at(&positions, BATCH) {
        let Batch { images, labels, indices, .. } = batch?;
        pictures.images.extend(indices.iter().filter_map(|position| Some(*image_at.get(position)? as u32)));
        pictures.pixels.append(&mut pixels(&images, side)?);
        if let Some(compared) = &compared {
            votes.add(compared, &images, &labels, setup)?;
        }
    }
    let Votes { student, teacher, complementary } = votes;
    pictures.regions = scales.map(|scales| RegionVotes { scales, student, teacher, complementary });
    Ok(pictures)
}

/// The networks of a method with regions.
struct RegionNetworks<'a> {
    student: Network,
    teacher: Network,
    distillation: &'a Distillation,
}

impl<'a> RegionNetworks<'a> {
    /// `None` for a method without regions, or with no others than whole images.
    fn of(setup: &'a Setup, side: u32) -> Option<Self> {
        let objective = &setup.objective;
        let distillation = objective.distillation.as_ref().filter(|loss| loss.scales != [1])?;
        let teacher = objective.teacher.as_ref()?.constant(Kind::Float, BATCH, side);
        Some(Self { student: setup.student.constant(Kind::Float, BATCH, side), teacher, distillation })
    }
}

/// What both networks predict for each region of the images so far.
#[derive(Default)]
struct Votes {
    student: Vec<u32>,
    teacher: Vec<u32>,
    complementary: Vec<bool>,
}

impl Votes {
    fn add(&mut self, compared: &RegionNetworks<'_>, images: &Tensor, labels: &Tensor, setup: &Setup) -> Result<()> {
        let RegionNetworks { student, teacher, distillation } = compared;
        let objective = &setup.objective;
        let normalised = [(student, &objective.normalisation), (teacher, objective.teacher_normalisation())];
        let [of_student, of_teacher] = normalised.map(|(network, normalisation)| {
            network.regions(&network.features(&normalisation.apply(images), false), &distillation.scales, false)
        });
        self.student.append(&mut predicted(&of_student)?);
        self.teacher.append(&mut predicted(&of_teacher)?);
        let complementary = distillation.agrees(&of_teacher, labels).logical_not();
        self.complementary.append(&mut Vec::<bool>::try_from(complementary.flatten(0, -1))?);
        Ok(())
    }
}

/// The class that is predicted for each region, image by image.
fn predicted(regions: &Regions) -> Result<Vec<u32>> {
    let votes = regions.local.argmax(-1, false).to_kind(Kind::Int).flatten(0, -1);
    Ok(Vec::<i32>::try_from(votes)?.into_iter().map(i32::unsigned_abs).collect())
}

/// Images [B, 3, S, S] in bytes as bytes [B, 3, side, side], with `side` at most S.
fn pixels(images: &Tensor, side: u32) -> Result<Vec<u8>> {
    if images.kind() != Kind::Uint8 {
        return Err(Error::internal(format!("images are {:?} and not bytes", images.kind())));
    }
    let small = if images.size()[3] > i64::from(side) {
        let means = images.to_kind(Kind::Float).adaptive_avg_pool2d([i64::from(side); 2]);
        means.round().to_kind(Kind::Uint8)
    } else {
        images.shallow_clone()
    };
    let small = state_dict::to_cpu(&small)?;
    let mut bytes = vec![0_u8; small.numel()];
    small.f_copy_data_u8(&mut bytes, small.numel())?;
    Ok(bytes)
}
