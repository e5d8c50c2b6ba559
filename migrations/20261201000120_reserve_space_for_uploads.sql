-- Bytes that a file takes of the space for uploads while it is being stored: others that come at the same time count
-- them. 0 for what is counted elsewhere, such as a shard that waits for others, and for what is to be removed.
alter table file_deletions add column reserved_bytes bigint not null default 0;
