-- How long students take on the CPU of the server that measured them, by the server: workers may have other CPUs, whose
-- latencies cannot be compared. A job has a row once its student was tried.
create table student_latencies (
    job_id text primary key references jobs (id) on delete cascade,
    measured_at timestamptz not null default now(),
    latency jsonb,  -- with the CPU, the runtime, and medians in milliseconds by the number of images at a time
    failure text,   -- why the student cannot be measured
    check ((latency is null) <> (failure is null))
);
