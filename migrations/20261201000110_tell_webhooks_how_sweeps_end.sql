-- Messages for webhooks when a sweep has ended, as for jobs: written in the transaction that ends it, whoever ends it.
alter table sweeps add column webhooks text[] not null default '{}';  -- names, whose addresses the servers know
-- webhook_messages.job_id has the id of the job or of the sweep that a message is about. Programs that know only jobs
-- send the messages of sweeps, too.

-- The accuracies of each combination over its seeds, in percent. Jobs with the same seed whose students have the same
-- bytes count once; so many more there are in copies.
create function pooled_accuracies(sweep text)
    returns table (combination integer, top1 double precision, deviation double precision, n bigint, copies bigint,
        best double precision)
    language sql stable as $$
    with runs as (
        select jobs.combination, min(jobs.best_top1) as top1, count(*) - 1 as copies
        from jobs where jobs.sweep_id = sweep and jobs.best_top1 is not null and jobs.status <> 'failed'
        group by jobs.combination, jobs.spec #> '{training,seed}',
            coalesce(jobs.result #>> '{student,sha256}', jobs.id))
    select runs.combination, avg(runs.top1), stddev_samp(runs.top1), count(*), sum(runs.copies)::bigint, max(runs.top1)
    from runs group by runs.combination
$$;

-- The best combination of a sweep, with the job that has its best student; null before the first evaluation. Settings
-- of many bytes, such as whole networks, are left out: not every receiver takes a large message.
create function best_combination(sweep text) returns json language sql stable as $$
    select json_build_object(
        'number', own.number,
        'settings', case when octet_length(own.settings::text) <= 8192 then own.settings end,
        'top1', pooled.top1, 'deviation', pooled.deviation, 'n', pooled.n, 'best', pooled.best,
        'job', (
            select jobs.id from jobs
            where jobs.sweep_id = sweep and jobs.combination = own.number and jobs.status = 'succeeded'
            order by jobs.best_top1 desc nulls last, jobs.id limit 1))
    from sweep_combinations as own join pooled_accuracies(sweep) as pooled on pooled.combination = own.number
    where own.sweep_id = sweep
    order by own.dropped_rung desc nulls first, pooled.top1 desc, own.number limit 1
$$;

create function tell_webhooks_of_sweeps() returns trigger language plpgsql as $$
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
    from unnest(new.webhooks) as webhook;
    perform pg_notify('distillery_webhook', '');
    return null;
end $$;
create trigger sweeps_webhooks after update of status on sweeps for each row
    when (new.status in ('finished', 'cancelled') and new.status is distinct from old.status and new.webhooks <> '{}')
    execute function tell_webhooks_of_sweeps();
