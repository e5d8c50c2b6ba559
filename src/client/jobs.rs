//! `jobs`, `cancel`, `pause`, `resume`, `retry`, `edit` and `open`.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::display::failure;
use super::error::{Error, Exit};
use super::server::ApiClient;
use super::text::{clock, indented, member, percent, plain, time};
use crate::cli::{EditArgs, JobIdsArgs, JobsArgs, OpenArgs};
use distillery_core::tell;

/// Most jobs that the server returns in one page.
const PAGE: u32 = 100;

/// Lists jobs, or shows one.
///
/// # Errors
/// The server refuses or cannot be reached, or the output cannot be written.
pub async fn list(server: &ApiClient, args: &JobsArgs) -> Result<Exit, Error> {
    let is_json = args.connection.json;
    if let Some(id) = &args.id {
        let job = server.job(id).await?;
        let text = if is_json { job.to_string() } else { details(&job) };
        writeln!(io::stdout(), "{text}")?;
        return Ok(Exit::Success);
    }
    let (jobs, has_more) = pages(server, args).await?;
    let mut out = io::stdout().lock();
    if is_json {
        writeln!(out, "{}", json!({"data": jobs, "has_more": has_more}))?;
        return Ok(Exit::Success);
    }
    writeln!(out, "{:<30} {:<10} {:>8} {:>8} {:<20} name", "id", "status", "progress", "top-1", "created")?;
    for job in &jobs {
        let progress = job.pointer("/progress/fraction").and_then(Value::as_f64);
        let progress = progress.map_or_else(|| "-".to_owned(), |fraction| format!("{:.0} %", 100.0 * fraction));
        let top1 = percent(job.pointer("/result/best_top1")).unwrap_or_else(|| "-".to_owned());
        let (id, status, name) = (member(job, "/id"), member(job, "/status"), member(job, "/name"));
        let created = time(&job["created_at"]);
        writeln!(out, "{id:<30} {status:<10} {progress:>8} {top1:>8} {created:<20} {name}")?;
    }
    if has_more {
        tell!("there are more jobs: --limit shows more of them, --status, --label and --sweep fewer");
    }
    Ok(Exit::Success)
}

/// The jobs that the command line asks for, and whether there are more.
async fn pages(server: &ApiClient, args: &JobsArgs) -> Result<(Vec<Value>, bool), Error> {
    let (mut jobs, mut after) = (Vec::new(), None::<String>);
    loop {
        let wanted = args.limit - u32::try_from(jobs.len()).unwrap_or(args.limit);
        let limit = wanted.min(PAGE).to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(args.status.iter().map(|status| ("status", status.as_str())));
        query.extend(args.label.iter().map(|label| ("label", label.as_str())));
        query.extend(args.sweep.iter().map(|sweep| ("sweep", sweep.as_str())));
        query.extend(after.iter().map(|after| ("after", after.as_str())));
        let mut page = server.get(&["v1", "jobs"], &query).await?;
        let Value::Array(found) = page["data"].take() else {
            return Err(Error::unreachable("the server's list of jobs has no data"));
        };
        jobs.extend(found);
        let has_more = page["has_more"] == true;
        after = page["next"].as_str().map(str::to_owned);
        if !has_more || after.is_none() || jobs.len() >= args.limit as usize {
            return Ok((jobs, has_more));
        }
    }
}

/// A job as lines for people.
fn details(job: &Value) -> String {
    let mut lines = vec![format!("{}  {}", member(job, "/id"), member(job, "/name"))];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name:<10} {value}"));
        }
    };
    add("status", member(job, "/status"));
    add("attempt", format!("{} of {}", job["attempt"], job["max_attempts"]));
    add("priority", job["priority"].to_string());
    let labels = job["labels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{}:{}", plain(key), plain(value.as_str().unwrap_or_default())));
    add("labels", labels.collect::<Vec<_>>().join(" "));
    add("notes", indented(job["notes"].as_str().unwrap_or_default(), 11));
    add("worker", member(job, "/worker"));
    if let Some(epoch) = job.pointer("/progress/epoch") {
        let left = job.pointer("/progress/eta_seconds").and_then(Value::as_f64).map(clock).unwrap_or_default();
        add("progress", format!("epoch {epoch} of {}, {left} left", job["progress"]["epochs"]));
    }
    add("student", percent(job.pointer("/result/best_top1")).map(|top1| format!("top-1 {top1}")).unwrap_or_default());
    add("teacher", percent(job.pointer("/teacher/top1")).map(|top1| format!("top-1 {top1}")).unwrap_or_default());
    if job["error"].is_object() {
        add("error", failure(&job["error"]));
    }
    for (name, pointer) in [("created", "created_at"), ("started", "started_at"), ("finished", "finished_at")] {
        if job[pointer].is_string() {
            add(name, time(&job[pointer]));
        }
    }
    lines.join("\n")
}

