-- How busy a worker was follows from its attempts.
alter table attempts add column worker text;
update attempts set worker = jobs.worker from jobs
where jobs.id = attempts.job_id and jobs.attempt = attempts.attempt and attempts.ended_at is null;
create index attempts_worker on attempts (worker, ended_at);
-- The rows lie in the order of their beginning.
create index attempts_started on attempts using brin (started_at);
