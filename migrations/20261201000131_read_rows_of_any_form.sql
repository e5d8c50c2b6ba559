-- More that a newer program, another one or a person may write, and that must keep no other row from being read or
-- changed.

-- As before, and null for a document that is nested more deeply than programs read JSON.
create or replace function readable(value jsonb) returns jsonb language sql immutable parallel safe as $$
    select case
        when jsonb_path_exists(value, '$.**{127}') then 'null'
        when jsonb_path_exists(value, '$.** ? (@ > 1e300 || @ < -1e300)') then 'null'
        else value end
$$;

-- A list without nulls, in one dimension: programs read no others.
create function plain_list(elements anyarray) returns anyarray language sql immutable parallel safe as $$
    select case when array_ndims(elements) > 1
        then array(select element from unnest(elements) as element where element is not null)
        else array_remove(elements, null) end
$$;

-- A time that every program can read. Infinity is how a person holds a row for ever, and stands for the end of 9999.
create function calendar_time(instant timestamptz) returns timestamptz language sql immutable parallel safe as $$
    select case
        when instant > timestamptz '9999-12-31 23:59:59+00' then timestamptz '9999-12-31 23:59:59+00'
        when instant < timestamptz '0001-01-01 00:00:00+00' then timestamptz '0001-01-01 00:00:00+00'
        else instant end
$$;

-- The columns that follow from a specification, so that one of another form can be stored, and waits for a program that
-- knows it. What is no number of devices counts as one, and more than an integer holds as the most that it holds.
alter table jobs
    drop column devices,
    drop column recipe,
    drop column teacher_key,
    add column devices integer not null generated always as (
        least(greatest(coalesce(whole_number(spec #> '{training,devices}'), 1), 0), 2147483647)::integer) stored,
    add column recipe text generated always as (md5(
        (spec -> 'student')::text || (spec -> 'dataset')::text
        || case when jsonb_typeof(spec -> 'training') = 'object'
            then (spec -> 'training') - array['seed', 'checkpoint_every_epochs', 'teacher_cache']
            else spec -> 'training' end::text)) stored,
    add column teacher_key text generated always as (md5(
        case when jsonb_typeof(spec -> 'teacher') = 'object' then (spec -> 'teacher') - 'architecture'
            else spec -> 'teacher' end::text)) stored;
create index jobs_recipe on jobs (recipe) where status = 'succeeded';

-- A list of webhooks with a null must not keep a job or a sweep from ending.
create or replace function tell_webhooks() returns trigger language plpgsql as $$
begin
    insert into webhook_messages (id, job_id, webhook, type, body)
    select 'msg_' || replace(gen_random_uuid()::text, '-', ''), new.id, webhook, 'job.' || new.status,
        json_build_object(
            'type', 'job.' || new.status,
            'timestamp', to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'data', json_build_object(
                'id', new.id, 'name', new.name, 'status', new.status, 'labels', new.labels, 'attempt', new.attempt,
                'result', new.result, 'error', new.error))::text
    from unnest(new.webhooks) as webhook where webhook is not null;
    perform pg_notify('distillery_webhook', '');
    return null;
end $$;

create or replace function tell_webhooks_of_sweeps() returns trigger language plpgsql as $$
declare
    told text := json_build_object(
        'type', 'sweep.' || new.status,
        'timestamp', to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'data', json_build_object(
            'id', new.id, 'name', new.name, 'status', new.status,
            'jobs', (
                select coalesce(json_object_agg(counted.status, counted.jobs), '{}') from (
                    select jobs.status, count(*) as jobs from jobs where jobs.sweep_id = new.id group by jobs.status
                ) as counted),
            'best', best_combination(new.id)))::text;
begin
    insert into webhook_messages (id, job_id, webhook, type, body)
    select 'msg_' || replace(gen_random_uuid()::text, '-', ''), new.id, webhook, 'sweep.' || new.status, told
    from unnest(new.webhooks) as webhook where webhook is not null;
    perform pg_notify('distillery_webhook', '');
    return null;
end $$;
