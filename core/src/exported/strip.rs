//! Removes what an exported network says about the machine that exported it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::Crc;
use sha2::{Digest, Sha256};

use super::archive::{LONGEST_JSON, NetworkArchive, PROGRAM, damaged, limit};
use super::error::{Error, Result};
use crate::byte_source::ByteSource;
use crate::checkpoint::archive::{Archive as Zip, EntryRange, wrong_checksum};

/// The note of a network's upload that had stack traces. Nobody has to act on it.
pub const TRACES_REMOVED: &str = "its stack traces, with paths of the machine that exported it, were removed: the \
                                  SHA-256 is that of the file without them";

/// The member of a node's metadata with lines of the user's programs and the paths of their files.
const TRACE: &[u8] = b"stack_trace";

/// Where in a zip archive's headers the checksum of an entry is.
const IN_LOCAL_HEADER: u64 = 14;
const IN_DIRECTORY: u64 = 16;
/// The flag of an entry with a descriptor behind its bytes, which has the checksum, too.
const HAS_DESCRIPTOR: u8 = 8;
const DESCRIPTOR: &[u8] = b"PK\x07\x08";

/// Bytes that are hashed at a time.
const PIECE: u64 = 1 << 20;

/// Bytes to write over those of a file, and where.
type Patch = (u64, Vec<u8>);

/// Empties the stack traces in the file of an exported network, in place: nothing moves, and the same file is always
/// changed in the same way. Returns whether there were any.
///
/// # Errors
/// The file is not an exported network, is damaged, or cannot be read or written.
pub fn strip_traces(file: &File) -> std::result::Result<bool, Error> {
    let patches = patches(&ByteSource::from_file(file.try_clone()?)?)?;
    for (at, bytes) in &patches {
        file.write_all_at(bytes, *at)?;
    }
    Ok(!patches.is_empty())
}

/// SHA-256 of a network or checkpoint, in hexadecimal: of an exported network as [`strip_traces`] leaves it, which is
/// what the server stores; of any other file as it is. Changes nothing.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let source = ByteSource::from_file(File::open(path)?)?;
    // What cannot be read as an exported network is stored as it is, if at all.
    let patches = patches(&source).unwrap_or_default();
    hash(&source, patches)
}

/// Whether a network or checkpoint has a hash: that of [`sha256`], or that of the file as it is, which earlier versions
/// took for networks that the server had not stored.
///
/// # Errors
/// The file cannot be read.
pub fn has_sha256(path: &Path, expected: &str) -> io::Result<bool> {
    if sha256(path)? == expected {
        return Ok(true);
    }
    let source = ByteSource::from_file(File::open(path)?)?;
    Ok(hash(&source, Vec::new())? == expected)
}

/// SHA-256 of a file with some of its bytes replaced.
fn hash(source: &ByteSource, mut patches: Vec<Patch>) -> io::Result<String> {
    patches.sort_by_key(|(at, _)| *at);
    let mut hash = Sha256::new();
    let mut at = 0;
    let end = (source.len(), Vec::new());
    for (start, bytes) in patches.into_iter().chain([end]) {
        while at < start {
            let length = (start - at).min(PIECE);
            hash.update(source.read(at, length)?);
            at += length;
        }
        hash.update(&bytes);
        at += bytes.len() as u64;
    }
    Ok(hex::encode(hash.finalize()))
}

/// What has to be written over an exported network so that it has no stack traces. Empty if it has none.
fn patches(source: &ByteSource) -> Result<Vec<Patch>> {
    let content = NetworkArchive::open(source)?.range(PROGRAM);
    let content = content.ok_or_else(|| damaged(format!("{PROGRAM} is missing from its archive")))?;
    let length = content.end - content.start;
    if length > LONGEST_JSON {
        return Err(limit(format!("{PROGRAM} in it is longer than {} MiB", LONGEST_JSON >> 20)));
    }
    let mut program = source.read(content.start, length)?;
    let traces = traces(&program);
    if traces.is_empty() {
        return Ok(Vec::new());
    }
    let place = place(source, &content)?;
    let checksum_of = |bytes: &[u8]| {
        let mut checksum = Crc::new();
        checksum.update(bytes);
        checksum.sum()
    };
    // A new checksum would hide that the bytes are not those that were written.
    if checksum_of(&program) != place.checksum {
        return Err(wrong_checksum(PROGRAM).into());
    }
    for trace in traces {
        program[trace.clone()].fill(b' ');
        program[trace.start..trace.start + 2].copy_from_slice(b"\"\"");
    }
    let places = checksum_places(source, &place)?;
    let checksum = checksum_of(&program).to_le_bytes();
    let mut patches = vec![(content.start, program)];
    patches.extend(places.into_iter().map(|at| (at, checksum.to_vec())));
    Ok(patches)
}

/// The strings that are stack traces, with their quotes.
fn traces(json: &[u8]) -> Vec<Range<usize>> {
    let mut traces = Vec::new();
    let mut at = 0;
    while let Some(key) = next_string(json, at) {
        at = key.end;
        let after = skip_blanks(json, key.end);
        if &json[key.start + 1..key.end - 1] != TRACE || json.get(after) != Some(&b':') {
            continue;
        }
        let value = skip_blanks(json, after + 1);
        if json.get(value) == Some(&b'"')
            && let Some(trace) = next_string(json, value)
        {
            at = trace.end;
            // An empty one says nothing.
            traces.extend((trace.len() > 2).then_some(trace));
        }
    }
    traces
}

/// The next string at or after a place outside of strings, with its quotes.
fn next_string(json: &[u8], from: usize) -> Option<Range<usize>> {
    let start = from + json.get(from..)?.iter().position(|&byte| byte == b'"')?;
    let mut at = start + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(start..at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn skip_blanks(json: &[u8], from: usize) -> usize {
    let blanks = json[from..].iter().take_while(|byte| byte.is_ascii_whitespace());
    from + blanks.count()
}

/// The entry with these bytes.
fn place(source: &ByteSource, content: &Range<u64>) -> Result<EntryRange> {
    let mut zip = Zip::open(source)?;
    for index in 0..zip.len() {
        let place = zip.place(index)?;
        if place.content == *content {
            return Ok(place);
        }
    }
    Err(damaged(format!("{PROGRAM} is missing from its archive")))
}

/// Where an entry's checksum is written.
fn checksum_places(source: &ByteSource, place: &EntryRange) -> Result<Vec<u64>> {
    let old = place.checksum.to_le_bytes();
    let is_at = |at: u64| source.read(at, 4).is_ok_and(|found| found == old);
    let mut places = vec![place.directory + IN_DIRECTORY];
    source.read(places[0], 4)?;
    places.extend(Some(place.whole.start + IN_LOCAL_HEADER).filter(|&at| is_at(at)));
    let flags = source.read(place.whole.start + 6, 1)?;
    if flags[0] & HAS_DESCRIPTOR != 0 {
        let end = place.content.end;
        let is_signed = source.read(end, 4).is_ok_and(|found| found == DESCRIPTOR);
        places.extend(Some(if is_signed { end + 4 } else { end }).filter(|&at| is_at(at)));
    }
    Ok(places)
}
