//! `sweep`: posts sets of jobs, shows their results, and changes them.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::display::failure;
use super::error::{Error, Exit};
use super::follow;
use super::server::ApiClient;
use super::submit::{read, refused};
use super::text::{clock, indented, member, plain, time};
use super::watch::Interruptions;
use crate::cli::{OneSweepArgs, SweepCommand, SweepListArgs, SweepShowArgs, SweepSubmitArgs};
use crate::private_file::shell_word;
use crate::text::{counted, without_mark};
use distillery_core::tell;

/// Pause between two requests for a sweep that is followed.
const LOOK: Duration = Duration::from_secs(2);

/// Runs a command.
///
/// # Errors
/// The server refuses or cannot be reached, or a file cannot be read or written.
pub async fn act(server: &ApiClient, command: &SweepCommand) -> Result<Exit, Error> {
    match command {
        SweepCommand::Submit(args) => submit(server, args).await,
        SweepCommand::List(args) => list(server, args).await,
        SweepCommand::Show(args) => show(server, args).await,
        SweepCommand::Watch(args) => watch(server, &args.id, args.connection.json).await,
        SweepCommand::Pause(args) => change(server, "pause", args).await,
        SweepCommand::Resume(args) => change(server, "resume", args).await,
        SweepCommand::Cancel(args) => change(server, "cancel", args).await,
        SweepCommand::Delete(args) => delete(server, args).await,
    }
}

async fn submit(server: &ApiClient, args: &SweepSubmitArgs) -> Result<Exit, Error> {
    let document = with_webhooks(read(&args.sweep)?, &args.webhook)?;
    let is_json = args.connection.json;
    let name = if args.sweep == Path::new("-") { "the document".into() } else { args.sweep.display().to_string() };
    let query: Vec<_> = args.job_webhook.iter().map(|webhook| ("webhook", webhook)).collect();
    let request = server.request(Method::POST, &["v1", "sweeps"]).query(&query).query(&args.constraints.query());
    let request = request.header(CONTENT_TYPE, "application/json").body(document);
    if args.dry_run {
        let dry_run = answer(server, request.query(&[("dry_run", "true")])).await;
        let dry_run = dry_run.map_err(|error| refused(error, &name))?;
        let text = if is_json { dry_run.to_string() } else { estimate(&dry_run) };
        writeln!(io::stdout(), "{text}")?;
        return Ok(Exit::Success);
    }
    let key = args.idempotency_key.clone().unwrap_or_else(|| ulid::Ulid::generate().to_string());
    let sweep = answer(server, request.header("idempotency-key", &key)).await;
    let sweep = sweep.map_err(|error| match error {
        // The server may have the sweep, with only the answer lost.
        Error::Unreachable { .. } => error.context(&format!(
            "posting {name} again with --idempotency-key {} creates no second sweep",
            shell_word(&key)
        )),
        refusal => refused(refusal, &name),
    })?;
    let id = member(&sweep, "/id");
    if !is_json {
        writeln!(io::stdout(), "{id}")?;
        let page = server.page(&format!("/sweeps/{id}"));
        tell!("{} has {}; its page is {page}", member(&sweep, "/name"), progress(&sweep));
        for warning in warnings(&sweep) {
            tell!("{warning}");
        }
    } else if !args.watch {
        writeln!(io::stdout(), "{sweep}")?;
    }
    if args.watch { watch(server, &id, is_json).await } else { Ok(Exit::Success) }
}

/// The document with these webhooks, and otherwise byte for byte: its faults are for the server to find.
fn with_webhooks(document: Vec<u8>, webhooks: &[String]) -> Result<Vec<u8>, Error> {
    let text = without_mark(&document);
    let members = match serde_json::from_slice(text) {
        Ok(Value::Object(members)) if !webhooks.is_empty() => members,
        _ => return Ok(document),
    };
    if members.contains_key("webhooks") {
        return Err(Error::Usage(
            "the document names webhooks itself: add them there, or leave out --webhook".to_owned(),
        ));
    }
    let start = text.iter().position(|byte| *byte == b'{').unwrap_or(0) + 1;
    let separator = if members.is_empty() { "" } else { ", " };
    let added = format!("\"webhooks\": {}{separator}", json!(webhooks));
    Ok([&text[..start], added.as_bytes(), &text[start..]].concat())
}

