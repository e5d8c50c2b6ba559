//! Uploads that were interrupted: temporary files in a directory, open multipart uploads in S3. Listings hide both, and
//! S3 charges for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::signer::{Method, SignedUrlOptions, Signer};

use super::Store;

/// How long the signature of a request for a list is valid, and how long the answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most pages of a list that are read at once; S3 puts 1,000 uploads on each.
const PAGES: usize = 100;

/// A file that was not stored to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedFile {
    /// The key that it would have had.
    pub key: String,
    /// What it takes; unknown in S3.
    pub size_bytes: Option<u64>,
    /// In a directory when it was last written, in S3 when its upload began.
    pub touched_at: DateTime<Utc>,
    place: Remainder,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Remainder {
    File(PathBuf),
    /// The id of a multipart upload.
    Upload(String),
}

/// A bucket, without the prefix that [`Store`] adds to its keys.
#[derive(Debug)]
pub(super) struct Bucket {
    store: AmazonS3,
    /// Empty, or the prefix with a slash at its end.
    prefix: String,
    client: reqwest::Client,
}

impl Bucket {
    pub(super) fn new(store: AmazonS3, prefix: &Key) -> anyhow::Result<Self> {
        let prefix = if prefix.as_ref().is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { store, prefix, client: reqwest::Client::builder().timeout(PATIENCE).build()? })
    }

    async fn unfinished(&self) -> anyhow::Result<Vec<UnfinishedFile>> {
        let mut found = Vec::new();
        let mut after = Vec::new();
        for _ in 0..PAGES {
            let page = self.page(&after).await?;
            found.extend(elements(&page, "Upload").filter_map(|upload| self.parse(upload)));
            let next = |name| elements(&page, name).next().map(unescape);
            match (next("IsTruncated").as_deref(), next("NextKeyMarker"), next("NextUploadIdMarker")) {
                (Some("true"), Some(key), Some(upload)) => {
                    after = vec![("key-marker", key), ("upload-id-marker", upload)];
                }
                _ => break,
            }
        }
        Ok(found)
    }

    /// One page of the answer, which `object_store` cannot ask for.
    async fn page(&self, after: &[(&str, String)]) -> anyhow::Result<String> {
        let mut query = vec![("uploads", String::new()), ("prefix", self.prefix.clone())];
        query.extend(after.iter().cloned());
        let options = SignedUrlOptions::new().with_query(query);
        let url = self.store.signed_url_opts(Method::GET, &Key::default(), PATIENCE, &options).await?;
        let answer = self.client.get(url).send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        let text = answer.text().await.map_err(reqwest::Error::without_url)?;
        anyhow::ensure!(status.is_success(), "S3 answered {status}: {}", text.chars().take(500).collect::<String>());
        Ok(text)
    }

    fn parse(&self, upload: &str) -> Option<UnfinishedFile> {
        let text = |name| elements(upload, name).next().map(unescape);
        let begun = DateTime::parse_from_rfc3339(&text("Initiated")?).ok()?;
        Some(UnfinishedFile {
            key: text("Key")?.strip_prefix(&self.prefix)?.to_owned(),
            size_bytes: None,
            touched_at: begun.into(),
            place: Remainder::Upload(text("UploadId")?),
        })
    }
}

impl Store {
    /// All files whose upload has begun and not ended.
    ///
    /// # Errors
    /// The storage fails, or does not offer such a list.
    pub async fn unfinished(&self) -> anyhow::Result<Vec<UnfinishedFile>> {
        if let Some(bucket) = &self.bucket {
            return bucket.unfinished().await.context("cannot list the unfinished multipart uploads");
        }
        let Some(root) = self.directory.clone() else { return Ok(Vec::new()) };
        tokio::task::spawn_blocking(move || temporary_files(&root)).await?
    }

    /// Removes what unfinished uploads have stored below a directory. Failures are logged: not every service that
    /// speaks S3 can list uploads.
    pub(super) async fn abort_below(&self, directory: &str) {
        let unfinished = match self.unfinished().await {
            Ok(unfinished) => unfinished,
            Err(error) => return tracing::warn!("{error:#}"),
        };
        for file in unfinished.iter().filter(|file| Path::new(&file.key).starts_with(directory)) {
            if let Err(error) = self.remove_unfinished(file).await {
                tracing::warn!(key = file.key, "cannot remove an unfinished upload: {error:#}");
            }
        }
    }

    /// Removes what an upload has stored that did not end.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn remove_unfinished(&self, file: &UnfinishedFile) -> anyhow::Result<()> {
        match (&file.place, &self.bucket) {
            (Remainder::File(path), _) => match tokio::fs::remove_file(path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
            (Remainder::Upload(id), Some(bucket)) => {
                let key = Key::parse(format!("{}{}", bucket.prefix, file.key))?;
                match bucket.store.abort_multipart(&key, id).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            (Remainder::Upload(_), None) => Ok(()),
        }
    }
}

/// What `object_store` writes to before it renames: `<name>#<number>` beside the file.
fn temporary_files(root: &Arc<Path>) -> anyhow::Result<Vec<UnfinishedFile>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
            let path = entry.path();
            // A file that has gone in the meantime needs no attention.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                open.push(path);
                continue;
            }
            let below = path.strip_prefix(root).ok().and_then(Path::to_str);
            let Some((key, number)) = below.and_then(|below| below.rsplit_once('#')) else { continue };
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let (key, size_bytes) = (key.to_owned(), Some(about.len()));
            let touched_at = about.modified()?.into();
            found.push(UnfinishedFile { key, size_bytes, touched_at, place: Remainder::File(path) });
        }
    }
    Ok(found)
}

/// The texts between the tags of this name. S3's lists need no more of XML: no name in them is nested in itself.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&begin)?;
        let (text, after) = after.split_once(&end)?;
        rest = after;
        Some(text)
    })
}

fn unescape(text: &str) -> String {
    let characters = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&apos;", "'"), ("&#39;", "'")];
    let text = characters.iter().fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character));
    text.replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_uploads_is_read() {
        let bucket = object_store::aws::AmazonS3Builder::new().with_bucket_name("bucket").with_region("x");
        crate::artifacts::install_tls_provider();
        let bucket = Bucket::new(bucket.build().unwrap(), &Key::from("deep/prefix")).unwrap();
        let xml = "<Upload><Key>deep/prefix/jobs/1/a</Key><UploadId>a&amp;b&quot;</UploadId>\
                   <Initiated>2026-11-30T01:02:03.000Z</Initiated></Upload>\
                   <Upload><Key>other/a</Key><UploadId>c</UploadId><Initiated>2026-11-30T01:02:03.000Z</Initiated></Upload>\
                   <Upload><Key>deep/prefix/b</Key><UploadId>d</UploadId><Initiated>yesterday</Initiated></Upload>";
        let found: Vec<_> = elements(xml, "Upload").filter_map(|upload| bucket.parse(upload)).collect();
        let [only] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(only.key, "jobs/1/a");
        assert_eq!(only.place, Remainder::Upload("a&b\"".to_owned()));
        assert_eq!(only.touched_at.to_rfc3339(), "2026-11-30T01:02:03+00:00");
    }
}
