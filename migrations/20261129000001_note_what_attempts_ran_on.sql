-- What the API shows of an attempt, which had to be dug out of the history before.
alter table attempts
    add column worker_name text,          -- as it was when the attempt began; the worker's row is gone when it is
    add column device text,               -- of the trainer, once it has started
    add column resumed_epochs integer,    -- epochs that earlier attempts had done
    add column resumed_step bigint;       -- steps that earlier attempts had done

update attempts set worker_name = told.worker, device = told.device, resumed_epochs = told.resumed_epochs,
    resumed_step = told.resumed_step
from (
    select job_id, attempt, max(data ->> 'worker') as worker, max(data ->> 'device') as device,
        max((data ->> 'resumed_epochs')::integer) as resumed_epochs, max((data ->> 'resumed_step')::bigint) as resumed_step
    from events where data ? 'worker' or data ? 'resumed_step' group by job_id, attempt) as told
where told.job_id = attempts.job_id and told.attempt = attempts.attempt;
