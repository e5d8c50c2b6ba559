-- Where storage has a checkpoint's file. Null stands for checkpoints/<sha256>, from before each upload had a file of its
-- own.
create function checkpoint_key(key text, sha256 text) returns text language sql immutable as $$
    select coalesce(key, 'checkpoints/' || sha256)
$$;

-- Whether a worker can run a job: it knows the version of the specification, and has the devices and the data set.
create function can_run(worker workers, job jobs) returns boolean language sql stable as $$
    select worker.spec_version >= job.spec_version and worker.devices >= job.devices
        and has_dataset(worker.datasets, job.dataset, job.dataset_fingerprint)
$$;

-- The workers that were heard of within `alive_for`, as a job finds them. A worker that takes no jobs for the reason
-- `tolerated` counts as one that does. Each number counts the workers that meet one condition more than those before it:
-- they run, take jobs, know the version, have the devices, have the data set (of that name; with that fingerprint), and
-- have not declined the job.
create function workers_for(
    job text, job_devices integer, job_version integer, job_dataset text, job_fingerprint text,
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
            has_dataset(workers.datasets, job_dataset, null) as has_name,
            has_dataset(workers.datasets, job_dataset, job_fingerprint) as has_data,
            not exists (
                select from declined
                where declined.job_id = job and declined.worker = workers.id and declined.for_good) as is_willing
        from workers where workers.heartbeat_at > now() - alive_for) as one
$$;
