-- The queue and its history. PostgreSQL is the only coordinator: a worker holds a job by its attempt number and a
-- lease on this database's clock, and every write of a worker names the attempt.

create table checkpoints (
    id text primary key,                  -- ckpt_ and the first 32 hexadecimal digits of the SHA-256
    sha256 text not null unique,
    name text,
    size_bytes bigint not null,
    format text not null,                 -- safetensors, torch_zip, torch_legacy
    tensors bigint not null,
    parameters bigint not null,
    architecture text,                    -- as the uploader said
    num_classes integer,                  -- as the uploader said, or as the classifier's shape says
    fits jsonb not null,                  -- architectures whose keys and shapes it has
    created_at timestamptz not null default now()
);

create table jobs (
    id text primary key,                  -- job_ and a ULID: sorts by age
    name text not null,
    status text not null default 'queued' check (status in
        ('queued', 'running', 'pausing', 'paused', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    spec jsonb not null,
    priority integer not null default 0,
    labels jsonb not null default '{}',
    attempt integer not null default 0,   -- 0 until the first claim; the fence of every worker's write
    max_attempts integer not null,
    run_after timestamptz not null default now(),
    teacher_job text references jobs (id),
    idempotency_key text unique,
    request_sha256 text,                  -- of the body sent with the key
    progress jsonb,
    teacher jsonb,                        -- the teacher's evaluation, before there is a result
    result jsonb,
    error jsonb,
    worker text,
    lease_expires_at timestamptz,
    checkpoint jsonb,                     -- {attempt, epoch, step, key}: where the next attempt goes on
    published_attempt integer,            -- the attempt whose artifacts are the job's
    event_seq bigint not null default 0,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    check ((lease_expires_at is not null) = (status in ('running', 'pausing', 'cancelling')))
);
create index jobs_queue on jobs (priority desc, id) where status = 'queued';
create index jobs_lease on jobs (lease_expires_at) where lease_expires_at is not null;
create index jobs_teacher on jobs (teacher_job) where teacher_job is not null;
create index jobs_labels on jobs using gin (labels jsonb_path_ops);

create table job_checkpoints (            -- which checkpoints a job needs
    job_id text not null references jobs (id) on delete cascade,
    checkpoint_id text not null references checkpoints (id),
    primary key (job_id, checkpoint_id)
);
create index job_checkpoints_checkpoint on job_checkpoints (checkpoint_id);

create table events (
    job_id text not null references jobs (id) on delete cascade,
    seq bigint not null,                  -- gapless per job, from 1
    time timestamptz not null default now(),
    kind text not null,                   -- status, log, warning, checkpoint, teacher
    message text not null,
    data jsonb,
    attempt integer not null,
    primary key (job_id, seq)
);

create table metrics (
    id bigint generated always as identity,
    job_id text not null references jobs (id) on delete cascade,
    attempt integer not null,
    name text not null,
    step bigint not null,
    epoch double precision not null,
    time timestamptz not null,
    value double precision not null,
    primary key (job_id, id)
);
create index metrics_series on metrics (job_id, name, step);

create table artifacts (
    job_id text not null references jobs (id) on delete cascade,
    attempt integer not null,
    name text not null,
    key text not null,                    -- where storage has it
    size_bytes bigint not null,
    sha256 text not null,
    created_at timestamptz not null default now(),
    primary key (job_id, attempt, name)
);

create table workers (
    id text primary key,                  -- wrk_ and a ULID, new at every start
    name text not null,
    device text not null,
    memory_bytes bigint,
    version text not null,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now()
);

-- 'distillery_queue' wakes idle workers; 'distillery_job' carries the id of a job of which something changed, and
-- 'distillery_status' that of one whose status did, so that a worker is not woken by its own heartbeats.
create function notify_job() returns trigger language plpgsql as $$
begin
    if new.status = 'queued' and (tg_op = 'INSERT' or old.status <> 'queued') then
        perform pg_notify('distillery_queue', '');
    end if;
    -- A finished job may be the teacher that others wait for.
    if tg_op = 'UPDATE' and new.status <> old.status and new.status in ('succeeded', 'failed', 'cancelled') then
        perform pg_notify('distillery_queue', '');
    end if;
    if tg_op = 'UPDATE' and new.status <> old.status then
        perform pg_notify('distillery_status', new.id);
    end if;
    perform pg_notify('distillery_job', new.id);
    return null;
end $$;
create trigger jobs_notify after insert or update on jobs for each row execute function notify_job();

-- A batch of points is one statement of one job; identical notifications of a transaction are sent once.
create function notify_metrics() returns trigger language plpgsql as $$
begin
    perform pg_notify('distillery_job', job_id) from (select distinct job_id from added) as changed;
    return null;
end $$;
create trigger metrics_notify after insert on metrics
    referencing new table as added for each statement execute function notify_metrics();
