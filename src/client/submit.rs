//! `submit`: posts a job.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::error::{Error, Exit};
use super::follow;
use super::server::ApiClient;
use super::text::{clock, indented, member, message};
use super::watch;
use crate::cli::{ConstraintArgs, SubmitArgs};
use crate::private_file::shell_word;
use distillery_core::tell;

/// Largest document to read, in bytes. The server's own limit is lower.
const LARGEST: u64 = 16 << 20;

/// Posts a job, prints the server's warnings about it, and follows it if asked to.
///
/// # Errors
/// The document cannot be read, or the server refuses it or cannot be reached.
pub async fn submit(server: &ApiClient, args: &SubmitArgs) -> Result<Exit, Error> {
    let document = read(&args.job)?;
    let name = if args.job == Path::new("-") { "the document".into() } else { args.job.display().to_string() };
    if args.dry_run {
        let dry_run =
            check(server, document, &args.webhook, &args.constraints).await.map_err(|error| refused(error, &name))?;
        if args.connection.json {
            writeln!(io::stdout(), "{dry_run}")?;
        } else {
            writeln!(io::stdout(), "{}", estimate(&dry_run))?;
        }
        return Ok(Exit::Success);
    }
    let key = args.idempotency_key.clone().unwrap_or_else(|| ulid::Ulid::generate().to_string());
    let request = post(server, document, &args.webhook, &args.constraints).header("idempotency-key", &key);
    let job = match server.send(request).await {
        Ok(response) => server.json(response).await,
        Err(error) => Err(error),
    };
    let job = job.map_err(|error| match error {
        // The server may have the job, if only the answer was lost.
        Error::Unreachable { .. } => error.context(&format!(
            "posting {name} again with --idempotency-key {} creates no second job",
            shell_word(&key)
        )),
        refusal => refused(refusal, &name),
    })?;
    let id = member(&job, "/id");
    if !args.connection.json {
        writeln!(io::stdout(), "{id}")?;
        tell!("{} is {}; its page is {}", member(&job, "/name"), member(&job, "/status"), page(server, &id));
    } else if !args.watch {
        writeln!(io::stdout(), "{job}")?;
    }
    if args.watch {
        return watch::watch(server, &id, args.connection.json).await;
    }
    match warnings(server, &id).await {
        Ok(warnings) => warnings.iter().for_each(|warning| tell!("warning: {warning}")),
        // The job is there all the same.
        Err(error) => tell!("the job was posted, but the server's warnings about it cannot be read: {error}"),
    }
    Ok(Exit::Success)
}

/// What its history warns of, and why no worker can take it, which the history says only after a while.
async fn warnings(server: &ApiClient, id: &str) -> Result<Vec<String>, Error> {
    let events = follow::history(server, id, 0).await?;
    let warned = events.iter().filter(|event| event["kind"] == "warning");
    let mut warnings: Vec<String> = warned.map(|event| message(event, "/message")).collect();
    let summaries = server.get(&["v1", "summaries"], &[("id", id)]).await?;
    let waiting = &summaries["data"][0]["waiting"];
    if let Some("no_worker" | "version" | "devices" | "dataset" | "declined") = waiting["reason"].as_str() {
        let waits = format!("the job waits: {}", message(waiting, "/detail"));
        if !warnings.contains(&waits) {
            warnings.push(waits);
        }
    }
    Ok(warnings)
}

fn page(server: &ApiClient, job: &str) -> String {
    server.page(&format!("/jobs/{job}")).to_string()
}

/// The refusal of a document, with its name.
pub(super) fn refused(error: Error, name: &str) -> Error {
    if matches!(error, Error::Refused { .. }) { error.context(name) } else { error }
}

fn post(
    server: &ApiClient,
    document: Vec<u8>,
    webhooks: &[String],
    constraints: &ConstraintArgs,
) -> reqwest::RequestBuilder {
    let query: Vec<_> = webhooks.iter().map(|name| ("webhook", name)).collect();
    let request = server.request(Method::POST, &["v1", "jobs"]).query(&query).query(&constraints.query());
    request.header(CONTENT_TYPE, "application/json").body(document)
}

/// A dry run of a document.
///
/// # Errors
/// The server refuses the document or cannot be reached.
pub async fn check(
    server: &ApiClient,
    document: Vec<u8>,
    webhooks: &[String],
    constraints: &ConstraintArgs,
) -> Result<Value, Error> {
    let request = post(server, document, webhooks, constraints).query(&[("dry_run", "true")]);
    let response = server.send(request).await?;
    server.json(response).await
}

/// The document in a file, or from standard input.
///
/// # Errors
/// It cannot be read, is empty, or is too large.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut document = Vec::new();
    let is_stdin = path == Path::new("-");
    let shown = if is_stdin { "standard input".into() } else { path.display().to_string() };
    if is_stdin {
        io::stdin().lock().take(LARGEST + 1).read_to_end(&mut document).context("cannot read standard input")?;
    } else {
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        file.take(LARGEST + 1).read_to_end(&mut document).with_context(|| format!("cannot read {shown}"))?;
    }
    anyhow::ensure!(document.len() as u64 <= LARGEST, "{shown} has more than {LARGEST} bytes: that is no job");
    anyhow::ensure!(!document.trim_ascii().is_empty(), "{shown} is empty: a document in JSON is expected");
    Ok(document)
}

/// The result of a dry run as lines of text.
#[must_use]
pub fn estimate(dry_run: &Value) -> String {
    let mut lines = vec![format!("{} can be posted", member(dry_run, "/spec/name"))];
    let mut add = |name: &str, value: Option<String>| lines.extend(value.map(|value| format!("{name:<10} {value}")));
    for role in ["teacher", "student"] {
        let network = &dry_run[role];
        add(role, network["parameters"].as_u64().map(|n| format!("{}, {n} parameters", member(network, "/name"))));
    }
    add(
        "images",
        dry_run["train_images"].as_u64().map(|images| {
            format!("{images} for training, {} for evaluation, {} classes", dry_run["eval_images"], dry_run["classes"])
        }),
    );
    let memory = dry_run.pointer("/memory/total_bytes").and_then(Value::as_f64);
    add("memory", memory.map(|bytes| format!("about {:.0} MiB", bytes / f64::from(1 << 20))));
    let time = dry_run.pointer("/time/seconds").and_then(Value::as_f64);
    add("time", time.map(|seconds| format!("about {} on {}", clock(seconds), member(dry_run, "/time/device"))));
    for warning in dry_run["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("warning: {}", indented(warning, 2)));
    }
    lines.join("\n")
}
