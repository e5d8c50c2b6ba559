//! Data sets.

mod binary;
mod forms;
mod images;
mod labels;
mod layouts;
mod parquet;
mod reads;
mod selection;
mod statistics;
pub mod support;
mod tables;
mod unlabelled;
mod webdataset;
