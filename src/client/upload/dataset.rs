//! Uploads a data set: an archive, a directory, or the shards of a split.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;

use super::pieces::{PieceSender, ShardPlace};
use super::sending::bar;
use super::source::{UploadSource, name_of};
use crate::cli::UploadArgs;
use crate::client::error::{Error, Exit};
use crate::client::part::sha256_of;
use crate::client::server::ApiClient;
use crate::client::text::{indented, member};
use crate::client::watch::Interruptions;
use distillery_core::tell;

/// Uploads a data set, and prints its id.
///
/// # Errors
/// The arguments do not belong together, a file cannot be read, or the server refuses the upload or cannot be reached.
pub async fn upload(server: &ApiClient, args: &UploadArgs) -> Result<Exit, Error> {
    check(args)?;
    let name = name(args)?;
    let is_json = args.connection.json;
    let sources = args.files.iter().map(|path| UploadSource::open(path).map(Arc::new));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    for note in sources.iter().filter_map(|source| source.note()) {
        tell!("note: {note}");
    }
    let mut interruptions = Interruptions::listen()?;
    let bar = bar(sources.iter().map(|source| source.size).sum(), is_json);
    let mut sender = PieceSender::new(server, &name, args.piece_mib << 20, bar.clone());
    let outcome = tokio::select! {
        outcome = send(server, &name, &mut sender, &sources, args.split.as_deref()) => outcome.map(Ok),
        exit = interruptions.next() => Ok(Err(exit)),
    };
    bar.finish_and_clear();
    match outcome? {
        Ok(dataset) => {
            print(&dataset, is_json)?;
            Ok(Exit::Success)
        }
        Err(exit) => {
            tell!("{}", sender.ending());
            Ok(exit)
        }
    }
}

/// Refuses arguments that do not belong together.
fn check(args: &UploadArgs) -> Result<(), Error> {
    let facts = &args.facts;
    let of_checkpoint = [
        ("--architecture", facts.architecture.is_some()),
        ("--num-classes", facts.num_classes.is_some()),
        ("--state-dict", facts.state_dict.is_some()),
    ];
    if let Some((flag, _)) = of_checkpoint.iter().find(|(_, is_given)| *is_given) {
        return Err(Error::Usage(format!("{flag} is about checkpoints, and a data set has none: leave it out")));
    }
    if args.split.is_none() && args.files.len() > 1 {
        return Err(Error::Usage(
            "several files are the shards of one split: name it with --split, or upload the files one by one"
                .to_owned(),
        ));
    }
    match args.files.iter().find(|path| args.split.is_some() && path.is_dir()) {
        Some(path) => Err(Error::Usage(format!(
            "{} is a directory, and --split takes single shards: leave it out to upload the whole directory, or name \
             its files",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// The name of the data set.
fn name(args: &UploadArgs) -> Result<String, Error> {
    let missing = |why: &str| Error::Usage(format!("{why}: name the data set with --name"));
    match (&args.facts.name, &args.split) {
        (Some(name), _) => Ok(name.clone()),
        // The file of a shard is rarely named after its data set.
        (None, Some(_)) => Err(missing("--split needs the name of the data set whose split it is")),
        (None, None) => name_of(&args.files[0]).ok_or_else(|| {
            missing(&format!("{} has no letter or digit that a data set's name may have", args.files[0].display()))
        }),
    }
}

/// Sends all files, and returns the data set.
async fn send(
    server: &ApiClient,
    name: &str,
    sender: &mut PieceSender<'_>,
    sources: &[Arc<UploadSource>],
    split: Option<&str>,
) -> Result<Value, Error> {
    let Some(split) = split else { return send_one(sender, &sources[0], &[]).await };
    let shards = sources.len();
    let waiting = if shards > 1 { waiting(server, name, split, shards).await? } else { Vec::new() };
    let mut left = Vec::new();
    for (shard, source) in sources.iter().enumerate() {
        if is_there(&waiting, shard, source).await? {
            tell!("{} is on the server already", source.path.display());
            sender.pass(source);
        } else {
            left.push(shard);
        }
    }
    // Without another shard, the server would not put them together.
    if left.is_empty() {
        left.push(shards - 1);
    }
    let mut answer = Value::Null;
    for shard in left {
        let place = vec![("split", split.to_owned()), ("shard", shard.to_string()), ("shards", shards.to_string())];
        answer = send_one(sender, &sources[shard], &place).await?;
    }
    if answer["id"].is_string() {
        return Ok(answer);
    }
    Err(Error::Local(anyhow::anyhow!(
        "the server has not got all shards of {name}, because another upload replaces some of them ({}): run the same \
         command again once that has ended",
        answer["splits"]
    )))
}

async fn send_one(
    sender: &mut PieceSender<'_>,
    source: &Arc<UploadSource>,
    place: &ShardPlace,
) -> Result<Value, Error> {
    sender.send(source, place).await.map_err(|error| match error {
        Error::Refused { .. } => error.context(&source.path.display().to_string()),
        other => other,
    })
}

/// The shards of a split that wait on the server for others, out of as many as these.
async fn waiting(server: &ApiClient, name: &str, split: &str, shards: usize) -> Result<Vec<Value>, Error> {
    match server.get(&["v1", "datasets", name, "shards", split], &[]).await {
        Ok(found) if found["shards"].as_u64() == Some(shards as u64) => {
            Ok(found["data"].as_array().cloned().unwrap_or_default())
        }
        Ok(_) | Err(Error::Refused { status: 404, .. }) => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

/// Whether a shard waits on the server, with the same bytes.
async fn is_there(waiting: &[Value], shard: usize, source: &Arc<UploadSource>) -> Result<bool, Error> {
    let known = waiting.iter().find(|known| known["shard"].as_u64() == Some(shard as u64));
    let Some(known) = known.filter(|known| known["size_bytes"].as_u64() == Some(source.size)) else {
        return Ok(false);
    };
    let path = source.path.clone();
    let sha256 = tokio::task::spawn_blocking(move || sha256_of(&path)).await.context("the hash is not computed")??;
    Ok(known["sha256"].as_str() == Some(&sha256))
}

/// Prints the id to standard output, and what the server found to standard error.
fn print(dataset: &Value, is_json: bool) -> io::Result<()> {
    if is_json {
        return writeln!(io::stdout(), "{dataset}");
    }
    writeln!(io::stdout(), "{}", member(dataset, "/id"))?;
    let split = |split: &Value| format!("{} {}", member(split, "/name"), split["images"]);
    let splits = dataset["splits"].as_array().into_iter().flatten().map(split).collect::<Vec<_>>().join(", ");
    tell!(
        "{}, {} images of {} classes ({splits})",
        member(dataset, "/format"),
        dataset["images"],
        dataset["class_count"]
    );
    for note in dataset["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        tell!("note: {}", indented(note, 2));
    }
    Ok(())
}
