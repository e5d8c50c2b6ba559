//! What `evaluate` evaluates: a network and its weights, and how images become its input.

use clap::ValueEnum;
use tch::Device;

use crate::data::{Framing, Loader, LoaderOptions, Shard};
use crate::error::{Error, Result};
use crate::models::{self, Network, state_dict};
use distillery_core::architecture;
use distillery_core::checkpoint::Checkpoint;
use distillery_core::dataset::{Dataset, MeanStd};
use distillery_core::exported;
use distillery_core::spec::usual_resize;
use distillery_core::trainer_flags::{EvalCrop, EvaluateArgs};

/// A network with its weights.
#[derive(Debug)]
pub struct Subject {
    pub network: Network,
    /// `None` where the weights are in the file of an exported network.
    pub checkpoint: Option<Checkpoint>,
    /// Sentences without a full stop.
    pub notes: Vec<String>,
}

impl Subject {
    /// Opens what the command line names.
    ///
    /// # Errors
    /// A file cannot be read, or does not fit.
    pub fn open(args: &EvaluateArgs) -> Result<Self> {
        let path = &args.checkpoint;
        if args.network.is_some() || exported::is_exported(path) {
            return Self::exported(args);
        }
        let architecture = match &args.architecture {
            Some(name) => architecture::named(name).map_err(|unknown| Error::user(unknown.to_string()))?,
            None => {
                let checkpoint = Checkpoint::open_state_dict(path, args.state_dict.as_deref())
                    .map_err(|error| state_dict::unreadable(path, &error))?;
                let known = state_dict::certain_architecture(&checkpoint);
                let advice =
                    "Name its architecture with --architecture, or with --network the file of an exported network";
                known.map_err(|why| Error::user(format!("checkpoint {} {why}\n{advice}", path.display())))?
            }
        };
        let (checkpoint, classes) = state_dict::open(path, architecture, args.state_dict.as_deref())?;
        let network = models::build(architecture, classes, 0);
        state_dict::load(&network, &checkpoint, path)?;
        Ok(Self { network, notes: checkpoint.notes().to_vec(), checkpoint: Some(checkpoint) })
    }

    fn exported(args: &EvaluateArgs) -> Result<Self> {
        let path = args.network.as_ref().unwrap_or(&args.checkpoint);
        if args.architecture.is_some() {
            let path = path.display();
            return Err(Error::user(format!(
                "{path} is an exported network, which has no other architecture: leave it out"
            )));
        }
        let file = models::exported::open(path)?;
        let network = models::exported::build(path, &file)?;
        let checkpoint = args.network.as_ref().map(|_| models::exported::load(&network, &args.checkpoint));
        Ok(Self { network, notes: file.description().warnings.clone(), checkpoint: checkpoint.transpose()? })
    }

    /// The side in pixels of the images that the network takes, if it takes no others.
    fn only_side(&self, asked: Option<u32>) -> Result<Option<u32>> {
        match (self.network.image_size(), asked) {
            (None, _) => Ok(None),
            (Some([height, width]), None) if height == width => Ok(Some(height)),
            (Some([height, width]), Some(asked)) if height == width && asked == height => Ok(Some(height)),
            (Some([height, width]), Some(asked)) if height == width => Err(Error::user(format!(
                "the network was exported for images of {height}×{width} pixels, not {asked}×{asked}: leave out --image-size"
            ))),
            (Some([height, width]), _) => Err(Error::user(format!(
                "the network was exported for images of {height}×{width} pixels, and images are resized to squares: export it \
                 for square images"
            ))),
        }
    }
}

/// How images become a network's input: by the command line, else by the checkpoint's metadata, else by defaults.
#[derive(Debug)]
pub struct Preprocessing {
    side: u32,
    framing: Framing,
    /// `None` means that of the training split.
    pub normalisation: Option<MeanStd>,
}

impl Preprocessing {
    /// # Errors
    /// The network does not take such images.
    pub fn choose(args: &EvaluateArgs, subject: &Subject) -> Result<Self> {
        let checkpoint = subject.checkpoint.as_ref();
        let stored = |key: &str| checkpoint?.metadata().get(key);
        let stored_side = || stored("image_size")?.parse().ok().filter(|side| (8..=1024).contains(side));
        let stored_crop = || EvalCrop::from_str(stored("eval_crop")?, true).ok();
        let stored_resize = || stored("eval_resize")?.parse().ok();
        let native = || subject.network.architecture().map_or(224, |architecture| architecture.input_side);
        let side = match subject.only_side(args.image_size)? {
            Some(side) => side,
            None => args.image_size.or_else(stored_side).unwrap_or_else(native),
        };
        // The file's value belongs to the file's image size.
        let resize = args.resize.or_else(|| stored_resize().filter(|_| args.image_size.is_none()));
        let asked_crop = args.crop.or(args.resize.map(|_| EvalCrop::Centre));
        Ok(Self {
            side,
            framing: match asked_crop.or_else(stored_crop) {
                Some(EvalCrop::Centre) => Framing::Centre { resize: resize.unwrap_or_else(|| usual_resize(side)) },
                Some(EvalCrop::Whole) | None => Framing::Whole,
            },
            normalisation: MeanStd::of_both(args.mean, args.std).or_else(|| checkpoint?.normalisation()),
        })
    }

    /// # Errors
    /// The split cannot be read.
    pub fn open(&self, dataset: &Dataset, split: &str, memory_limit: u64, device: Device) -> Result<Loader> {
        let Self { side, framing, .. } = *self;
        let shard = Shard::WHOLE;
        let options = LoaderOptions { side, framing, batch_size: 1, shard, seed: 0, memory_limit, device };
        Ok(Loader::open(dataset.split(split)?.into(), options)?)
    }
}
