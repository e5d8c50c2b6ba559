-- Networks that come as files (torch.export): what the reader found in one, and the name by which lists show it in a job,
-- whose specification names no architecture for it.
alter table checkpoints add column network jsonb;
alter table jobs
    add column teacher_network text,
    add column student_network text;
