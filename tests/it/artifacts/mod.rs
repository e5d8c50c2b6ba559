//! Stored files.

mod directory;
mod s3;
