//! New sweeps.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use crate::db::jobs::{NewJob, SweepMember, insert};
use crate::spec::TeacherSpec;
use crate::sweep::{Axis, Strategy};

/// A sweep to create.
#[derive(Debug)]
pub struct NewSweep<'a> {
    pub name: &'a str,
    /// The JSON document that was sent.
    pub submitted: &'a str,
    pub axes: &'a [Axis],
    pub seeds: u32,
    pub strategy: &'a Strategy,
    pub max_parallel: Option<u32>,
    /// What was left out, or may not be intended.
    pub warnings: &'a [String],
    /// Names of the webhooks that are told when the sweep has ended.
    pub webhooks: &'a [String],
    /// The idempotency key, and the SHA-256 of the bytes that were sent with it, in hexadecimal.
    pub idempotency: Option<(&'a str, &'a str)>,
    /// Number and settings of each combination.
    pub combinations: Vec<(i32, Value)>,
    /// The jobs in the order in which they are to run, each with the number of its combination.
    pub jobs: Vec<(i32, NewJob<'a>)>,
}

/// The outcome of a request for a new sweep.
#[derive(Debug, PartialEq, Eq)]
pub enum CreatedSweep {
    /// Its id. The jobs are queued.
    New(String),
    /// The key was used with the same bytes before: the id of that sweep.
    Replay(String),
    /// The key was used with other bytes before, for the sweep with this id.
    KeyTaken(String),
    /// A checkpoint, data set or teacher's job that a job names has been deleted meanwhile.
    NeedsGone,
}

/// Stores a sweep with all of its jobs, or nothing.
pub async fn create(pool: &PgPool, new: &NewSweep<'_>) -> sqlx::Result<CreatedSweep> {
    loop {
        let mut transaction = pool.begin().await?;
        match insert_all(&mut transaction, new).await {
            Ok(Some(id)) => {
                transaction.commit().await?;
                return Ok(CreatedSweep::New(id));
            }
            Ok(None) => {}
            Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
                return Ok(CreatedSweep::NeedsGone);
            }
            Err(error) => return Err(error),
        }
        drop(transaction);
        // The key's sweep was committed before the insertion gave up, so it is there, unless it was deleted since.
        let (key, sha256) = new.idempotency.expect("only a key can be taken");
        if let Some(created) = find_by_key(pool, key, sha256).await? {
            return Ok(created);
        }
    }
}

/// None if the idempotency key is taken.
async fn insert_all(connection: &mut PgConnection, new: &NewSweep<'_>) -> sqlx::Result<Option<String>> {
    let id = format!("swp_{}", ulid::Ulid::generate());
    let (rungs, keep): (Vec<i32>, f64) = match new.strategy {
        Strategy::Halving { rungs, keep } => (rungs.iter().map(|epochs| whole(*epochs)).collect(), *keep),
        Strategy::Grid | Strategy::Random { .. } => (Vec::new(), 1.0),
    };
    let inserted = sqlx::query!(
        "insert into sweeps (id, name, submitted, axes, seeds, strategy, max_parallel, rungs, keep, warnings,
            idempotency_key, request_sha256, webhooks)
         values ($1, $2, $3::text::json, $4::text::json, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         on conflict (idempotency_key) do nothing",
        id,
        new.name,
        new.submitted,
        json!(new.axes).to_string(),
        whole(new.seeds),
        json!(new.strategy),
        new.max_parallel.map(whole),
        &rungs,
        keep,
        new.warnings,
        new.idempotency.map(|(key, _)| key),
        new.idempotency.map(|(_, sha256)| sha256),
        new.webhooks,
    )
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    let numbers: Vec<i32> = new.combinations.iter().map(|(number, _)| *number).collect();
    let settings: Vec<String> = new.combinations.iter().map(|(_, settings)| settings.to_string()).collect();
    sqlx::query!(
        "insert into sweep_combinations (sweep_id, number, settings)
         select $1, number, settings::json from unnest($2::integer[], $3::text[]) as new (number, settings)",
        id,
        &numbers,
        &settings,
    )
    .execute(&mut *connection)
    .await?;
    lock_needs(connection, &new.jobs).await?;
    // After the last but one rung nothing is compared.
    let pause_after = rungs.split_last().and_then(|(_, before)| before.first().copied());
    for (combination, job) in &new.jobs {
        let member = SweepMember { sweep: &id, combination: *combination, pause_after };
        insert(connection, job, Some(&member)).await?;
    }
    Ok(Some(id))
}

/// Keeps teachers and data sets of new jobs from being deleted, in the order in which deletions lock them. The jobs
/// would lock them one by one, in the order of the axes.
async fn lock_needs(connection: &mut PgConnection, jobs: &[(i32, NewJob<'_>)]) -> sqlx::Result<()> {
    let teachers = jobs.iter().filter_map(|(_, job)| job.spec.teacher.as_ref().and_then(TeacherSpec::job));
    let teachers: BTreeSet<&str> = teachers.collect();
    let teachers: Vec<String> = teachers.into_iter().map(str::to_owned).collect();
    sqlx::query!("select id from jobs where id = any($1) order by id for key share", &teachers)
        .fetch_all(&mut *connection)
        .await?;
    let datasets: BTreeSet<&str> =
        jobs.iter().filter_map(|(_, job)| job.dataset).map(|dataset| dataset.id.as_str()).collect();
    let datasets: Vec<String> = datasets.into_iter().map(str::to_owned).collect();
    sqlx::query!("select id from datasets where id = any($1) order by id for key share", &datasets)
        .fetch_all(connection)
        .await?;
    Ok(())
}

fn whole(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What an idempotency key was used for; `None` if it is new.
pub async fn find_by_key(pool: &PgPool, key: &str, sha256: &str) -> sqlx::Result<Option<CreatedSweep>> {
    let query = sqlx::query!("select id, request_sha256 from sweeps where idempotency_key = $1", key);
    let Some(found) = query.fetch_optional(pool).await? else { return Ok(None) };
    let is_same = found.request_sha256.as_deref() == Some(sha256);
    Ok(Some(if is_same { CreatedSweep::Replay(found.id) } else { CreatedSweep::KeyTaken(found.id) }))
}
