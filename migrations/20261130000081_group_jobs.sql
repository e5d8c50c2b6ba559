-- Succeeded jobs in groups: by the method, networks, data set, sweep, labels or any setting. Copies of a job (the same
-- seed, and a student of the same bytes) count once. Each run is compared with the first of the simpler methods that has
-- succeeded with the same recipe and, if the method has a teacher, the same teacher: as `src/db/jobs/baselines.rs` does it
-- for single jobs.
--
-- `kinds` and `paths` say what jobs are grouped by, `methods` and `simpler` which methods each is compared with, the best
-- comparison first. A path's names have the character 0x1f between them.
create function grouped_jobs(
    kinds text[], paths text[], with_labels jsonb, patterns text[], of_sweep text, methods text[], simpler text[])
returns table (
    key jsonb, top1 double precision, deviation double precision, n bigint, copies bigint, best double precision,
    gain double precision, baseline_deviation double precision, jobs text[])
language sql stable as $$
    with keys as materialized (
        select kind, string_to_array(path, E'\x1f') as path, place
        from unnest(kinds, paths) with ordinality as given (kind, path, place)),
    runs as materialized (
        select grouped.key, job.recipe, job.teacher_key, job.method, min(job.best_top1) as top1,
            count(*) - 1 as copies, min(job.id) as id
        from jobs as job, lateral (
            select jsonb_agg(case keys.kind
                when 'setting' then job.spec #> keys.path
                when 'label' then to_jsonb(job.labels ->> keys.path[1])
                when 'method' then to_jsonb(job.method)
                when 'teacher' then to_jsonb(coalesce(job.teacher_architecture, job.teacher_network))
                when 'student' then to_jsonb(coalesce(job.student_architecture, job.student_network))
                when 'dataset' then to_jsonb(job.dataset)
                when 'sweep' then to_jsonb(job.sweep_id) end order by keys.place) as key
            from keys) as grouped
        where job.status = 'succeeded' and job.best_top1 is not null
            and (with_labels = '{}' or job.labels @> with_labels) and (of_sweep is null or job.sweep_id = of_sweep)
            and (cardinality(patterns) = 0 or concat_ws(' ', job.id, job.name, job.method, job.teacher_architecture,
                job.teacher_network, job.student_architecture, job.student_network, job.dataset, job.labels::text)
                ilike all(patterns))
        group by grouped.key, job.recipe, job.teacher_key, job.method, job.spec #> '{training,seed}',
            coalesce(job.result #>> '{student,sha256}', job.id)),
    means as materialized (
        select once.recipe, once.teacher_key, once.method, avg(once.top1) as top1, stddev_samp(once.top1) as deviation
        from (
            select job.recipe, job.teacher_key, job.method, min(job.best_top1) as top1
            from jobs as job where job.status = 'succeeded' and job.best_top1 is not null
            group by job.recipe, job.teacher_key, job.method, job.spec #> '{training,seed}',
                coalesce(job.result #>> '{student,sha256}', job.id)) as once
        group by once.recipe, once.teacher_key, once.method),
    comparisons as (
        select given.method, given.other, given.priority
        from unnest(methods, simpler) with ordinality as given (method, other, priority)),
    compared as (
        select distinct on (run.id) run.*, means.top1 as base_top1, means.deviation as base_deviation
        from runs as run
            left join comparisons on comparisons.method = run.method
            left join means on means.method = comparisons.other and means.recipe = run.recipe
                and coalesce(means.teacher_key, '')
                    = case when comparisons.other = 'none' then '' else coalesce(run.teacher_key, '') end
        order by run.id, means.top1 is null, comparisons.priority)
    select compared.key, avg(compared.top1), stddev_samp(compared.top1), count(*), sum(compared.copies)::bigint,
        max(compared.top1), avg(compared.top1 - compared.base_top1), max(compared.base_deviation),
        (array_agg(compared.id order by compared.top1 desc, compared.id))[:12]
    from compared group by compared.key
$$;
