-- What is known of the splits of a data set whose shards are being uploaded, so that the upload of a shard need not
-- read those of all others. The rows of a data set are made of dataset_shards where none of them was changed for some
-- hours: shards may have gone since.
create table dataset_shard_splits (
    name text not null,                   -- of the data set
    split text not null,
    shards integer not null,              -- how many the split has
    here integer not null,                -- how many of them wait
    below integer not null,               -- all shards with lower numbers wait
    changed_at timestamptz not null,      -- when a shard of the split came last
    announced_at timestamptz not null,    -- when all shards of the data set were announced again, at the latest
    primary key (name, split)
);
