//! Data sets.

mod binary;
mod images;
mod parquet;
mod reads;
