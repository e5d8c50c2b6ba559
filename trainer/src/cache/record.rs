//! Small results: a line with the SHA-256 of the rest, and JSON with the key and the value.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Cache;

/// The most bytes that are read of a file.
const LIMIT: u64 = 16 << 20;

#[derive(Deserialize, Serialize)]
struct Record<T> {
    key: String,
    value: T,
}

/// Loads what was stored under a key; `None` if nothing was.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn load<T: DeserializeOwned>(cache: &Cache, kind: &str, key: &str) -> io::Result<Option<T>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
    let Some(file) = Cache::find(&cache.path(kind, key))? else { return Ok(None) };
    let mut text = String::new();
    file.take(LIMIT).read_to_string(&mut text)?;
    let (hash, text) = text.split_once('\n').ok_or_else(damaged)?;
    if hash != hex::encode(Sha256::digest(text)) {
        return Err(damaged());
    }
    let record: Record<T> = serde_json::from_str(text).map_err(|_| damaged())?;
    if record.key == key { Ok(Some(record.value)) } else { Err(damaged()) }
}

/// Stores a value under a key.
///
/// # Errors
/// The file cannot be written.
pub fn store<T: Serialize>(cache: &Cache, kind: &str, key: &str, value: &T) -> io::Result<()> {
    let text = serde_json::to_string(&Record { key: key.to_owned(), value }).expect("a record is JSON");
    let text = format!("{}\n{text}", hex::encode(Sha256::digest(&text)));
    cache.put(&cache.path(kind, key), text.len() as u64, |file| file.write_all(text.as_bytes())).map(drop)
}