async fn answer(server: &ApiClient, request: reqwest::RequestBuilder) -> Result<Value, Error> {
    let response = server.send(request).await?;
    server.json(response).await
}

fn warnings(document: &Value) -> impl Iterator<Item = String> {
    let warnings = document["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    warnings.map(|warning| format!("warning: {}", indented(warning, 2)))
}

/// The result of a dry run, as lines for people.
fn estimate(dry_run: &Value) -> String {
    let combinations = dry_run["combinations"].as_array().map_or(0, Vec::len);
    let mut lines = vec![
        format!("{} can be posted", member(dry_run, "/name")),
        format!(
            "jobs       {}: {} with {}",
            dry_run["jobs"],
            counted(combinations as u64, "combination", "combinations"),
            counted(dry_run["seeds"].as_u64().unwrap_or(1), "seed", "seeds")
        ),
    ];
    if let Some(part) = dry_run["trained_part"].as_f64().filter(|part| *part < 1.0) {
        lines.push(format!("epochs     {:.0} % of those of all jobs are trained", 100.0 * part));
    }
    if let Some(bytes) = dry_run.pointer("/memory/total_bytes").and_then(Value::as_f64) {
        lines.push(format!("memory     about {:.0} MiB for the largest job", bytes / f64::from(1 << 20)));
    }
    if let Some(hours) = dry_run["device_hours"].as_f64() {
        lines.push(format!("time       about {} on one {}", clock(hours * 3600.0), member(dry_run, "/device")));
    }
    lines.extend(warnings(dry_run));
    lines.join("\n")
}

async fn list(server: &ApiClient, args: &SweepListArgs) -> Result<Exit, Error> {
    let page = newest(server, args.limit).await?;
    let mut out = io::stdout().lock();
    if args.connection.json {
        writeln!(out, "{page}")?;
        return Ok(Exit::Success);
    }
    writeln!(out, "{:<30} {:<9} {:<8} {:>12} {:<20} name", "id", "status", "strategy", "combinations", "created")?;
    for sweep in page["data"].as_array().into_iter().flatten() {
        let [id, status, name] = ["/id", "/status", "/name"].map(|pointer| member(sweep, pointer));
        let (strategy, created) = (member(sweep, "/strategy/type"), time(&sweep["created_at"]));
        let combinations = sweep["combinations"].to_string();
        writeln!(out, "{id:<30} {status:<9} {strategy:<8} {combinations:>12} {created:<20} {name}")?;
    }
    if page["has_more"] == true {
        tell!("there are more sweeps: --limit shows more of them");
    }
    Ok(Exit::Success)
}

/// The newest sweeps, as one page of the server. Its own pages may be shorter.
async fn newest(server: &ApiClient, limit: u32) -> Result<Value, Error> {
    let (mut sweeps, mut after) = (Vec::new(), None::<String>);
    loop {
        let wanted = (limit - u32::try_from(sweeps.len()).unwrap_or(limit)).to_string();
        let mut query = vec![("limit", wanted.as_str())];
        query.extend(after.iter().map(|after| ("after", after.as_str())));
        let mut page = server.get(&["v1", "sweeps"], &query).await?;
        let Value::Array(found) = page["data"].take() else {
            return Err(Error::unreachable("the server's list of sweeps has no data"));
        };
        sweeps.extend(found);
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() || sweeps.len() >= limit as usize {
            page["data"] = Value::Array(sweeps);
            return Ok(page);
        }
    }
}

async fn show(server: &ApiClient, args: &SweepShowArgs) -> Result<Exit, Error> {
    let path = ["v1", "sweeps", args.id.as_str()];
    if args.csv {
        let request = server.request(Method::GET, &path).query(&[("format", "csv")]);
        let mut response = server.send(request).await?;
        while let Some(piece) = server.piece(&mut response, server.patience).await? {
            io::stdout().write_all(&piece)?;
        }
        return Ok(Exit::Success);
    }
    let sweep = server.get(&path, &[]).await?;
    let text = if args.connection.json { sweep.to_string() } else { table(&sweep) };
    writeln!(io::stdout(), "{text}")?;
    Ok(Exit::Success)
}

/// The number of jobs by status.
fn progress(sweep: &Value) -> String {
    let statuses = sweep["jobs"].as_object().into_iter().flatten();
    let statuses: Vec<_> = statuses.map(|(status, jobs)| format!("{jobs} {}", plain(status))).collect();
    let combinations = counted(sweep["combinations"].as_u64().unwrap_or(0), "combination", "combinations");
    let jobs = if statuses.is_empty() { "no jobs".to_owned() } else { format!("jobs: {}", statuses.join(", ")) };
    format!("{combinations} ({jobs})")
}

/// The job that failed first, and why.
fn first_failure(sweep: &Value) -> Option<String> {
    let failed = sweep.get("first_failure").filter(|failed| failed.is_object())?;
    let jobs = counted(sweep["jobs"]["failed"].as_u64().unwrap_or(1), "job", "jobs");
    Some(format!("{jobs} failed, first {}: {}", member(failed, "/id"), failure(&failed["error"])))
}

/// A sweep as lines for people.
fn table(sweep: &Value) -> String {
    let after = |epochs: &Value| Some(format!("after {}", counted(epochs.as_u64()?, "epoch", "epochs")));
    let rung = after(&sweep["next_rung"]).map(|after| format!(", compares them next {after}"));
    let [id, status, name] = ["/id", "/status", "/name"].map(|pointer| member(sweep, pointer));
    let mut lines = vec![format!("{id}  {name}  {status}: {}{}", progress(sweep), rung.unwrap_or_default())];
    lines.extend(warnings(sweep));
    lines.extend(first_failure(sweep));
    lines.push(format!("{:>4} {:>16} {:>3} {:>8} {:>9}  settings", "rank", "top-1", "n", "best", "cost"));
    for result in sweep["results"].as_array().into_iter().flatten() {
        let text =
            |value: &Value, digits: usize| value.as_f64().map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
        let deviation = result["deviation"].as_f64().map(|value| format!(" ± {value:.2}")).unwrap_or_default();
        let top1 = format!("{}{deviation}", text(&result["top1"], 2));
        let settings = result["settings"].as_object().into_iter().flatten();
        let settings: Vec<_> = settings.map(|(pointer, value)| plain(&format!("{pointer} {value}"))).collect();
        let dropped = after(&result["dropped_after"]).map(|after| format!("  (dropped {after})"));
        lines.push(format!(
            "{:>4} {top1:>16} {:>3} {:>8} {:>9}  {}{}",
            text(&result["rank"], 0),
            result["n"].to_string(),
            text(&result["best"], 2),
            clock(result["cost_seconds"].as_f64().unwrap_or(0.0)),
            settings.join("  "),
            dropped.unwrap_or_default()
        ));
    }
    lines.join("\n")
}

/// Follows a sweep until it has ended, or a signal ends this command.
async fn watch(server: &ApiClient, id: &str, is_json: bool) -> Result<Exit, Error> {
    let mut interruptions = Interruptions::listen()?;
    tokio::select! {
        ended = follow(server, id, is_json) => ended,
        exit = interruptions.next() => {
            tell!("the sweep goes on: `distillery sweep watch {id}` follows it again");
            Ok(exit)
        }
    }
}

async fn follow(server: &ApiClient, id: &str, is_json: bool) -> Result<Exit, Error> {
    let (mut said, mut answered) = (String::new(), Instant::now());
    loop {
        match server.get(&["v1", "sweeps", id], &[]).await {
            Ok(sweep) => {
                answered = Instant::now();
                let exit = match sweep["status"].as_str() {
                    Some("finished") => Some(outcome(&sweep)),
                    Some("cancelled") if unfinished(&sweep) == 0 => Some(Exit::JobCancelled),
                    _ => None,
                };
                let now = if is_json { without_costs(&sweep).to_string() } else { summary(&sweep) };
                if now != said || (is_json && exit.is_some()) {
                    writeln!(io::stdout(), "{}", if is_json { sweep.to_string() } else { now.clone() })?;
                    said = now;
                }
                if let Some(exit) = exit {
                    if !is_json {
                        writeln!(io::stdout(), "{}", table(&sweep))?;
                    }
                    return Ok(exit);
                }
            }
            Err(error @ Error::Unreachable { .. }) if answered.elapsed() < server.reconnect => {
                tell!("{error}; trying to connect again");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Number of jobs that have not ended.
fn unfinished(sweep: &Value) -> u64 {
    let statuses = sweep["jobs"].as_object().into_iter().flatten();
    statuses.filter(|(status, _)| follow::ending_with(status).is_none()).filter_map(|(_, jobs)| jobs.as_u64()).sum()
}

/// A sweep that has finished without a student has failed. Jobs that failed beside others do not count in its results.
fn outcome(sweep: &Value) -> Exit {
    let jobs = |status: &str| sweep["jobs"][status].as_u64().unwrap_or(0);
    match (jobs("succeeded"), jobs("failed")) {
        (_, 0) => Exit::Success,
        (0, _) => Exit::JobFailed,
        (_, failed) => {
            let id = member(sweep, "/id");
            tell!("warning: {failed} of its jobs failed: `distillery jobs --status failed --sweep {id}` lists them");
            Exit::Success
        }
    }
}

/// A sweep without what changes with every second.
fn without_costs(sweep: &Value) -> Value {
    let mut sweep = sweep.clone();
    let results = sweep.get_mut("results").and_then(Value::as_array_mut);
    for result in results.into_iter().flatten().filter_map(Value::as_object_mut) {
        result.remove("cost_seconds");
    }
    sweep
}

/// Status, jobs and the best combination in one line.
fn summary(sweep: &Value) -> String {
    let best = &sweep["results"][0];
    let top1 = best["top1"].as_f64().map(|top1| format!("; best so far: {top1:.2} % (combination {})", best["number"]));
    format!("{}: {}{}", member(sweep, "/status"), progress(sweep), top1.unwrap_or_default())
}

async fn change(server: &ApiClient, action: &str, args: &OneSweepArgs) -> Result<Exit, Error> {
    let sweep = answer(server, server.request(Method::POST, &["v1", "sweeps", &args.id, action])).await?;
    if args.connection.json {
        writeln!(io::stdout(), "{sweep}")?;
    } else {
        writeln!(io::stdout(), "{} is {}", args.id, member(&sweep, "/status"))?;
        let left = unfinished(&sweep);
        if action == "cancel" && left > 0 {
            let jobs = counted(left, "of its jobs is still stopping", "of its jobs are still stopping");
            tell!("{jobs}: `distillery sweep watch {}` waits until all have ended", args.id);
        }
    }
    Ok(Exit::Success)
}

async fn delete(server: &ApiClient, args: &OneSweepArgs) -> Result<Exit, Error> {
    server.send(server.request(Method::DELETE, &["v1", "sweeps", &args.id])).await?;
    if args.connection.json {
        writeln!(io::stdout(), "{}", json!({"id": args.id, "deleted": true}))?;
    } else {
        writeln!(io::stdout(), "{} is deleted", args.id)?;
    }
    Ok(Exit::Success)
}
