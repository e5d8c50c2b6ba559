// A database full of jobs, as if they had been trained for weeks.

/** The id of the nth job of `addJobs`; it sorts before those of any real job. */
export const idOf = (number) => `job_00${String(number).padStart(24, '0')}`;

/** A job that trains for seconds; with many epochs, for hours. */
export const smallJob = (name, epochs = 1, limit = 64) => ({
  name, student: { architecture: 'resnet8' }, dataset: { name: 'digits', limit }, distillation: { method: 'none' }, training: { epochs, batch_size: 32, augmentation: 'none' },
});

/**
 * Adds jobs that vary the specification of a real one. 24 jobs in a row share their networks: eight methods and
 * settings with three seeds each. Of 50 jobs, one is running, one queued (no worker holds or takes these) and one
 * failed; the others have succeeded.
 */
export async function addJobs(server, { jobs, evaluations }) {
  const { id: like } = await server.post('/v1/jobs', smallJob('real'));
  server.sql(`
    begin;
    with numbered as (
      select number, number / 24 as pair, (array['none', 'kd', 'dkd', 'nkd', 'sdd_kd', 'sdd_dkd', 'sdd_nkd', 'sdd_kd'])[number / 3 % 8 + 1] as method,
        case number % 50 when 1 then 'running' when 2 then 'queued' when 3 then 'failed' else 'succeeded' end as status
      from generate_series(0, ${jobs - 1}) as number),
    drawn as (
      select *, 60 + 12 * (1 - exp(-pair % 7)) + case method when 'none' then 0 when 'kd' then 1 else 2 end + sin(number * 12.9898) as best,
        (array['resnet8', 'resnet20', 'shufflenet_v1', 'mobilenet_v2', 'vgg8'])[pair % 5 + 1] as student,
        (array['resnet56', 'resnet32x4', 'wrn_40_2', 'vgg13'])[pair % 4 + 1] as teacher
      from numbered)
    insert into jobs (id, name, status, spec, labels, attempt, max_attempts, run_after, progress, result, error, worker, lease_expires_at,
      created_at, started_at, finished_at, best_top1)
    select 'job_00' || lpad(number::text, 24, '0'), case when method = 'none' then student else teacher || ' to ' || student end, status,
      jsonb_strip_nulls(jsonb_set(jsonb_set(jsonb_set(jsonb_set(jsonb_set(spec, '{student,architecture}', to_jsonb(student)),
        '{distillation,method}', to_jsonb(method)), '{training,seed}', to_jsonb(number % 3)), '{training,epochs}', to_jsonb(${evaluations} + pair)),
        '{teacher}', case when method = 'none' then 'null' else jsonb_build_object('architecture', teacher, 'checkpoint', 'ckpt_' || md5(teacher)) end)),
      jsonb_build_object('team', (array['vision', 'edge', 'research'])[pair % 3 + 1]), case status when 'queued' then 0 else 1 end, 3, now() + interval '1 day',
      case status when 'queued' then null else jsonb_build_object('epoch', ${evaluations}, 'epochs', ${evaluations}, 'step', 100 * ${evaluations}, 'steps', 100 * ${evaluations},
        'fraction', case status when 'running' then 0.4 else 1 end, 'images_per_second', 1200, 'eta_seconds', 60 * (number % 90)) end,
      case status when 'succeeded' then jsonb_build_object('best_top1', best, 'best_epoch', ${evaluations}, 'last_top1', best, 'teacher_top1', case when method <> 'none' then 74 end,
        'student', jsonb_build_object('parameters', 270000 + 10000 * (pair % 5), 'size_bytes', 1100000, 'sha256', md5(number::text))) end,
      case status when 'failed' then '{"class": "numeric", "message": "the loss is not finite"}'::jsonb end,
      case status when 'running' then 'wrk_' || number % 8 end, case status when 'running' then now() + interval '1 day' end,
      now() - (${jobs} - number) * interval '3 minutes', case status when 'queued' then null else now() - (${jobs} - number) * interval '3 minutes' end,
      case when status in ('succeeded', 'failed') then now() - (${jobs} - number) * interval '3 minutes' + interval '40 minutes' end,
      case when status not in ('queued', 'failed') then best end
    from drawn, (select spec from jobs where id = '${like}') as like_this;
    update jobs set submitted = spec::text::json where id like 'job_00%';
    insert into metrics (job_id, attempt, name, step, epoch, time, value)
    select id, 1, 'eval/top1', 100 * epoch, epoch, started_at + epoch * interval '1 minute', best_top1 - 40 * exp(-epoch * 6.0 / ${evaluations}) - 0.5 * abs(sin(epoch * 7))
    from jobs, generate_series(1, ${evaluations}) as epoch where id like 'job_00%' and best_top1 is not null;
    commit;
    analyze;`);
}

/** Notes how long the students of succeeded jobs take, in milliseconds for one image. */
export function addLatencies(server, ids, milliseconds) {
  const batch = (images) => `jsonb_build_object('batch', ${images}, 'median_ms', ${images * milliseconds}, 'fastest_ms', ${images * milliseconds}, 'runs', 9)`;
  server.sql(`insert into student_latencies (job_id, latency)
    select id, jsonb_build_object('cpu', 'a CPU', 'runtime', 'ONNX Runtime 1.0', 'load', 0.1, 'processors', 2, 'batches', jsonb_build_array(${batch(1)}, ${batch(64)}), 'notes', '[]'::jsonb)
    from jobs where id in (${ids.map((id) => `'${id}'`).join(', ')})
    -- The server may have found that there is nothing to measure.
    on conflict (job_id) do update set latency = excluded.latency, failure = null;`);
}

/** Adds a long series to a job. */
export function addPoints(server, id, name, points) {
  server.sql(`insert into metrics (job_id, attempt, name, step, epoch, time, value)
    select '${id}', 1, '${name}', step, step / 1000.0, now() - interval '1 day' + step * interval '1 second', 4 * exp(-step / 20000.0) + 0.2 * abs(sin(step))
    from generate_series(1, ${points}) as step; analyze;`);
}
