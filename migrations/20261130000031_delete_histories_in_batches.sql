-- A job may have millions of points, and to delete them together with its row takes longer than a statement may. The row
-- goes first, so that the job is gone for everybody, and leaves a row here. Events and points follow in small
-- transactions, and this row goes last, so that nothing is forgotten in a crash.
create table deleted_jobs (
    id text primary key,                  -- of a job whose events and points are left to delete
    due_at timestamptz not null           -- when any server may begin with it, or begin again
);
create index deleted_jobs_due on deleted_jobs (due_at);

alter table events drop constraint events_job_id_fkey;
alter table metrics drop constraint metrics_job_id_fkey;

-- A trigger, so that a job that a program of an earlier version deletes leaves nothing behind either.
create function note_deleted_job() returns trigger language plpgsql as $$
begin
    insert into deleted_jobs (id, due_at) values (old.id, now() + interval '1 minute') on conflict do nothing;
    return null;
end $$;
create trigger jobs_deleted after delete on jobs for each row execute function note_deleted_job();
