-- Whether a job has saved the state in which it is compared with the others of its sweep. A newer program may store a
-- checkpoint of another form. Such a job counts as not there yet, and its row can be read and changed all the same.
create or replace function has_reached_rung(job jobs) returns boolean language sql immutable as $$
    select coalesce(
        case when jsonb_typeof(job.checkpoint -> 'epoch') = 'number'
            -- numeric, because a number of JSON may be too large for an integer.
            then (job.checkpoint ->> 'epoch')::numeric >= job.pause_after end,
        false)
$$;
