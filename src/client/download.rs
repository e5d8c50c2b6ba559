//! `download`: gets a job's file, continues after lost connections, and compares the SHA-256 with the server's.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use distillery_core::export::ExportFormat;
use distillery_core::tell;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::header::{CONTENT_RANGE, IF_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use super::error::{Error, Exit};
use super::facts::{FileFacts, safe_name};
use super::part::{PartialFile, sha256_of};
use super::server::ApiClient;
use crate::cli::DownloadArgs;
use crate::private_file::shell_word;

/// How long the server may take to export a student before it sends the first byte.
const EXPORT_PATIENCE: Duration = Duration::from_secs(1800);
/// Wait before the first attempt to connect again; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Downloads a file of a job.
///
/// # Errors
/// The server refuses or cannot be reached, the file cannot be written, or what came is not what the server named.
pub async fn download(server: &ApiClient, args: &DownloadArgs) -> Result<Exit, Error> {
    let mut download = FileDownload { server, args, part: None, bar: None };
    let outcome = download.run().await;
    if let Some(bar) = &download.bar {
        bar.finish_and_clear();
    }
    outcome
}

struct FileDownload<'a> {
    server: &'a ApiClient,
    args: &'a DownloadArgs,
    /// What was received so far.
    part: Option<PartialFile>,
    bar: Option<ProgressBar>,
}

/// How one request for the file ended.
enum TransferEnd {
    /// Every byte was received.
    Complete,
    /// The output exists, with the same bytes.
    Exists(PathBuf),
    /// An earlier download left a part of the file.
    Resumable,
}

