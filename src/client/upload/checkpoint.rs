//! Uploads a checkpoint or an exported network, as a whole.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio_util::io::ReaderStream;

use super::sending::{answer, bar};
use crate::cli::UploadFacts;
use crate::client::error::{Error, Exit};
use crate::client::server::ApiClient;
use crate::client::text::{indented, member, plain};
use crate::exported;
use distillery_core::tell;

/// Most times that a file is sent.
const TRIES: u32 = 3;
/// Wait before it is sent again, unless the server asks for another.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest name of a checkpoint, in characters.
const LONGEST_NAME: usize = 200;

/// Uploads a file, and prints its id.
///
/// # Errors
/// The file cannot be read, or the server refuses it or cannot be reached.
pub async fn upload(server: &ApiClient, path: &Path, facts: &UploadFacts, is_json: bool) -> Result<Exit, Error> {
    let checkpoint = file(server, path, facts, is_json).await?;
    if is_json {
        writeln!(io::stdout(), "{checkpoint}")?;
    } else {
        writeln!(io::stdout(), "{}", member(&checkpoint, "/id"))?;
        describe(&checkpoint);
    }
    Ok(Exit::Success)
}

/// Prints to standard error what the server found in a file.
pub fn describe(checkpoint: &Value) {
    let (format, parameters) = (member(checkpoint, "/format"), &checkpoint["parameters"]);
    let network = if checkpoint["network"].is_object() {
        format!("an exported network of {} classes", checkpoint["network"]["classes"])
    } else if let Some(architecture) = checkpoint["architecture"].as_str() {
        plain(architecture)
    } else {
        let fits = checkpoint["fits"].as_array().into_iter().flatten().map(|fit| member(fit, "/architecture"));
        let fits = fits.collect::<Vec<_>>().join(", ");
        if fits.is_empty() { "of no known architecture".to_owned() } else { format!("fits {fits}") }
    };
    tell!("{format}, {parameters} parameters, {network}");
    for note in checkpoint["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        tell!("note: {}", indented(note, 2));
    }
}

/// Uploads a file, and returns what the server found in it. Equal bytes are one checkpoint, so the file can be sent
/// again after a lost connection.
///
/// # Errors
/// As for [`upload`].
pub async fn file(server: &ApiClient, path: &Path, facts: &UploadFacts, is_quiet: bool) -> Result<Value, Error> {
    let mut left = TRIES;
    loop {
        left -= 1;
        let failure = match send(server, path, facts, is_quiet).await {
            Err(failure @ Error::Unreachable { is_final: false, .. }) if left > 0 => failure,
            other => return other,
        };
        let Error::Unreachable { detail, retry_after, .. } = failure else { return Err(failure) };
        let pause = retry_after.unwrap_or(PAUSE).min(LONGEST_PAUSE);
        tell!("{}; sending all of it again in {:.1} s", indented(&detail, 2), pause.as_secs_f64());
        tokio::time::sleep(pause).await;
    }
}

async fn send(server: &ApiClient, path: &Path, facts: &UploadFacts, is_quiet: bool) -> Result<Value, Error> {
    let shown = path.display();
    let found = tokio::fs::metadata(path).await.with_context(|| format!("cannot read {shown}"))?;
    if !found.is_file() {
        return Err(Error::Local(anyhow::anyhow!("{shown} is not a regular file")));
    }
    let content = File::open(path).await.with_context(|| format!("cannot read {shown}"))?;
    let size = content.metadata().await.with_context(|| format!("cannot read {shown}"))?.len();
    if size == 0 {
        return Err(Error::Local(anyhow::anyhow!("{shown} is empty")));
    }
    let bar = bar(size, is_quiet);
    let hash = Arc::new(Mutex::new(Sha256::new()));
    let (sent, mut progress) = watch::channel(0);
    let pieces = ReaderStream::with_capacity(content.take(size), 1 << 18).inspect({
        let (hash, bar) = (hash.clone(), bar.clone());
        move |piece| {
            let Ok(piece) = piece else { return };
            hash.lock().unwrap_or_else(PoisonError::into_inner).update(piece);
            sent.send_modify(|sent| *sent += piece.len() as u64);
            bar.inc(piece.len() as u64);
        }
    });
    let request = server.request(Method::PUT, &["v1", "checkpoints"]).query(&query(path, facts));
    let request = request.header(CONTENT_LENGTH, size).header(CONTENT_TYPE, "application/octet-stream");
    let answer = answer(server, request.body(Body::wrap_stream(pieces)), &mut progress, size).await;
    bar.finish_and_clear();
    let checkpoint = server.json(answer.map_err(|error| refused(error, path))?).await?;
    let sent = hex::encode(hash.lock().unwrap_or_else(PoisonError::into_inner).clone().finalize());
    let stored = checkpoint["sha256"].as_str().unwrap_or(&sent);
    // The server stores another file if it takes one state dict of several.
    let is_same_file = checkpoint["size_bytes"].as_u64() == Some(size);
    if is_same_file && stored != sent && !is_network_without_traces(path, stored).await? {
        return Err(Error::Damaged(format!(
            "the server stored other bytes than {shown} has: something between here and it changed them. Delete {} and \
             upload the file again",
            member(&checkpoint, "/id")
        )));
    }
    Ok(checkpoint)
}

/// Whether a file is an exported network that has this SHA-256 without its stack traces, which the server removes.
async fn is_network_without_traces(path: &Path, sha256: &str) -> Result<bool, Error> {
    let file = path.to_owned();
    let hash =
        tokio::task::spawn_blocking(move || exported::sha256(&file)).await.context("the hash is not computed")?;
    Ok(hash.with_context(|| format!("cannot read {}", path.display()))? == sha256)
}

fn refused(error: Error, path: &Path) -> Error {
    if matches!(error, Error::Refused { .. }) { error.context(&path.display().to_string()) } else { error }
}

fn query(path: &Path, facts: &UploadFacts) -> Vec<(&'static str, String)> {
    let of_file = path.file_name().and_then(|name| name.to_str());
    let of_file = of_file.filter(|name| !name.chars().any(char::is_control) && name.chars().count() <= LONGEST_NAME);
    let name = facts.name.clone().or_else(|| of_file.map(str::to_owned));
    let classes = facts.num_classes.map(|classes| classes.to_string());
    let all = [
        ("name", name),
        ("architecture", facts.architecture.clone()),
        ("num_classes", classes),
        ("state_dict", facts.state_dict.clone()),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
