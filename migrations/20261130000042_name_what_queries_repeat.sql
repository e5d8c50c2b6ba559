-- Where storage has a checkpoint's file. Null stands for checkpoints/<sha256>, where it is from before each upload had a
-- file of its own.
create function checkpoint_key(key text, sha256 text) returns text language sql immutable as $$
    select coalesce(key, 'checkpoints/' || sha256)
$$;
