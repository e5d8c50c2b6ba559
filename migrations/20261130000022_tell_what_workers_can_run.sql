-- A worker says what it has, and gets only jobs that it can run. `datasets` has the name of each data set and a
-- fingerprint of the names and sizes of its files; null is a worker that does not say. A worker whose machine is at
-- fault takes no jobs, and says why.
alter table workers
    add column datasets jsonb,
    add column stopped_because text,
    add column spec_version integer not null default 1;  -- the newest format of a specification that it knows

-- The fingerprint of the data set when the job was posted; null where any of that name will do.
alter table jobs add column dataset_fingerprint text;

alter table attempts drop constraint attempts_outcome_check;
alter table attempts add constraint attempts_outcome_check check (outcome in
    ('succeeded', 'stopped', 'user', 'oom', 'numeric', 'worker_lost', 'storage', 'machine', 'internal'));

-- Whether a worker with these data sets has the one that a job names.
create function has_dataset(datasets jsonb, name text, fingerprint text) returns boolean language sql immutable as $$
    select datasets is null or name is null
        or (datasets ? name and (fingerprint is null or datasets ->> name is not distinct from fingerprint))
$$;
