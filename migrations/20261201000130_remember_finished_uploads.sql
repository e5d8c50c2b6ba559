-- What uploads of data sets became, for a day: a client whose last answer was lost sends the last part again, and is told.
create table finished_uploads (
    name text not null,                   -- of the data set
    upload text not null,                 -- as its client calls it; of a shard that came whole: a slash and its place
    split text,                           -- of a shard
    place text not null,                  -- which shard it is; empty for the whole data set
    start_at bigint not null,             -- of the last part
    size_bytes bigint not null,           -- of the last part
    total_bytes bigint not null,          -- of the whole upload
    sha256 text not null,                 -- of the last part
    dataset_id text not null,             -- the version, which may have been deleted since
    finished_at timestamptz not null default now(),
    primary key (name, upload)
);
