//! `upload`: a checkpoint, an exported network or a data set.

pub mod checkpoint;
mod dataset;
mod pieces;
mod sending;
mod source;

use super::error::{Error, Exit};
use super::server::ApiClient;
use crate::cli::UploadArgs;

/// Uploads what the arguments name, and prints its id.
///
/// # Errors
/// A file cannot be read, the arguments do not belong together, or the server refuses the upload or cannot be reached.
pub async fn upload(server: &ApiClient, args: &UploadArgs) -> Result<Exit, Error> {
    if let ([file], None) = (args.files.as_slice(), &args.split)
        && !source::is_dataset(file)?
    {
        return checkpoint::upload(server, file, &args.facts, args.connection.json).await;
    }
    dataset::upload(server, args).await
}
