//! The subcommands that this program runs itself, one file each, and the chores that `serve` does once an hour.

pub mod database;
pub mod export;
pub mod housekeeping;
pub mod measure;
pub mod prune;
pub mod serve;
pub mod token;
