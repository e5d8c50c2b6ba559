-- The ledger of attempts, of which Prometheus' counters are made: they are the same whichever server is asked, and
-- survive restarts.
create table attempts (
    job_id text not null,                 -- no reference: a counter must not fall when a job is deleted
    attempt integer not null,
    runnable_at timestamptz not null,     -- since when a worker could have taken it
    started_at timestamptz not null default now(),
    saved_at timestamptz,                 -- its last checkpoint
    ended_at timestamptz,
    outcome text check (outcome in
        ('succeeded', 'stopped', 'user', 'oom', 'numeric', 'worker_lost', 'storage', 'internal')),
    refused_writes bigint not null default 0,  -- made after it had lost its job
    primary key (job_id, attempt),
    check ((ended_at is null) = (outcome is null))
);
create index attempts_open on attempts (job_id) where ended_at is null;

alter table jobs add column lease_renewed_at timestamptz;

-- A server before this kept no ledger: what it left running is taken over as if it had just begun.
insert into attempts (job_id, attempt, runnable_at)
    select id, attempt, now() from jobs where lease_expires_at is not null;
update jobs set lease_renewed_at = now() where lease_expires_at is not null;
