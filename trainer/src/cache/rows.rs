//! Rows of numbers of which each is computed once: in memory, in a file that several processes fill together, or in both.
//!
//! ```text
//! magic and key, zeros up to 4096 bytes, then per row: XXH3 of its number and content (8 bytes), content (float32)
//! ```
//!
//! All that write a row write the same bytes, so they need not agree on who does. A row that was never written is zero;
//! one that is torn or damaged does not have its checksum and is as good as missing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use twox_hash::XxHash3_64;

use super::{Cache, remove};

const MAGIC: &[u8] = b"distillery rows 1\n";
const HEAD: usize = 4096;
const CHECKSUM: usize = 8;

/// The numbers of some rows.
#[derive(Debug, Clone, Copy)]
pub struct Numbers<'a> {
    /// On the host.
    pub numbers: &'a [usize],
    /// The same `[B]` (int64), on the device where rows are kept in memory.
    pub indices: &'a Tensor,
}

/// `count` rows of `width` numbers.
#[derive(Debug)]
pub struct Rows {
    width: usize,
    place: Place,
    /// Rows that were found damaged.
    damaged: u64,
}

#[derive(Debug)]
enum Place {
    Memory(Kept),
    File(File),
    /// What is read and written in memory, and which of it the file lacks.
    Both {
        kept: Kept,
        file: File,
        unwritten: Vec<usize>,
    },
}

/// Rows [count, width] in memory, and which of them are there.
#[derive(Debug)]
struct Kept {
    rows: Tensor,
    known: Vec<bool>,
}

impl Kept {
    fn get(&self, Numbers { numbers, indices }: Numbers<'_>) -> Option<Tensor> {
        numbers.iter().all(|&number| self.known[number]).then(|| self.rows.index_select(0, indices))
    }

    fn put(&mut self, Numbers { numbers, indices }: Numbers<'_>, rows: &Tensor) {
        let _ = self.rows.index_copy_(0, indices, rows);
        numbers.iter().for_each(|&number| self.known[number] = true);
    }
}

/// Records of a file that are read or written at once.
const AT_ONCE: usize = 1024;

impl Rows {
    /// Bytes that `count` rows of `width` numbers take in a file.
    #[must_use]
    pub fn bytes(count: u64, width: usize) -> u64 {
        HEAD as u64 + count * (CHECKSUM + 4 * width) as u64
    }

    /// None yet, on that device.
    ///
    /// # Errors
    /// They do not fit into its memory.
    pub fn in_memory(count: usize, width: usize, device: Device) -> Result<Self, tch::TchError> {
        let rows = Tensor::f_empty([count as i64, width as i64], (Kind::Float, device))?;
        Ok(Self { width, place: Place::Memory(Kept { rows, known: vec![false; count] }), damaged: 0 })
    }

    /// Those of a file, which is made where it is missing. A file that is not what its name says is replaced, which the
    /// second value tells.
    ///
    /// # Errors
    /// The file cannot be opened or made.
    pub fn in_file(cache: &Cache, path: &Path, key: &str, count: u64, width: usize) -> io::Result<(Self, bool)> {
        let mut head = [MAGIC, key.as_bytes()].concat();
        if head.len() > HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the key is too long"));
        }
        head.resize(HEAD, 0);
        let length = Self::bytes(count, width);
        let rows = |file| Self { width, place: Place::File(file), damaged: 0 };
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

    /// Rows that were found damaged so far.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// The same rows with a copy of the file's on a device, so that to take some of them waits for neither: they are read
    /// now, and what is put there goes to the file with [`write`](Self::write).
    ///
    /// # Errors
    /// The file cannot be read, or the device's memory is full.
    pub fn on_device(mut self, count: usize, device: Device) -> crate::error::Result<Self> {
        let Place::File(file) = self.place else { return Ok(self) };
        let failed = |error: io::Error| crate::error::Error::internal(error.to_string());
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
        self.place = Place::Both { kept: Kept { rows, known }, file, unwritten: Vec::new() };
        Ok(self)
    }

    /// The rows of those numbers: [B, width] on the CPU or where they are kept. None where one is missing.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&mut self, numbers: Numbers<'_>) -> io::Result<Option<Tensor>> {
        match &self.place {
            Place::Memory(kept) | Place::Both { kept, .. } => Ok(kept.get(numbers)),
            Place::File(file) => {
                let numbers = numbers.numbers;
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

    /// Keeps rows [B, width] (float32) of those numbers.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&mut self, numbers: Numbers<'_>, rows: &Tensor) -> io::Result<()> {
        match &mut self.place {
            Place::Memory(kept) => kept.put(numbers, rows),
            Place::Both { kept, unwritten, .. } => {
                kept.put(numbers, rows);
                unwritten.extend_from_slice(numbers.numbers);
            }
            Place::File(file) => write(file, self.width, numbers.numbers, rows)?,
        }
        Ok(())
    }

    /// Brings to the file what it lacks; waits for the device where there is any.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self) -> io::Result<()> {
        let Place::Both { kept, file, unwritten } = &mut self.place else { return Ok(()) };
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

/// Of a row's content and number, so that one row does not pass for another.
fn checksum(number: usize, row: &[u8]) -> [u8; CHECKSUM] {
    // Zeros at number 0 have another checksum than zero: XXH3 of nothing but zeros is not zero.
    XxHash3_64::oneshot_with_seed(number as u64, row).to_le_bytes()
}
