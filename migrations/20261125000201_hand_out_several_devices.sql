-- A job may ask for several devices of one worker, and a worker have several: it runs as many jobs as its devices allow.
alter table jobs add column devices integer not null
    generated always as (coalesce((spec -> 'training' ->> 'devices')::integer, 1)) stored;
alter table workers
    add column devices integer not null default 1,
    add column waits_for text;            -- the job that it keeps free devices for until there are enough
