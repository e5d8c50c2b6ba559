-- Programs of several versions may run side by side. A specification has the version of its format, and a worker claims
-- only those that it knows.
alter table jobs add column spec_version integer not null default 1;

-- Jobs that a worker is not to get, though others may.
create table declined (
    job_id text not null references jobs (id) on delete cascade,
    worker text not null,                 -- its id, new at every start
    for_good boolean not null,            -- else only as long as another worker could take the job
    primary key (job_id, worker)
);
