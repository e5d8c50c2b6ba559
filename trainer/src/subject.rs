//! What `evaluate` evaluates: a network and its weights.

use crate::error::{Error, Result};
use crate::models::{self, Network, state_dict};
use distillery_core::architecture;
use distillery_core::checkpoint::Checkpoint;
use distillery_core::exported;
use distillery_core::trainer_flags::EvaluateArgs;

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
                let known = checkpoint.certain_architecture();
                let advice =
                    "Name its architecture with --architecture, or with --network the file of an exported network";
                known.map_err(|why| Error::user(format!("checkpoint {} {why}\n{advice}", path.display())))?
            }
        };
        let (checkpoint, classes) = state_dict::open(path, architecture, args.state_dict.as_deref())?;
        let network = models::build(architecture, classes, 0);
        let doubt = state_dict::load(&network, &checkpoint, path, &[])?;
        let notes = checkpoint.notes().iter().cloned().chain(doubt).collect();
        Ok(Self { network, notes, checkpoint: Some(checkpoint) })
    }

    fn exported(args: &EvaluateArgs) -> Result<Self> {
        let path = args.network.as_ref().unwrap_or(&args.checkpoint);
        if args.architecture.is_some() {
            let path = path.display();
            return Err(Error::user(format!(
                "{path} is an exported network, which has no other architecture: leave it out"
            )));
        }
        models::exported::refuse_state_dict(path, args.state_dict.as_deref())?;
        let (mut file, doubt) = models::exported::open(path)?;
        let mut notes: Vec<String> = file.description().warnings_of(false).cloned().chain(doubt).collect();
        let weights = args.network.is_some().then_some(&args.checkpoint);
        let checkpoint = weights.map(|weights| models::exported::open_weights(weights, &mut file)).transpose()?;
        let network = models::exported::build(path, &file)?;
        if let Some(checkpoint) = &checkpoint {
            notes.extend(models::exported::load(&network, checkpoint, &args.checkpoint, &[])?);
        }
        Ok(Self { network, checkpoint, notes })
    }

    /// The side in pixels of the images that the network takes, if it takes no others.
    ///
    /// # Errors
    /// It takes no squares, or not those that were asked for.
    pub fn only_side(&self, asked: Option<u32>) -> Result<Option<u32>> {
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
