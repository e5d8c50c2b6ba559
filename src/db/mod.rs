//! PostgreSQL: all that this crate stores in it, and all SQL.
//!
//! A function that reads or writes the database is here, in the file or directory of the table that it is about. What
//! needs several tables has a place of its own: `queue` is what a worker does to the jobs that it holds, `compaction`
//! and `retention` are for housekeeping, and `counters` and `system` are for whoever watches a cluster. Nothing here
//! knows of HTTP or of trainer processes.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`open`], [`embedded`] | connections and the schema; the server that this program runs itself |
//! | [`listen`] | notifications from PostgreSQL |
//! | [`errors`] | which errors are transient |
//! | [`jobs`], [`events`], [`attempts`], [`metrics`], [`artifacts`], [`latencies`] | tables of jobs |
//! | [`workers`], `declined`, [`checkpoints`], [`tokens`] | tables of what jobs run on and need, and of who asks |
//! | [`datasets`], [`dataset_shards`], [`dataset_pieces`] | tables of uploaded data sets and of unfinished uploads |
//! | [`file_deletions`], [`deleted_jobs`], [`storage`] | tables of stored files and of what is left to delete |
//! | [`upload_space`] | what all uploads take |
//! | [`webhooks`] | table of what webhooks are told |
//! | [`sweeps`] | tables of sweeps, and what follows in them |
//! | [`queue`] | claims, fenced writes, ends of attempts, rescues |
//!
//! A condition that several queries share is an SQL function: `can_run` and `workers_for` say which workers can take a
//! job, `has_data` whether one has its data set or can fetch it, `checkpoint_key` where a checkpoint's file is,
//! `is_full` whether a sweep may run no more jobs now, `has_reached_rung` whether a job waits to be compared, and
//! `pooled_accuracies` how accurate the combinations of a sweep are.
//!
//! Transactions that lock several rows do so in one order, so that no two wait for each other for ever: a row before
//! those that it refers to, because the second change of a row in a transaction makes PostgreSQL lock these as well. So
//! students come before their teacher, and jobs before their sweep and their data set. Of one table: by id. A row that
//! others refer to is locked `for no key update`, which keeps nobody from referring to it, unless it is to be deleted.
//! Housekeeping takes rows in the order in which it finds them, and skips those that are locked.
//!
//! Another program, another version of this one or a person may have written a row. What may have any form is read with
//! SQL functions, so that one such row keeps no other from being read: documents with `readable`, numbers in them with
//! `finite_number` and `whole_number`, lists with `plain_list`, and times that people set with `calendar_time`. A
//! column of type `json`, which keeps texts that `jsonb` refuses, is read as a `ForeignJson`.
//!
//! A function that looks for one thing returns `None` if there is no such thing.

pub mod artifacts;
pub mod attempts;
pub mod checkpoints;
pub mod compaction;
pub mod counters;
pub mod dataset_pieces;
pub mod dataset_shards;
pub mod datasets;
mod declined;
pub mod deleted_jobs;
mod downsample;
pub mod embedded;
pub mod errors;
pub mod events;
pub mod file_deletions;
pub mod finished_uploads;
mod foreign_json;
pub mod jobs;
pub mod latencies;
pub mod listen;
pub mod metrics;
pub mod open;
pub mod queue;
pub mod retention;
pub mod storage;
pub mod sweeps;
pub mod system;
mod text_status;
pub mod tokens;
pub mod upload_space;
pub mod webhooks;
pub mod workers;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;

use crate::text::shortened;

pub use open::{
    CONNECTIONS_OF_A_PROCESS, Database, DatabaseLocation, MIGRATIONS, connect, connect_at_most, locate, migrate,
    open_when_there,
};

/// Fails unless the database answers.
pub async fn ping(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query!("select 1 as one").fetch_one(pool).await?;
    Ok(())
}

/// Longest message of an event, in bytes. A trainer may write a mebibyte in a line, and whoever follows a job
/// holds a thousand events, as does the server that sends them.
pub const LONGEST_MESSAGE: usize = 8 << 10;

/// The text as PostgreSQL can store it: any character but NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A document whose texts PostgreSQL can store.
fn storable_json(document: Value) -> Value {
    match document {
        Value::String(text) => Value::String(storable(&text)),
        Value::Array(elements) => elements.into_iter().map(storable_json).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (storable(&name), storable_json(value))).collect()
        }
        other => other,
    }
}

/// What is described, as a document whose texts PostgreSQL can store.
fn storable_description(described: &impl Serialize) -> Value {
    storable_json(serde_json::to_value(described).expect("descriptions can be written as JSON"))
}

/// A message as it is stored: cut if it is longer than [`LONGEST_MESSAGE`], and then says so.
fn message(text: &str) -> String {
    shortened(&storable(text), LONGEST_MESSAGE).into_owned()
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}
