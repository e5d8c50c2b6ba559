//! Safetensors files: the length of the header, the header in JSON, then the tensors' bytes without gaps.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::FileContents;
use super::error::{Error, Result, corrupt, shown};
use super::state_dict::unread_note;
use super::tensor::{Dtype, StoredBytes, StridedView, Tensor};
use crate::byte_source::ByteSource;

/// Largest header, in bytes, as in the reference implementation.
pub(super) const LONGEST_HEADER: u64 = 100_000_000;
/// Largest header that is read, in bytes: one of 10,000 tensors has a megabyte or two.
const LONGEST_READ: u64 = 32 << 20;
/// Most quotes and commas in a header, which bound what it takes in memory. A tensor has some 14.
const MOST_MARKS: usize = 2_000_000;
const METADATA: &str = "__metadata__";

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header as written: keys may be duplicate.
#[derive(Default)]
struct Header {
    entries: Vec<(String, HeaderEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct HeaderMembers;
        impl<'de> Visitor<'de> for HeaderMembers {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA {
                        // The reference implementation reads null, too.
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else {
                        header.entries.push((key, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderMembers)
    }
}

/// Reads the tensors, in the order of their bytes, and the metadata. Tensors of other types than [`Dtype`] has are left
/// out.
pub(super) fn read(source: &ByteSource) -> Result<FileContents> {
    let (length, Header { mut entries, metadata }) = read_header(source)?;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let stored = source.len() - 8 - length;
    let mut names = HashSet::new();
    let mut end = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    let mut unread = Vec::new();
    for (name, entry) in entries {
        if !names.insert(name.clone()) {
            return corrupt(format!("it has two tensors named {}", shown(&name)));
        }
        let [from, to] = entry.data_offsets;
        let Some(dtype) = Dtype::from_name(&entry.dtype) else {
            if from != end || to < from {
                return corrupt(format!("the bytes of {} do not follow those before", shown(&name)));
            }
            end = to;
            unread.push(format!("{} has type {}", shown(&name), shown(&entry.dtype)));
            continue;
        };
        let view = StridedView::contiguous(entry.shape);
        let size =
            view.as_ref().and_then(StridedView::elements).and_then(|elements| elements.checked_mul(dtype.size()));
        let (Some(view), true) = (view, size.is_some_and(|size| from == end && from.checked_add(size) == Some(to)))
        else {
            return corrupt(format!("the offsets of {} do not match its shape", shown(&name)));
        };
        end = to;
        // Whether these bytes exist is checked below, for all tensors.
        let data = StoredBytes::Range { offset: 8 + length + from, length: to - from };
        tensors.push(Tensor::new(name, dtype, view, data, false)?);
    }
    match stored {
        _ if stored < end => {
            Err(Error::Truncated(format!("its header describes {end} bytes, but only {stored} bytes follow")))
        }
        _ if stored > end => corrupt(format!("{} bytes follow its last tensor", stored - end)),
        _ if tensors.is_empty() && !unread.is_empty() => {
            let message = format!("{}, which is not supported; save floating-point or integer tensors", unread[0]);
            Err(Error::Unsupported(message))
        }
        _ => {
            let notes = unread_note(&unread).into_iter().collect();
            Ok(FileContents { tensors, metadata, notes, is_wanted: false })
        }
    }
}

/// The header and its length in bytes.
fn read_header(source: &ByteSource) -> Result<(u64, Header)> {
    let mut length = [0; 8];
    length.copy_from_slice(&source.read(0, 8)?);
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Err(Error::Limit(format!("its header claims to be {length} bytes long")));
    }
    if length > source.len() - 8 {
        return Err(Error::Truncated(format!(
            "its header claims to be {length} bytes long, but only {} bytes follow",
            source.len() - 8
        )));
    }
    if length > LONGEST_READ {
        return Err(Error::Limit(format!("its header is {length} bytes long, and at most {LONGEST_READ} are read")));
    }
    let text = source.read(8, length)?;
    if text.iter().filter(|byte| matches!(byte, b'"' | b',')).count() > MOST_MARKS {
        return Err(Error::Limit(format!("its header has more than {MOST_MARKS} quotes and commas")));
    }
    let header = serde_json::from_slice(&text)
        .map_err(|error| Error::Corrupt(format!("its header cannot be read ({})", shown(&error.to_string()))))?;
    Ok((length, header))
}

#[derive(Debug, Clone, Copy)]
pub struct NewTensor<'a> {
    /// PyTorch's key.
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [u64],
    /// Elements in row-major order, little-endian.
    pub bytes: &'a [u8],
}

/// Writes a safetensors file atomically: to a temporary file, which is synced and renamed. Equal content gives equal
/// bytes.
///
/// # Errors
/// A name is duplicate, a tensor's bytes do not match its shape, or the file cannot be written.
pub fn write(path: &Path, tensors: &[NewTensor<'_>], metadata: &BTreeMap<String, String>) -> Result<()> {
    let plan: Vec<_> = tensors.iter().map(|tensor| (tensor.name, tensor.dtype, tensor.shape)).collect();
    write_each(path, &plan, metadata, |index| Ok(tensors[index].bytes))
}

/// Like [`write()`], with one tensor in memory at a time.
pub(crate) fn write_each<B: AsRef<[u8]>>(
    path: &Path,
    tensors: &[(&str, Dtype, &[u64])],
    metadata: &BTreeMap<String, String>,
    mut bytes: impl FnMut(usize) -> Result<B>,
) -> Result<()> {
    // Tensors with wide elements first, so that all are aligned. The order is otherwise unchanged.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(tensors[index].1.size()));
    let header = header(tensors, &order, metadata)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new()
        .prefix(".writing-")
        // As for any new file, before the umask. The default of tempfile is 0600.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)?;
    let mut output = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    output.write_all(&(header.len() as u64).to_le_bytes())?;
    output.write_all(&header)?;
    for index in order {
        let (name, dtype, shape) = tensors[index];
        let bytes = bytes(index)?;
        let expected = shape.iter().product::<u64>() * dtype.size();
        if bytes.as_ref().len() as u64 != expected {
            let length = bytes.as_ref().len();
            return corrupt(format!("{} has {length} bytes, but its shape needs {expected}", shown(name)));
        }
        output.write_all(bytes.as_ref())?;
    }
    output.flush()?;
    drop(output);
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    // Makes the rename durable.
    File::open(directory)?.sync_all()?;
    Ok(())
}

fn header(tensors: &[(&str, Dtype, &[u64])], order: &[usize], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let json = |name: &str, value: serde_json::Value| format!("{}:{value}", serde_json::Value::from(name));
    let mut members = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        members.push(json(METADATA, serde_json::json!(metadata)));
    }
    let mut names = HashSet::new();
    let mut end = 0_u64;
    for &index in order {
        let (name, dtype, shape) = tensors[index];
        if name == METADATA || !names.insert(name) {
            return corrupt(format!("it has two tensors named {}", shown(name)));
        }
        let size = StridedView::contiguous(shape.to_vec()).and_then(|view| view.elements()?.checked_mul(dtype.size()));
        let Some(next) = size.and_then(|size| end.checked_add(size)) else {
            return corrupt(format!("{} is too large", shown(name)));
        };
        let entry = serde_json::json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [end, next]});
        members.push(json(name, entry));
        end = next;
    }
    let mut header = format!("{{{}}}", members.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
