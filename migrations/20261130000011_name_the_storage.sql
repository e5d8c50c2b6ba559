-- Which storage has the files that this database names: its file storage-id holds this id.
create table storage (
    id text primary key,
    address text,                         -- of the storage that got the id; null until a process has decided on one
    is_only boolean not null default true unique check (is_only)
);
