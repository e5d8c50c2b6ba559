-- An attempt's number can be given twice, when a failover or a restored backup loses the claim that raised it. What tells
-- an attempt from every other is a random token, in the fence of its writes and in the keys of its files.
alter table jobs
    add column claim text,                -- of the attempt that holds or held the job; null before the first
    add column uncounted integer not null default 0;  -- failures since the last retry that do not count as attempts

-- A failure does not count against the most attempts where the job had got further than in all earlier attempts.
alter table attempts
    add column saved_step bigint,         -- the step of its last checkpoint
    add column counted boolean;           -- whether it counts against the most attempts; null while it runs

update attempts set saved_step = told.step
from (select job_id, attempt, max((data ->> 'step')::bigint) as step from events where kind = 'checkpoint' group by 1, 2)
    as told
where told.job_id = attempts.job_id and told.attempt = attempts.attempt;
update attempts set counted = outcome <> 'stopped' where ended_at is not null;
