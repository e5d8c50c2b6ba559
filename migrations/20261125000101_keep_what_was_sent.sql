-- What the user sent, as it was sent: json keeps the order of the members, which jsonb does not, and takes every
-- document that the specification's reader takes. Null for a job from before.
alter table jobs add column submitted json;
