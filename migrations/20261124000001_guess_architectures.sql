alter table checkpoints add column guess jsonb;   -- the likeliest architecture and how sure that is
