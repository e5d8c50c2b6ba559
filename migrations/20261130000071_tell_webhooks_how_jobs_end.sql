-- Messages for webhooks, written in the transaction that ends a job, whoever ends it: none is lost, whatever dies.
-- Servers send them afterwards, and repeat that until it succeeds or was tried often enough.
alter table jobs add column webhooks text[] not null default '{}';  -- names, whose addresses the servers know

create table webhook_messages (
    id text primary key,                  -- msg_ and 32 hexadecimal digits: the same in every attempt to send it
    job_id text not null,                 -- no reference: the end of a job that was deleted is told, too
    webhook text not null,
    type text not null,                   -- job.succeeded, job.failed, job.cancelled
    body text not null,                   -- the signature covers these bytes
    created_at timestamptz not null default now(),
    attempts integer not null default 0,
    next_attempt_at timestamptz default now(),  -- null once it was delivered or given up
    delivered_at timestamptz,
    last_error text
);
create index webhook_messages_due on webhook_messages (next_attempt_at) where next_attempt_at is not null;
create index webhook_messages_job on webhook_messages (job_id);

create function tell_webhooks() returns trigger language plpgsql as $$
begin
    insert into webhook_messages (id, job_id, webhook, type, body)
    select 'msg_' || replace(gen_random_uuid()::text, '-', ''), new.id, webhook, 'job.' || new.status,
        json_build_object(
            'type', 'job.' || new.status,
            'timestamp', to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'data', json_build_object(
                'id', new.id, 'name', new.name, 'status', new.status, 'labels', new.labels, 'attempt', new.attempt,
                'result', new.result, 'error', new.error))::text
    from unnest(new.webhooks) as webhook;
    perform pg_notify('distillery_webhook', '');
    return null;
end $$;
create trigger jobs_webhooks after update of status on jobs for each row
    when (new.status in ('succeeded', 'failed', 'cancelled') and new.status is distinct from old.status
        and new.webhooks <> '{}')
    execute function tell_webhooks();