/// Requests the same change for several jobs. If it is refused for one, the others are changed all the same.
///
/// # Errors
/// The last refusal: the ones before it were printed. The server cannot be reached or refuses the token, which ends the
/// command at once; or the output cannot be written.
pub async fn change(server: &ApiClient, action: &str, args: &JobIdsArgs) -> Result<Exit, Error> {
    let mut last = None;
    for id in &args.ids {
        let request = server.request(Method::POST, &["v1", "jobs", id, action]);
        // If the answer to a retry is lost, the server would refuse a repetition although the job was retried.
        let answer = if action == "retry" {
            server.send_once(request, server.patience).await
        } else {
            server.send(request).await
        };
        let changed = match answer {
            Ok(response) => server.json(response).await,
            Err(error) => Err(error),
        };
        match changed {
            Ok(job) if args.connection.json => writeln!(io::stdout(), "{job}")?,
            Ok(job) => writeln!(io::stdout(), "{id} is {}", member(&job, "/status"))?,
            Err(error) => {
                let is_over = matches!(error, Error::Unreachable { .. } | Error::Access(_));
                if let Some(earlier) = last.replace(error) {
                    earlier.print(args.connection.json);
                }
                if is_over {
                    break;
                }
            }
        }
    }
    last.map_or(Ok(Exit::Success), Err)
}

/// Changes a job's name, labels, priority or notes.
///
/// # Errors
/// The server refuses or cannot be reached, or the output cannot be written.
pub async fn edit(server: &ApiClient, args: &EditArgs) -> Result<Exit, Error> {
    let edits = &args.edits;
    let removed = edits.remove_label.iter().map(|key| (key.clone(), Value::Null));
    let set = edits.label.iter().map(|(key, value)| (key.clone(), json!(value)));
    let labels: Map<String, Value> = removed.chain(set).collect();
    let members = [
        ("name", edits.name.as_ref().map(|name| json!(name))),
        ("priority", edits.priority.map(|priority| json!(priority))),
        ("notes", edits.notes.as_ref().map(|notes| json!(notes))),
        ("labels", Some(Value::Object(labels)).filter(|labels| *labels != json!({}))),
    ];
    let changes: Map<String, Value> =
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let request = server.request(Method::PATCH, &["v1", "jobs", &args.id]).json(&changes);
    let response = server.send(request).await?;
    let job = server.json(response).await?;
    let text = if args.connection.json { job.to_string() } else { details(&job) };
    writeln!(io::stdout(), "{text}")?;
    Ok(Exit::Success)
}

/// Opens a page of the dashboard, and prints its address.
///
/// # Errors
/// The output cannot be written.
pub fn open(server: &ApiClient, args: &OpenArgs) -> Result<Exit, Error> {
    let fragment = args.id.as_ref().map_or_else(|| "/".to_owned(), |id| format!("/jobs/{id}"));
    let page = server.page(&fragment).to_string();
    if args.connection.json {
        writeln!(io::stdout(), "{}", json!({ "url": page }))?;
    } else {
        writeln!(io::stdout(), "{page}")?;
    }
    if args.print {
        return Ok(Exit::Success);
    }
    let named = std::env::var("BROWSER").ok().filter(|program| !program.is_empty());
    let programs = named.as_deref().into_iter().chain(["xdg-open", "open"]);
    for program in programs {
        let mut browser = Command::new(program);
        browser.arg(&page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if browser.spawn().is_ok() {
            return Ok(Exit::Success);
        }
    }
    tell!("no browser can be started here (BROWSER, xdg-open or open): open the address above");
    Ok(Exit::Success)
}
