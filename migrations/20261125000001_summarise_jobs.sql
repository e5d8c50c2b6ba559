-- A list of thousands of jobs is searched, sorted and compared by these columns: reading every specification for it would
-- take many times as long.
alter table jobs
    add column method text generated always as (spec #>> '{distillation,method}') stored,
    add column teacher_architecture text generated always as (spec #>> '{teacher,architecture}') stored,
    add column student_architecture text generated always as (spec #>> '{student,architecture}') stored,
    add column dataset text generated always as (spec #>> '{dataset,name}') stored,
    -- The same for jobs that differ in nothing but their method and its settings, their teacher, their seed, and what is
    -- for speed and safety: the accuracies of such jobs may be compared.
    add column recipe text generated always as (md5(
        (spec -> 'student')::text || (spec -> 'dataset')::text
        || ((spec -> 'training') - array['seed', 'checkpoint_every_epochs', 'teacher_cache'])::text)) stored,
    -- The same for jobs with the same teacher. Its architecture follows from the rest, and may be left out.
    add column teacher_key text generated always as (md5(((spec -> 'teacher') - 'architecture')::text)) stored,
    add column best_top1 double precision;  -- of the evaluations up to now, in percent

update jobs set best_top1 = coalesce((result ->> 'best_top1')::float8,
    (select max(value) from metrics where job_id = jobs.id and name = 'eval/top1'))
where attempt > 0;

create index jobs_recipe on jobs (recipe) where status = 'succeeded';
create index metrics_top1 on metrics (job_id, step) include (value) where name = 'eval/top1';
