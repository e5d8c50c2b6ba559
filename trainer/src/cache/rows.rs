//! Rows of numbers, each of which is computed once: in memory, in a file that several processes fill together, or in
//! both.
//!
//! ```text
//! magic and key, zeros up to 4096 bytes, then per row: XXH3 of its index and content (8 bytes), content (float32)
//! ```
//!
//! All processes that write a row write the same bytes, so they need no lock. A row that was never written is zero. A
//! torn or damaged row does not match its checksum and counts as missing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use twox_hash::XxHash3_64;

use super::{Cache, remove};
use crate::error::{Error, Result};

const MAGIC: &[u8] = b"distillery rows 1\n";
const HEAD: usize = 4096;
const CHECKSUM: usize = 8;

/// The indices of some rows.
#[derive(Debug, Clone, Copy)]
pub struct RowIndices<'a> {
    pub host: &'a [usize],
    /// The same as a tensor: `[B]` int64, on the device where rows are kept in memory.
    pub device: &'a Tensor,
}

/// A table of rows of `width` numbers each.
#[derive(Debug)]
pub struct Rows {
    width: usize,
    storage: RowStorage,
    /// Damaged rows found so far.
    damaged: u64,
}

#[derive(Debug)]
enum RowStorage {
    Memory(MemoryRows),
    File(File),
    /// Read and written in memory. `unwritten` are the rows that the file lacks.
    Both {
        kept: MemoryRows,
        file: File,
        unwritten: Vec<usize>,
    },
}

/// Rows [count, width] in memory, and which of them are known.
#[derive(Debug)]
struct MemoryRows {
    rows: Tensor,
    known: Vec<bool>,
}

impl MemoryRows {
    fn get(&self, RowIndices { host, device }: RowIndices<'_>) -> Option<Tensor> {
        host.iter().all(|&row| self.known[row]).then(|| self.rows.index_select(0, device))
    }

    fn put(&mut self, RowIndices { host, device }: RowIndices<'_>, rows: &Tensor) {
        let _ = self.rows.index_copy_(0, device, rows);
        host.iter().for_each(|&row| self.known[row] = true);
    }
}

/// Rows of a file that are read or written at once.
const AT_ONCE: usize = 1024;

impl Rows {
    /// Bytes that `count` rows of `width` numbers take in a file.
    #[must_use]
    pub fn bytes(count: u64, width: usize) -> u64 {
        HEAD as u64 + count * (CHECKSUM + 4 * width) as u64
    }

    /// Allocates `count` rows on a device, none of them known.
    ///
    /// # Errors
    /// They do not fit into its memory.
    pub fn in_memory(count: usize, width: usize, device: Device) -> std::result::Result<Self, tch::TchError> {
        let rows = Tensor::f_empty([count as i64, width as i64], (Kind::Float, device))?;
        Ok(Self { width, storage: RowStorage::Memory(MemoryRows { rows, known: vec![false; count] }), damaged: 0 })
    }

