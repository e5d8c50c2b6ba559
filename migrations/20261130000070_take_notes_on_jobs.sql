-- What people note about a job, such as what they concluded from it. It decides nothing.
alter table jobs add column notes text;
