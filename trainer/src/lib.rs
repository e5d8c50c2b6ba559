//! Training on libtorch: takes a specification and writes files. Knows neither SQL nor HTTP.
//!
//! [`commands`] are the subcommands of `distillery-trainer`. [`launch`] starts a process per device, and [`run`]
//! trains: [`data`] loads batches, [`models`] turns them into feature maps, [`loss`] compares student and teacher,
//! [`cache`] keeps what later runs need, [`ranks`] averages gradients over devices, and [`device`] is the GPU or CPU.
//! [`worker_link`] reports events and receives stop requests. [`doctor`] says whether all that works on a machine.
//!
//! Dependencies go one way: no module imports another one in a circle (`tests/it/structure`).

#![allow(missing_docs, reason = "a field or function whose name says everything has no comment")]

pub mod cache;
pub mod commands;
pub mod data;
pub mod device;
pub mod doctor;
pub mod error;
pub mod launch;
pub mod local_spec;
pub mod loss;
pub mod models;
pub mod output_file;
pub mod preprocessing;
pub mod ranks;
pub mod run;
pub mod settings;
pub mod subject;
pub mod verify;
pub mod worker_link;
