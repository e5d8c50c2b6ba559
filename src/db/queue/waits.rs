//! Says why jobs wait that no worker can run.

use std::time::Duration;

use sqlx::PgPool;

use crate::db::events;
use crate::db::interval;
use crate::db::workers::{ALIVE_FOR, BEING_CHECKED};

/// How long a job must have waited, and a worker have run: the workers of a cluster start one after the other.
const GRACE: Duration = Duration::from_secs(10);
/// Most jobs that are told of at once.
const MOST_JOBS: i64 = 100;

/// Appends a warning to the history of each job that could start now and that none of the workers can run. One that is still
/// checking its machine counts as one that can.
pub async fn explain_waits(pool: &PgPool) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    let stuck = sqlx::query!(
        r#"
        with alive as (select * from workers where heartbeat_at > now() - $1::interval)
        select job.id, job.dataset as "dataset!", job.devices, job.spec_version,
            (select max(alive.spec_version) from alive) as "newest!", (select max(alive.devices) from alive) as "most!",
            exists (select from alive where has_dataset(alive.datasets, job.dataset, null)) as "has_name!",
            exists (select from alive where has_dataset(alive.datasets, job.dataset, job.dataset_fingerprint))
                as "has_dataset!",
            (select min(alive.stopped_because) from alive where alive.stopped_because <> $4) as stopped_because
        from jobs as job left join jobs as teacher on teacher.id = job.teacher_job
        where job.status = 'queued' and job.run_after < now() - $2::interval
            and (job.teacher_job is null or teacher.status = 'succeeded')
            and exists (select from alive where alive.started_at < now() - $2::interval)
            and not exists (
                select from alive
                where coalesce(alive.stopped_because, $4) = $4 and alive.devices >= job.devices
                    and alive.spec_version >= job.spec_version
                    and has_dataset(alive.datasets, job.dataset, job.dataset_fingerprint))
        order by job.id limit $3
        "#,
        interval(ALIVE_FOR),
        interval(GRACE),
        MOST_JOBS,
        BEING_CHECKED,
    )
    .fetch_all(&mut *transaction)
    .await?;
    for job in stuck {
        let dataset = &job.dataset;
        let reason = if job.spec_version > job.newest {
            format!("no worker knows version {} of specifications: update the workers", job.spec_version)
        } else if job.devices > job.most {
            format!("no worker has {} devices: start one with so many, or lower training.devices", job.devices)
        } else if !job.has_name {
            format!("no worker has the data set {dataset:?}: put it into the --datasets-dir of one")
        } else if !job.has_dataset {
            format!(
                "no worker's copy of the data set {dataset:?} has the files that the server's had when the job was \
                 posted: make them the same, or cancel and retry the job to train on what the workers have"
            )
        } else if let Some(because) = job.stopped_because {
            format!("the workers that could run it take no jobs, because of a fault of their machine: {because}")
        } else {
            "no worker has both the devices and the data set that it needs".to_owned()
        };
        events::warn_once(&mut transaction, &job.id, &format!("the job waits: {reason}")).await?;
    }
    transaction.commit().await
}