impl FileDownload<'_> {
    async fn run(&mut self) -> Result<Exit, Error> {
        loop {
            if let Some(path) = self.fetch().await? {
                tell!("{} is there already, with the same bytes", path.display());
                return self.say(&path, None);
            }
            let part = self.part.as_mut().expect("fetched");
            let (found, expected) = (part.sha256(), part.facts.sha256.clone());
            if expected.as_ref().is_none_or(|expected| *expected == found) {
                break;
            }
            let expected = expected.unwrap_or_default();
            if part.began_earlier() {
                tell!("what an earlier download left does not belong to the file: downloading all of it");
                part.restart()?;
                continue;
            }
            let length = part.length;
            part.remove();
            let end = if self.is_to_stdout() { "Do not use what was written" } else { "They were removed" };
            return Err(Error::Damaged(format!(
                "the {length} bytes received have SHA-256 {found}, but the server's file has {expected}: something between \
                 changed them. {end}; download the file again"
            )));
        }
        let part = self.part.take().expect("fetched");
        if part.facts.sha256.is_none() {
            tell!("the server sent no SHA-256 for this file: its bytes were not checked");
        }
        let (sha256, path) = (part.sha256(), part.publish(self.args.force)?);
        match path {
            Some(path) => self.say(&path, Some(sha256)),
            None => Ok(Exit::Success),
        }
    }

    fn is_to_stdout(&self) -> bool {
        self.args.output.as_deref() == Some(Path::new("-"))
    }

    fn say(&self, path: &Path, sha256: Option<String>) -> Result<Exit, Error> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.args.connection.json {
            let sha256 = sha256.map_or_else(|| sha256_of(path), Ok)?;
            writeln!(io::stdout(), "{}", json!({"path": path, "sha256": sha256}))?;
        } else {
            writeln!(io::stdout(), "{}", path.display())?;
        }
        Ok(Exit::Success)
    }

    /// Gets all bytes, with new requests after lost connections. Returns the path of the output if it existed before.
    async fn fetch(&mut self) -> Result<Option<PathBuf>, Error> {
        let (mut began, mut pause) = (None::<Instant>, FIRST_PAUSE);
        loop {
            let before = self.length();
            let failure = match self.attempt().await {
                Ok(TransferEnd::Complete) => return Ok(None),
                Ok(TransferEnd::Exists(path)) => return Ok(Some(path)),
                Ok(TransferEnd::Resumable) => continue,
                Err(failure @ Error::Unreachable { .. }) => failure,
                Err(refusal) => return Err(refusal),
            };
            let Some(part) = &self.part else { return Err(failure) };
            if part.length > before {
                (began, pause) = (None, FIRST_PAUSE);
            }
            let began = *began.get_or_insert_with(Instant::now);
            if began.elapsed() + pause > self.server.reconnect {
                let (length, place) = (part.length, part.place());
                return Err(failure.context(&format!("{length} bytes are {place}")));
            }
            let size = part.facts.size.map_or_else(String::new, |size| format!(" of {size}"));
            self.note(&format!("{failure}; continuing after {}{size} bytes", part.length));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn length(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.length)
    }

    fn note(&self, note: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell!("{note}")),
            None => tell!("{note}"),
        }
    }

    /// One request: for the whole file, or for the rest of it.
    async fn attempt(&mut self) -> Result<TransferEnd, Error> {
        if self.part.as_ref().is_some_and(PartialFile::is_complete) {
            return Ok(TransferEnd::Complete);
        }
        let mut response = self.ask().await?;
        if !self.is_rest(&response) {
            let facts = FileFacts::of(response.headers(), &self.fallback());
            match &mut self.part {
                // The server or a proxy ignores ranges.
                Some(part) if part.facts.sha256 == facts.sha256 => part.restart()?,
                // The file has changed, as after a retry of the job.
                Some(part) if part.is_stdout() && part.length > 0 => {
                    return Err(Error::Damaged(format!(
                        "the file changed on the server after {} of its bytes were written to standard output",
                        part.length
                    )));
                }
                _ => {
                    if let Some(changed) = self.part.take() {
                        self.note("the file changed on the server: downloading the new one");
                        changed.remove();
                    }
                    if let Some(path) = self.begin(facts)? {
                        return Ok(TransferEnd::Exists(path));
                    }
                    if self.length() > 0 {
                        self.note(&format!("an earlier download left {} bytes: continuing after them", self.length()));
                        return Ok(TransferEnd::Resumable);
                    }
                }
            }
        }
        let part = self.part.as_mut().expect("begun above");
        while let Some(piece) = self.server.piece(&mut response, self.server.patience).await? {
            part.append(&piece)?;
            if let Some(bar) = &self.bar {
                bar.set_position(part.length);
            }
        }
        if part.facts.size.is_some_and(|size| part.length < size) {
            return Err(Error::unreachable("the server ended the connection before the end of the file"));
        }
        Ok(TransferEnd::Complete)
    }

    async fn ask(&self) -> Result<Response, Error> {
        let args = self.args;
        let mut path = vec!["v1", "jobs", args.id.as_str()];
        let mut query = Vec::new();
        match &args.artifact {
            Some(name) => path.extend(["artifacts", name.as_str()]),
            None => {
                path.push("student");
                query.extend([("which", args.which.as_str()), ("format", args.format.name())]);
                query.extend(args.preprocess.then_some(("preprocess", "true")));
                query.extend(args.with.iter().map(|format| ("with", format.name())));
            }
        }
        let mut request = self.server.request(Method::GET, &path).query(&query);
        if let Some(part) = self.part.as_ref().filter(|part| part.length > 0)
            && let Some(sha256) = &part.facts.sha256
        {
            request =
                request.header(RANGE, format!("bytes={}-", part.length)).header(IF_RANGE, format!("\"{sha256}\""));
        }
        let is_made =
            args.artifact.as_ref().map_or(args.format != ExportFormat::Safetensors, |name| name.starts_with("export-"));
        let patience = if is_made { self.server.patience.max(EXPORT_PATIENCE) } else { self.server.patience };
        if self.part.is_some() {
            return self.server.send_once(request, patience).await;
        }
        if is_made {
            tell!("the server writes {} if it has not done that before", args.artifact.as_deref().unwrap_or("it"));
            return self.server.send_once(request, patience).await;
        }
        self.server.send(request).await
    }

    /// Whether an answer has exactly the missing bytes.
    fn is_rest(&self, response: &Response) -> bool {
        let Some(part) = &self.part else { return false };
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
        let size = part.facts.size.unwrap_or_default();
        response.status() == StatusCode::PARTIAL_CONTENT
            && range.strip_prefix("bytes ").is_some_and(|range| {
                range.split_once('-').and_then(|(first, _)| first.parse().ok()) == Some(part.length)
                    && range.split_once('/').and_then(|(_, total)| total.parse().ok()) == Some(size)
            })
    }

    fn fallback(&self) -> String {
        let name = self.args.artifact.as_ref().map(|name| name.replace('/', "-"));
        let name = name.unwrap_or_else(|| format!("student{}", self.args.format.suffix()));
        safe_name(&format!("{}-{name}", self.args.id)).unwrap_or_else(|| self.args.id.clone())
    }

    /// Begins to write the file, or continues what an earlier download left. Returns the path of the output if it
    /// exists with the same bytes.
    fn begin(&mut self, facts: FileFacts) -> Result<Option<PathBuf>, Error> {
        if self.is_to_stdout() {
            self.part = Some(PartialFile::stdout(facts));
            return Ok(None);
        }
        let target = match &self.args.output {
            Some(path) if path.is_dir() => path.join(&facts.name),
            Some(path) => path.clone(),
            None => PathBuf::from(&facts.name),
        };
        if !self.args.force && target.symlink_metadata().is_ok() {
            if facts.sha256.is_some() && target.is_file() && Some(sha256_of(&target)?) == facts.sha256 {
                return Ok(Some(target));
            }
            let shown = target.display();
            return Err(Error::Local(anyhow::anyhow!(
                "{shown} exists and has other bytes: `--force` replaces it, `--output {}` writes another file",
                shell_word(&format!("other-{}", facts.name))
            )));
        }
        if io::stderr().is_terminal() && !self.args.connection.json {
            let template = "{bytes} of {total_bytes} {bar:40} {bytes_per_sec}, {eta} left";
            let style = ProgressStyle::with_template(template).expect("the template is valid");
            self.bar = Some(ProgressBar::with_draw_target(facts.size, ProgressDrawTarget::stderr()).with_style(style));
        }
        self.part = Some(PartialFile::open(target, facts)?);
        Ok(None)
    }
}
