-- Until when the bytes that a file has reserved count. The server that stores the file renews this, so that the space is
-- free again soon after a server has ended.
alter table file_deletions add column reserved_until timestamptz not null default '-infinity';
