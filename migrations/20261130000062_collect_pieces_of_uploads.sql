-- Pieces of uploads of data sets that come one by one, so that a broken connection costs one of them. Their files are
-- announced in file_deletions, and so go after a day; a row whose file is no longer announced there counts as gone.
create table dataset_pieces (
    name text not null,                   -- of the data set
    upload text not null,                 -- as its client calls it
    start_at bigint not null,             -- place of the first byte
    size_bytes bigint not null,
    total_bytes bigint not null,          -- of the whole upload
    key text not null,                    -- in storage
    sha256 text not null,
    primary key (name, upload, start_at)
);
