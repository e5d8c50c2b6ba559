-- An id is made of the SHA-256. With a unique index on each, PostgreSQL lets one decide what `on conflict (id)` means and
-- fails on the other when two insert the same at once.
alter table checkpoints drop constraint checkpoints_sha256_key;
