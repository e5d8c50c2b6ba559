-- Shards of data sets that were uploaded one by one, until all of a split are there and become a version. Their files
-- are announced in file_deletions, and so go after a day; a row whose file is no longer announced there counts as gone.
create table dataset_shards (
    name text not null,                   -- of the data set
    split text not null,
    shard integer not null,               -- from 0
    shards integer not null,              -- how many the split has
    key text not null,                    -- in storage
    sha256 text not null,
    size_bytes bigint not null,
    primary key (name, split, shard)
);