    /// Opens the rows of a file, which is created if it is missing. Replaces a damaged file, and then returns true as
    /// well.
    ///
    /// # Errors
    /// The file cannot be opened or created.
    pub fn in_file(cache: &Cache, path: &Path, key: &str, count: u64, width: usize) -> io::Result<(Self, bool)> {
        let mut head = [MAGIC, key.as_bytes()].concat();
        if head.len() > HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the key is too long"));
        }
        head.resize(HEAD, 0);
        let length = Self::bytes(count, width);
        let rows = |file| Self { width, storage: RowStorage::File(file), damaged: 0 };
        let Some(file) = Cache::find(path)? else {
            return Ok((rows(cache.put_first(path, length, &head)?), false));
        };
        let mut found = vec![0; HEAD];
        let is_sound = file.metadata()?.len() == length && file.read_exact_at(&mut found, 0).is_ok() && found == head;
        if is_sound {
            return Ok((rows(file), false));
        }
        remove(path)?;
        Ok((rows(cache.put_first(path, length, &head)?), true))
    }

    /// Damaged rows found so far.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Copies the file's rows to a device, so that reading some of them waits for neither file nor device. Rows put
    /// there later reach the file with [`write`](Self::write).
    ///
    /// # Errors
    /// The file cannot be read, or the device's memory is full.
    pub fn on_device(mut self, count: usize, device: Device) -> Result<Self> {
        let RowStorage::File(file) = self.storage else { return Ok(self) };
        let failed = |error: io::Error| Error::internal(error.to_string());
        let mut content = Vec::with_capacity(count * 4 * self.width);
        let mut known = Vec::with_capacity(count);
        let length = CHECKSUM + 4 * self.width;
        let mut records = vec![0; AT_ONCE.min(count) * length];
        for first in (0..count).step_by(AT_ONCE) {
            let records = &mut records[..AT_ONCE.min(count - first) * length];
            file.read_exact_at(records, Self::bytes(first as u64, self.width)).map_err(failed)?;
            for (number, record) in (first..).zip(records.chunks_exact(length)) {
                let (sum, row) = record.split_at(CHECKSUM);
                known.push(sum == checksum(number, row));
                self.damaged += u64::from(!known[number] && record.iter().any(|&byte| byte != 0));
                content.extend_from_slice(row);
            }
        }
        let size = [count as i64, self.width as i64];
        let rows = Tensor::f_from_data_size(&content, &size, Kind::Float)?.f_to_device(device)?;
        self.storage = RowStorage::Both { kept: MemoryRows { rows, known }, file, unwritten: Vec::new() };
        Ok(self)
    }

    /// Some rows: [B, width], on the device that keeps them, or the CPU for a file. `None` if one of them is missing.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&mut self, indices: RowIndices<'_>) -> io::Result<Option<Tensor>> {
        match &self.storage {
            RowStorage::Memory(kept) | RowStorage::Both { kept, .. } => Ok(kept.get(indices)),
            RowStorage::File(file) => {
                let numbers = indices.host;
                let mut content = Vec::with_capacity(numbers.len() * 4 * self.width);
                let mut record = vec![0; CHECKSUM + 4 * self.width];
                for &number in numbers {
                    file.read_exact_at(&mut record, self.offset(number))?;
                    if record[..CHECKSUM] != checksum(number, &record[CHECKSUM..]) {
                        self.damaged += u64::from(record.iter().any(|&byte| byte != 0));
                        return Ok(None);
                    }
                    content.extend_from_slice(&record[CHECKSUM..]);
                }
                let size = [numbers.len() as i64, self.width as i64];
                Ok(Some(Tensor::from_data_size(&content, &size, Kind::Float)))
            }
        }
    }

    /// Stores rows [B, width] (float32).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&mut self, indices: RowIndices<'_>, rows: &Tensor) -> io::Result<()> {
        match &mut self.storage {
            RowStorage::Memory(kept) => kept.put(indices, rows),
            RowStorage::Both { kept, unwritten, .. } => {
                kept.put(indices, rows);
                unwritten.extend_from_slice(indices.host);
            }
            RowStorage::File(file) => write(file, self.width, indices.host, rows)?,
        }
        Ok(())
    }

    /// Writes the rows that the file lacks. Waits for the device if there are any.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self) -> io::Result<()> {
        let RowStorage::Both { kept, file, unwritten } = &mut self.storage else { return Ok(()) };
        for numbers in std::mem::take(unwritten).chunks(AT_ONCE) {
            let indices: Vec<i64> = numbers.iter().map(|&number| number as i64).collect();
            let rows = kept.rows.index_select(0, &Tensor::from_slice(&indices).to_device(kept.rows.device()));
            write(file, self.width, numbers, &rows)?;
        }
        Ok(())
    }

    fn offset(&self, number: usize) -> u64 {
        Self::bytes(number as u64, self.width)
    }
}

fn write(file: &File, width: usize, numbers: &[usize], rows: &Tensor) -> io::Result<()> {
    let mut content = vec![0; numbers.len() * 4 * width];
    rows.to_device(Device::Cpu).contiguous().copy_data_u8(&mut content, numbers.len() * width);
    for (&number, row) in numbers.iter().zip(content.chunks_exact(4 * width)) {
        let record = [checksum(number, row).as_slice(), row].concat();
        file.write_all_at(&record, Rows::bytes(number as u64, width))?;
    }
    Ok(())
}

/// The checksum of a row and its index, so that one row does not pass for another.
fn checksum(number: usize, row: &[u8]) -> [u8; CHECKSUM] {
    // A row that was never written fails: the XXH3 of zeros is not zero.
    XxHash3_64::oneshot_with_seed(number as u64, row).to_le_bytes()
}
