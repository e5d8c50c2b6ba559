//! The resources of the API, in files and folders that are named like their URLs.

pub mod architectures;
pub mod changes;
pub mod checkpoints;
pub mod datasets;
pub mod groups;
pub mod jobs;
pub mod labels;
pub mod pareto;
pub mod session;
pub mod settings;
pub mod stream;
pub mod summaries;
pub mod sweeps;
pub mod system;
pub mod webhooks;
pub mod workers;
