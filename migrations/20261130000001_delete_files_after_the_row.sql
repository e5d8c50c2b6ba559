-- Files that no other row names: those of a deleted job or checkpoint until storage has removed them, and that of an upload
-- until the checkpoint is there. A row is committed before storage is asked for anything, and goes after storage has
-- answered, so that no transaction waits for storage and nothing is forgotten in a crash.
create table file_deletions (
    key text primary key,                 -- a file, or a directory with everything below it
    is_directory boolean not null,
    is_decided boolean not null,          -- false while an upload may still take the file over
    due_at timestamptz not null           -- when any server may begin with it, or begin again
);
create index file_deletions_due on file_deletions (due_at);

-- Each upload has a file of its own, so that no deletion takes the bytes of a later upload. Null stands for
-- checkpoints/<sha256>, where earlier versions put them.
alter table checkpoints add column key text;
