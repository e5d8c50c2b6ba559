//! An estimate of when queued jobs start: the workers that run now, and how long jobs take.

use std::collections::HashMap;

use sqlx::PgPool;

use crate::db::interval;
use crate::db::workers::ALIVE_FOR;

/// The workers that take jobs now, with what their devices are busy with.
#[derive(Debug)]
pub(super) struct Fleet(Vec<Crew>);

#[derive(Debug)]
struct Crew {
    /// The worker's id.
    worker: String,
    devices: usize,
    held: Vec<RunningJob>,
}

/// A job that a worker holds.
#[derive(Debug, Clone)]
struct RunningJob {
    devices: usize,
    /// Seconds that are left of it; none before its first step.
    left: Option<f64>,
    recipe: Option<String>,
    method: Option<String>,
}

impl Fleet {
    pub(super) async fn read(pool: &PgPool) -> sqlx::Result<Self> {
        let rows = sqlx::query!(
            r#"
            select workers.id as "id!", workers.devices as "devices!", job.devices as "held?", job.recipe, job.method,
                finite_number(job.progress -> 'eta_seconds') as seconds_left
            from workers left join jobs as job on job.worker = workers.id and job.lease_expires_at is not null
            where heartbeat_at > now() - $1::interval and stopped_because is null
            "#,
            interval(ALIVE_FOR),
        )
        .fetch_all(pool)
        .await?;
        let mut crews: HashMap<String, Crew> = HashMap::new();
        for row in rows {
            let (worker, devices) = (row.id.clone(), count(row.devices));
            let crew = crews.entry(row.id).or_insert_with(|| Crew { worker, devices, held: Vec::new() });
            if let Some(devices) = row.held {
                let (left, recipe, method) = (row.seconds_left, row.recipe, row.method);
                crew.held.push(RunningJob { devices: count(devices), left, recipe, method });
            }
        }
        Ok(Self(crews.into_values().collect()))
    }

    /// When the devices become free.
    pub(super) fn schedule(&self, lengths: &Lengths) -> Schedule {
        let crews = self.0.iter().map(|crew| {
            let mut free_at = vec![0.0; crew.devices];
            let busy = crew.held.iter().flat_map(|held| {
                let left = held.left.unwrap_or_else(|| lengths.of(held.recipe.as_deref(), held.method.as_deref()));
                std::iter::repeat_n(left, held.devices)
            });
            free_at.iter_mut().zip(busy).for_each(|(device, left)| *device = left);
            free_at.sort_by(f64::total_cmp);
            (crew.worker.clone(), free_at)
        });
        Schedule(crews.collect())
    }
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// For each worker, by its id, the seconds until each of its devices is free, in ascending order.
#[derive(Debug)]
pub(super) struct Schedule(Vec<(String, Vec<f64>)>);

impl Schedule {
    /// Seconds until the next job of the queue starts on one of the workers that can run it, whose devices it then
    /// keeps for `length` seconds; infinite where that is not known.
    pub(super) fn start(&mut self, able: &[String], devices: i32, length: f64) -> f64 {
        let needed = count(devices).max(1);
        let is_fitting = |(worker, free_at): &&mut (String, Vec<f64>)| able.contains(worker) && free_at.len() >= needed;
        let fitting = self.0.iter_mut().filter(is_fitting).map(|(_, free_at)| free_at);
        let Some(crew) = fitting.min_by(|one, other| one[needed - 1].total_cmp(&other[needed - 1])) else {
            return f64::INFINITY;
        };
        let start = crew[needed - 1];
        crew[..needed].fill(start + length);
        crew.sort_by(f64::total_cmp);
        start
    }
}

/// How long jobs take, from those that ran from start to end within 30 days.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    by_setting: HashMap<(String, String), f64>,
    median: Option<f64>,
}

impl Lengths {
    pub(super) async fn read(pool: &PgPool) -> sqlx::Result<Self> {
        let rows = sqlx::query!(
            r#"
            with lengths as (
                select jobs.recipe, jobs.method, extract(epoch from attempts.ended_at - attempts.started_at)::float8 as length
                from attempts join jobs on jobs.id = attempts.job_id
                where attempts.outcome = 'succeeded' and coalesce(attempts.resumed_step, 0) = 0
                    and attempts.ended_at > now() - interval '30 days')
            select recipe, method, percentile_cont(0.5) within group (order by length) as "median!",
                grouping(recipe) = 1 as "is_total!"
            from lengths group by grouping sets ((recipe, method), ()) having count(*) > 0
            "#
        )
        .fetch_all(pool)
        .await?;
        let mut lengths = Self::default();
        for row in rows {
            match (row.is_total, row.recipe, row.method) {
                (true, ..) => lengths.median = Some(row.median),
                (false, Some(recipe), Some(method)) => drop(lengths.by_setting.insert((recipe, method), row.median)),
                _ => {}
            }
        }
        Ok(lengths)
    }

    /// Seconds that a job takes: the median of jobs with the same training and method, or else of all; infinite where
    /// nothing has run yet.
    pub(super) fn of(&self, recipe: Option<&str>, method: Option<&str>) -> f64 {
        let known = recipe
            .zip(method)
            .and_then(|(recipe, method)| self.by_setting.get(&(recipe.to_owned(), method.to_owned())));
        known.copied().or(self.median).unwrap_or(f64::INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn jobs_start_in_turn_on_the_devices_that_become_free_first() {
        let both = workers(&["small", "large"]);
        let mut schedule = Schedule(vec![("small".into(), vec![0.0]), ("large".into(), vec![10.0, 40.0])]);
        assert_eq!(schedule.start(&both, 1, 100.0), 0.0);
        assert_eq!(schedule.start(&both, 1, 5.0), 10.0);
        assert_eq!(schedule.start(&both, 2, 60.0), 40.0);
        assert_eq!(schedule.start(&both, 1, 1.0), 100.0);
        assert_eq!(schedule.start(&both, 3, 1.0), f64::INFINITY);
    }

    #[test]
    fn a_job_starts_only_on_workers_that_can_run_it() {
        let mut schedule = Schedule(vec![("old".into(), vec![0.0]), ("new".into(), vec![30.0])]);
        assert_eq!(schedule.start(&workers(&["new"]), 1, 5.0), 30.0);
        assert_eq!(schedule.start(&workers(&["new", "old"]), 1, 5.0), 0.0);
        assert_eq!(schedule.start(&workers(&["gone"]), 1, 5.0), f64::INFINITY);
    }

    #[test]
    fn without_a_known_length_nothing_behind_it_is_estimated() {
        let (one, mut schedule) = (workers(&["one"]), Schedule(vec![("one".into(), vec![0.0])]));
        assert_eq!(schedule.start(&one, 1, Lengths::default().of(None, None)), 0.0);
        assert_eq!(schedule.start(&one, 1, 1.0), f64::INFINITY);
    }
}
