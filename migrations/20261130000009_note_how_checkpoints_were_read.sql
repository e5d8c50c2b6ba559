-- What the reader of a checkpoint passed over, chosen or read under another name, in sentences for its user.
alter table checkpoints add column notes text[] not null default '{}';
