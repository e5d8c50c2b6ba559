-- Sets of jobs that differ in a few settings. A sweep is decided on here and nowhere else: the transaction in which the
-- last of its jobs reaches a rung, or ends, also says which of them go on.
create table sweeps (
    id text primary key,                  -- swp_ and a ULID: sorts by age
    name text not null,
    status text not null default 'running' check (status in ('running', 'paused', 'finished', 'cancelled')),
    submitted json not null,              -- what the user sent, as it was sent
    axes json not null,                   -- JSON pointers into the job, each with its values; json keeps their order
    seeds integer not null,
    strategy jsonb not null,
    max_parallel integer,                 -- most jobs that run at the same time; null for no limit
    rungs integer[] not null default '{}',  -- epochs after which jobs are compared; the last is the end of training
    keep double precision not null default 1,  -- part of the combinations that goes on after a rung
    rung integer not null default 0,      -- rungs that have been decided on
    warnings text[] not null default '{}',  -- what was left out or may not be intended
    idempotency_key text unique,
    request_sha256 text,                  -- of the body sent with the key
    created_at timestamptz not null default now(),
    finished_at timestamptz
);
create index sweeps_running on sweeps (id) where status = 'running';

create table sweep_combinations (
    sweep_id text not null references sweeps (id) on delete cascade,
    number integer not null,              -- from 1, in the order of the axes
    settings json not null,               -- a value for each axis
    dropped_rung integer,                 -- the rung after which its jobs were cancelled; null while it is in
    primary key (sweep_id, number)
);

-- What the decision on each rung was made from, and what it was.
create table sweep_rungs (
    sweep_id text not null references sweeps (id) on delete cascade,
    rung integer not null,                -- from 0
    combination integer not null,
    top1 double precision,                -- mean over the jobs that got there, in percent; null where none did
    deviation double precision,           -- of the sample; null for fewer than two jobs
    jobs integer not null,                -- jobs that got there
    kept boolean not null,
    primary key (sweep_id, rung, combination)
);

alter table jobs
    add column sweep_id text references sweeps (id),
    add column combination integer,       -- its number in the sweep
    add column pause_after integer;       -- epochs after which it waits for the others of its sweep
create index jobs_sweep on jobs (sweep_id, combination) where sweep_id is not null;
create index jobs_sweep_held on jobs (sweep_id) where sweep_id is not null and lease_expires_at is not null;

-- Whether a job has saved the state in which it is compared with the others of its sweep.
create function has_reached_rung(job jobs) returns boolean language sql immutable as $$
    select coalesce((job.checkpoint ->> 'epoch')::integer >= job.pause_after, false)
$$;

-- Whether as many jobs of a sweep run as may run at the same time.
create function is_full(sweep sweeps) returns boolean language sql stable as $$
    select sweep.max_parallel is not null and sweep.max_parallel <= (
        select count(*) from jobs where jobs.sweep_id = sweep.id and jobs.lease_expires_at is not null)
$$;

-- A job that stops leaves room for another of its sweep, also where it is paused.
create function wake_workers() returns trigger language plpgsql as $$
begin
    perform pg_notify('distillery_queue', '');
    return null;
end $$;
create trigger jobs_sweep_released after update of status on jobs for each row
    when (new.sweep_id is not null and old.lease_expires_at is not null and new.lease_expires_at is null)
    execute function wake_workers();
