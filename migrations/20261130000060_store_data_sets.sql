-- Data sets that were uploaded: a version for each content, which never changes. Their files are in storage, in one tar
-- for each version.
create table datasets (
    id text primary key,                  -- name@version: how a job names it
    name text not null,
    version text not null,                -- the first digits of sha256
    sha256 text not null,                 -- of the tar
    key text not null,                    -- of the tar, in storage
    size_bytes bigint not null,           -- of the tar
    unpacked_bytes bigint not null,       -- of the files in it
    fingerprint text not null,            -- as of a directory: names and sizes of the files
    summary jsonb not null,               -- what the reader found
    classes jsonb not null,
    statistics jsonb,                     -- what decoding the images told; null until that is done
    created_at timestamptz not null default now(),
    uploaded_at timestamptz not null default now()  -- when this content came last: the latest of a name is what it means
);
create index datasets_name on datasets (name, uploaded_at desc);

-- The uploaded data set of a job, which is not deleted while the job needs it, and the bytes of its files, which a
-- worker must have room for. Both are null for a directory; dataset_bytes stays when the data set of a finished job is
-- deleted.
alter table jobs
    add column dataset_id text references datasets (id) on delete set null,
    add column dataset_bytes bigint;
create index jobs_dataset_id on jobs (dataset_id) where dataset_id is not null;

-- How many bytes of uploaded data sets a worker keeps; null for one that fetches none.
alter table workers add column dataset_cache_bytes bigint;

-- Whether a worker has the data set that a job names, or can fetch it.
create function has_data(worker workers, name text, fingerprint text, bytes bigint) returns boolean
language sql immutable as $$
    select case when bytes is null then has_dataset(worker.datasets, name, fingerprint)
        else coalesce(worker.dataset_cache_bytes >= bytes, false) end
$$;

create or replace function can_run(worker workers, job jobs) returns boolean language sql stable as $$
    select worker.spec_version >= job.spec_version and worker.devices >= job.devices
        and has_data(worker, job.dataset, job.dataset_fingerprint, job.dataset_bytes)
$$;

-- As before, for a job that may have an uploaded data set: `job_bytes` are those of its files. Of such a job, `with_name`
-- counts the workers that fetch data sets.
create function workers_for(
    job text, job_devices integer, job_version integer, job_dataset text, job_fingerprint text, job_bytes bigint,
    alive_for interval, tolerated text,
    out running bigint, out working bigint, out stopped_because text, out knowing bigint, out most_devices integer,
    out with_devices bigint, out with_name bigint, out with_dataset bigint, out willing bigint,
    out stopped_able_because text, out able_devices text[])
language sql stable as $$
    select count(*), count(*) filter (where works), min(one.reason) filter (where not works),
        count(*) filter (where works and knows), coalesce(max(one.devices) filter (where works and knows), 0),
        count(*) filter (where works and knows and is_large),
        count(*) filter (where works and knows and is_large and has_name),
        count(*) filter (where works and knows and is_large and has_data),
        count(*) filter (where works and knows and is_large and has_data and is_willing),
        min(one.reason) filter (where not works and knows and is_large and has_data),
        coalesce(array_agg(distinct one.device) filter (where works and knows and is_large and has_data), '{}')
    from (
        select workers.device, workers.devices, workers.stopped_because as reason,
            coalesce(workers.stopped_because, tolerated) = tolerated as works,
            workers.spec_version >= job_version as knows, workers.devices >= job_devices as is_large,
            has_data(workers, job_dataset, null, job_bytes * 0) as has_name,
            has_data(workers, job_dataset, job_fingerprint, job_bytes) as has_data,
            not exists (
                select from declined
                where declined.job_id = job and declined.worker = workers.id and declined.for_good) as is_willing
        from workers where workers.heartbeat_at > now() - alive_for) as one
$$;

-- For programs of earlier versions that run beside this one.
create or replace function workers_for(
    job text, job_devices integer, job_version integer, job_dataset text, job_fingerprint text,
    alive_for interval, tolerated text,
    out running bigint, out working bigint, out stopped_because text, out knowing bigint, out most_devices integer,
    out with_devices bigint, out with_name bigint, out with_dataset bigint, out willing bigint,
    out stopped_able_because text, out able_devices text[])
language sql stable as $$
    select * from workers_for(
        job, job_devices, job_version, job_dataset, job_fingerprint, null::bigint, alive_for, tolerated)
$$;
