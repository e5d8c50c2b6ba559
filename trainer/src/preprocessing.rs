//! How `evaluate` turns images into a network's input.

use std::collections::BTreeMap;

use clap::ValueEnum;
use tch::Device;

use crate::data::{Framing, Loader, LoaderOptions, Shard};
use crate::error::{Error, Result};
use crate::subject::Subject;
use distillery_core::checkpoint::Checkpoint;
use distillery_core::dataset::{Dataset, MeanStd};
use distillery_core::spec::usual_resize;
use distillery_core::text::{quoted, shortened};
use distillery_core::trainer_flags::{EvalCrop, EvaluateArgs};

/// Side, in pixels, of images for a network of which nothing says another.
const USUAL_SIDE: u32 = 224;

/// How images become a network's input: by the command line, else by the checkpoint's metadata, else by defaults.
#[derive(Debug)]
pub struct EvaluationPreprocessing {
    side: u32,
    framing: Framing,
    /// `None` means that of the training split.
    pub normalisation: Option<MeanStd>,
    /// What is otherwise than the metadata says, for the user.
    pub notes: Vec<String>,
}

impl EvaluationPreprocessing {
    /// # Errors
    /// The command line contradicts itself, or the network does not take such images.
    pub fn choose(args: &EvaluateArgs, subject: &Subject) -> Result<Self> {
        let checkpoint = subject.checkpoint.as_ref();
        let (stored, mut notes) = checkpoint.map(|file| StoredPreprocessing::read(file.metadata())).unwrap_or_default();
        let only_side = subject.only_side(args.image_size)?;
        if let (Some(only), Some(other), None) = (only_side, stored.side, args.image_size)
            && only != other
        {
            notes.push(format!(
                "the image_size {other} in its metadata is ignored: the network was exported for images of \
                 {only}×{only} pixels"
            ));
        }
        let native = || subject.network.architecture().map_or(USUAL_SIDE, |architecture| architecture.input_side);
        let side = only_side.or(args.image_size).or(stored.side).unwrap_or_else(native);
        if let Some(resize) = args.resize {
            if args.crop == Some(EvalCrop::Whole) {
                return Err(Error::user("--resize is used with --crop centre only: leave out one of them"));
            }
            if resize < side {
                return Err(Error::user(format!(
                    "--resize {resize} is less than the image size, {side}: the centre of that size is taken, so give \
                     at least that"
                )));
            }
        }
        let framing = match args.crop.or(args.resize.map(|_| EvalCrop::Centre)).or(stored.crop) {
            Some(EvalCrop::Centre) => Framing::Centre { resize: resize_for(args, &stored, side, &mut notes) },
            Some(EvalCrop::Whole) | None => Framing::Whole,
        };
        if let (None, Some(resize), Some(EvalCrop::Whole)) = (args.crop, args.resize, stored.crop) {
            notes.push(format!(
                "--resize {resize} takes the centre of each image, but the metadata of the checkpoint says whole: leave it \
                 out to evaluate as the checkpoint was evaluated"
            ));
        }
        let normalisation =
            MeanStd::of_both(args.mean, args.std).or_else(|| checkpoint.and_then(Checkpoint::normalisation));
        Ok(Self { side, framing, normalisation, notes })
    }

    /// Opens a split for this.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(&self, dataset: &Dataset, split: &str, memory_limit: u64, device: Device) -> Result<Loader> {
        let Self { side, framing, .. } = *self;
        let shard = Shard::WHOLE;
        let options = LoaderOptions { side, framing, batch_size: 1, shard, seed: 0, memory_limit, device };
        Ok(Loader::open(dataset.split(split)?.into(), options)?)
    }
}

/// The length of the shorter side before the centre is taken. The file's belongs to the file's image size.
fn resize_for(args: &EvaluateArgs, stored: &StoredPreprocessing, side: u32, notes: &mut Vec<String>) -> u32 {
    let is_for_this = stored.side.map_or(args.image_size.is_none(), |stored| stored == side);
    match (args.resize, stored.resize) {
        (Some(given), _) => given,
        (None, Some(stored)) if is_for_this && stored >= side => stored,
        (None, Some(stored)) => {
            let usual = usual_resize(side);
            notes.push(format!(
                "the eval_resize {stored} in its metadata is not for an image size of {side}: the shorter side is resized \
                 to {usual}, and --resize chooses another"
            ));
            usual
        }
        (None, None) => usual_resize(side),
    }
}

/// What a checkpoint's metadata says.
#[derive(Default)]
struct StoredPreprocessing {
    side: Option<u32>,
    crop: Option<EvalCrop>,
    resize: Option<u32>,
}

impl StoredPreprocessing {
    /// With notes on what is ignored because it cannot be true.
    fn read(metadata: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        let mut ignored = |key: &str, text: &str, expected: &str| {
            let text = shortened(text, 100);
            notes.push(format!(
                "the {key} {text} in its metadata is ignored: expected {expected}",
                text = quoted(&text)
            ));
        };
        let mut pixels = |key: &str, highest: u32| {
            let text = metadata.get(key)?;
            let pixels = text.parse::<u32>().ok().filter(|pixels| (8..=highest).contains(pixels));
            if pixels.is_none() {
                ignored(key, text, &format!("8 to {highest} pixels"));
            }
            pixels
        };
        let (side, resize) = (pixels("image_size", 1024), pixels("eval_resize", 4096));
        let text = metadata.get("eval_crop");
        let crop = text.and_then(|text| EvalCrop::from_str(text, true).ok());
        if let (Some(text), None) = (text, crop) {
            ignored("eval_crop", text, "whole or centre");
        }
        (Self { side, crop, resize }, notes)
    }
}
