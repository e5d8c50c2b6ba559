-- What the worker's machine and GPU had to do at its last heartbeat.
alter table workers add column usage jsonb;
-- What a lost worker did ends where it was last heard of, not where its lease ran out: `written_at` is the last write of the
-- attempt that holds the job, beside `lease_renewed_at`, its last heartbeat.
alter table jobs add column written_at timestamptz;
alter table attempts add column heard_at timestamptz;
-- The size of the states to resume from is asked for every few seconds.
create index jobs_checkpoint on jobs (id) where checkpoint is not null;
