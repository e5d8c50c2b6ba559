//! Hashes of a split's files.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use sha2::{Digest, Sha256};

use super::Dataset;

impl Dataset {
    /// SHA-256, in hexadecimal, of the paths, sizes and times of a split's files and the classes. It is unchanged as
    /// long as nobody writes to the files, which are not read.
    ///
    /// # Errors
    /// There is no such split, or a file is missing.
    pub fn stamp(&self, split: &str) -> io::Result<String> {
        let split = self.any_split(split).map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", self.classes));
        for path in self.layout.files(&split) {
            let path = std::path::absolute(path)?;
            let metadata = fs::metadata(&path)?;
            let (name, times) = (path.as_os_str().as_encoded_bytes(), [metadata.mtime(), metadata.mtime_nsec()]);
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update(metadata.len().to_le_bytes());
            hash.update(metadata.ino().to_le_bytes());
            times.iter().for_each(|time| hash.update(time.to_le_bytes()));
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// SHA-256, in hexadecimal, of the names and contents of a split's files. It does not depend on the data set's
    /// directory.
    ///
    /// # Errors
    /// There is no such split, or a file cannot be read.
    pub fn sha256(&self, split: &str) -> io::Result<String> {
        let split = self.any_split(split).map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        for path in self.layout.files(&split) {
            let name = path.strip_prefix(&self.path).unwrap_or(&path).as_os_str().as_encoded_bytes();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            let mut file = fs::File::open(&path)?;
            let mut length = 0_u64;
            loop {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hash.update(&buffer[..read]);
                length += read as u64;
            }
            // After the content, because the length is only known then: a file may change while it is read.
            hash.update(length.to_le_bytes());
        }
        Ok(hex::encode(hash.finalize()))
    }
}
