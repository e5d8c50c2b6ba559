-- The last write of the attempt that holds or held the job. A worker that lost the answer to a commit sends the same write
-- again, and it counts once.
alter table jobs add column last_write text;
