// What the dashboard says is so: waiting, time, errors, axes and touch.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { addJobs, addPoints, idOf, smallJob } from './support/jobs.mjs';
import { closeDashboard, drawn, openDashboard, openPage, screenshot } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const server = new Server();
let browser;
let page;

before(async () => {
  ({ browser, page } = await openDashboard(server));
  await addJobs(server, { jobs: 60, evaluations: 12 });
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const go = (path) => page.goto(`${server.url}/#${path}`);
const tile = (name) => page.locator('.tiles > div', { hasText: name }).locator('dd').first();
const post = async (spec) => (await server.post('/v1/jobs', spec)).id;

test('queued jobs say their place, why they wait, and when they start', { timeout: PATIENCE }, async () => {
  // From its length the start of what waits behind another job is estimated.
  await server.succeeded(await post(smallJob('is measured')));
  server.sql(`delete from jobs where status = 'queued'`);
  const running = await post(smallJob('runs', 5000));
  await server.until(running, ({ progress }) => progress?.eta_seconds > 0);
  const first = await post(smallJob('comes first'));
  const second = await post(smallJob('comes second'));
  const large = await post({ ...smallJob('too large'), training: { epochs: 1, devices: 4 } });
  const pupil = await post({ ...smallJob('is taught'), distillation: { method: 'kd' }, teacher: { job: running } });
  await go('/?status=queued');
  const rest = (id) => page.locator(`tr[data-id="${id}"] .rest`);
  await rest(second).waitFor();
  assert.match(await rest(first).textContent(), /^#1 · \d/);
  assert.match(await rest(second).textContent(), /^#2 · \d/);
  assert.equal(await rest(large).textContent(), 'no worker fits');
  assert.equal(await rest(pupil).textContent(), 'for its teacher');
  for (const [id, text] of [
    [first, /number 1 in the queue · it is next, and every worker that could take it is busy · starts in about \d/],
    [second, /number 2 in the queue · one job is ahead of it · starts in about \d/],
    [large, /it asks for 4 devices, and the largest running worker has 1/],
    [pupil, /it waits for the job of its teacher, runs, which is running · the teacher needs about \d.* more/],
  ]) {
    await go(`/jobs/${id}`);
    await page.locator('.progress-line').getByText(text).waitFor();
  }
  await go('/workers');
  const figure = (name) => page.getByRole('region', { name: 'Queue' }).locator('div', { hasText: name }).locator('dd');
  await figure('Without a worker').getByText('1', { exact: true }).waitFor();
  assert.equal(await figure('Ready').first().textContent(), '2');
  // The page follows what is ahead of its job.
  await go(`/jobs/${second}`);
  await page.locator('.progress-line').getByText('number 2 in the queue').waitFor();
  await server.post(`/v1/jobs/${first}/cancel`, {});
  await page.locator('.progress-line').getByText('number 1 in the queue').waitFor();
  for (const id of [running, second, large, pupil]) await server.post(`/v1/jobs/${id}/cancel`, {});
  await server.until(running, ({ status }) => status === 'cancelled').catch(() => {});
  page.assertQuiet();
});

test('the time taken is that of the attempts, and stands still while the job is paused', { timeout: PATIENCE }, async () => {
  const id = await post(smallJob('rests', 5000));
  await server.until(id, ({ progress }) => progress?.step > 0);
  await server.post(`/v1/jobs/${id}/pause`, {});
  await server.until(id, ({ status }) => status === 'paused');
  server.sql(`update jobs set started_at = now() - interval '3 hours' where id = '${id}';
    update attempts set started_at = now() - interval '170 minutes', ended_at = now() - interval '138 minutes' where job_id = '${id}'`);
  await go(`/jobs/${id}`);
  await tile('Time taken').getByText('32 min', { exact: true }).waitFor();
  await server.post(`/v1/jobs/${id}/cancel`, {});
  await page.locator('h1 + .badge[data-status="cancelled"]').waitFor();
  assert.equal(await tile('Time taken').textContent(), '32 min');
  await go('/?status=cancelled&q=rests');
  await page.locator(`tr[data-id="${id}"] .rest`).getByText('took 32 min').waitFor();
});

test('a job that failed early does not say that it took no step', async () => {
  const id = idOf(3);
  server.sql(`update jobs set progress = null, error = '{"class": "numeric", "message": "the loss is not finite at step 6"}' where id = '${id}'`);
  await go(`/jobs/${id}`);
  await page.getByText('the loss is not finite at step 6').waitFor();
  await page.locator('.progress-line').getByText('it ended before it reported any progress').waitFor();
  assert.equal(await page.getByText(/Once the job has succeeded/).count(), 0, 'a job that has ended promises nothing');
  await go(`/?q=${id}`);
  const best = page.locator(`tr[data-id="${id}"] td[data-label="Best top-1"] span`);
  assert.equal(await best.getAttribute('title'), 'Not evaluated.');
});

test('an attempt that does not count is said not to count, and none is numbered beyond the most', async () => {
  const id = idOf(1);
  server.sql(`update jobs set attempt = 4, max_attempts = (spec ->> 'max_attempts')::integer + 3 where id = '${id}';
    insert into attempts (job_id, attempt, runnable_at, started_at, ended_at, outcome, counted)
    select '${id}', number, now() - interval '1 hour', now() - interval '1 hour', now() - interval '50 minutes',
      (array['stopped', 'machine', 'worker_lost'])[number], false
    from generate_series(1, 3) as number`);
  await go(`/jobs/${id}`);
  const attempts = page.locator('.facts > div', { hasText: 'Attempt' }).locator('dd');
  assert.equal(await attempts.textContent(), '1 of 3, not counting 3');
  assert.match(await attempts.getAttribute('title'), /^Attempts do not count that were stopped/);
  const rows = page.locator('.attempts tbody tr');
  await rows.nth(2).waitFor();
  for (const row of await rows.all()) assert.match(await row.locator('td').last().textContent(), / · does not count$/);
  page.assertQuiet();
});

test('a log that is too long to be shown says how many events are left out', async () => {
  const id = idOf(9);
  server.sql(`insert into events (job_id, seq, kind, message, attempt)
    select '${id}', number, case when number <= 30 then 'warning' else 'log' end, 'event ' || number, 1 from generate_series(1, 2010) as number`);
  await go(`/jobs/${id}`);
  const log = page.getByRole('region', { name: 'Events', exact: true });
  await log.getByText('10 older events are not shown: GET /v1/jobs/{id}/events has all.').waitFor();
  await log.getByText('Warnings only (20)').waitFor();
  assert.equal(await log.locator('li').count(), 2000);
  page.assertQuiet();
});

test('the same failure of the next attempt is shown as that of the next attempt', async () => {
  const id = idOf(51);
  const fail = (attempt) => server.sql(`update jobs set status = 'queued', worker = null, lease_expires_at = null, attempt = ${attempt},
    error = '{"class": "machine", "message": "the disk is full"}' where id = '${id}'`);
  fail(1);
  await go(`/jobs/${id}`);
  const alert = page.getByRole('alert').filter({ hasText: 'the disk is full' });
  await alert.getByText('Attempt 1 failed:').waitFor();
  fail(2);
  await alert.getByText('Attempt 2 failed:').waitFor();
  page.assertQuiet();
});

test('a job that ended without an attempt does not say that it will start', async () => {
  const { id } = await server.post('/v1/jobs', { ...smallJob('never'), training: { epochs: 1, devices: 64 } });
  await go(`/jobs/${id}`);
  const attempts = page.getByRole('region', { name: 'Attempts', exact: true });
  await attempts.getByText('Not started yet.').waitFor();
  await server.post(`/v1/jobs/${id}/cancel`, {});
  await attempts.getByText('It was never started.').waitFor();
  page.assertQuiet();
});

test('the arrow of the sorted column is visible at every width', async () => {
  for (const width of [1280, 1440, 1920]) {
    await page.setViewportSize({ width, height: 900 });
    for (const sort of ['status', 'name', 'method', 'pair', 'progress', 'best_top1', 'gain', 'eta', 'worker', 'created']) {
      await go(`/?sort=${sort}`);
      await page.locator('thead [aria-sort] a').waitFor();
      const room = await page.locator('thead [aria-sort] a').evaluate((link) => {
        const cell = link.closest('th');
        const right = cell.getBoundingClientRect().right - parseFloat(getComputedStyle(cell).paddingRight);
        return [right - link.getBoundingClientRect().right, getComputedStyle(link, '::after').content];
      });
      assert.ok(room[0] >= -0.5 && /[▲▼]/.test(room[1]), `${sort} at ${width}: ${room}`);
    }
  }
  await page.setViewportSize({ width: 1280, height: 900 });
});

test('the last label of an axis is not cut off', async () => {
  addPoints(server, idOf(0), 'train/loss', 100_000);
  await go(`/jobs/${idOf(0)}`);
  await page.getByRole('radio', { name: 'Step' }).check();
  const canvas = page.locator('section[aria-label="Train loss"] canvas');
  await canvas.waitFor();
  await drawn(page);
  const inked = await canvas.evaluate((element) => {
    const { data } = element.getContext('2d').getImageData(element.width - 2, 0, 2, element.height);
    return data.some((value, index) => index % 4 === 3 && value > 0);
  });
  assert.equal(inked, false);
  await page.getByRole('radio', { name: 'Epoch' }).check();
});

test('charts answer to touch', { timeout: PATIENCE }, async () => {
  const phone = await openPage(browser, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await phone.goto(`${server.url}/#/jobs/${idOf(8)}`);
  const chart = phone.locator('section[aria-label="Evaluation top-1"]');
  await chart.locator('.u-over').waitFor();
  await phone.locator('#connection[data-state="ended"]').waitFor();
  await drawn(phone);
  await chart.scrollIntoViewIfNeeded();
  await drawn(phone);
  const session = await phone.context().newCDPSession(phone);
  const touch = async (type, ...shares) => {
    const box = await chart.locator('.u-over').boundingBox();
    await session.send('Input.dispatchTouchEvent', {
      type, touchPoints: shares.map((share, id) => ({ id, x: box.x + share * box.width, y: box.y + box.height / 2 })),
    });
  };
  const where = () => chart.locator('.chart-where').textContent();
  await touch('touchStart', 0.1);
  await touch('touchMove', 0.15);
  await phone.waitForFunction(() => !document.querySelector('section[aria-label="Evaluation top-1"] .chart-where').textContent.startsWith('latest'));
  const early = await where();
  for (const share of [0.3, 0.5, 0.7, 0.9]) await touch('touchMove', share);
  await phone.waitForFunction((was) => document.querySelector('section[aria-label="Evaluation top-1"] .chart-where').textContent !== was, early);
  assert.notEqual(early, await where());
  await touch('touchEnd');
  await touch('touchStart', 0.4, 0.6);
  for (const spread of [0.15, 0.25, 0.35]) await touch('touchMove', 0.5 - spread, 0.5 + spread);
  await touch('touchEnd');
  await phone.locator('section[aria-label="Evaluation top-1"][data-zoomed="true"]').waitFor();
  await screenshot(phone, 'job-touch');
  for (let taps = 0; taps < 2; taps += 1) {
    await touch('touchStart', 0.5);
    await touch('touchEnd');
  }
  await phone.locator('section[aria-label="Evaluation top-1"][data-zoomed="false"]').waitFor();
  await phone.getByText('Touch: drag to read values').waitFor();
  await phone.context().close();
});

test('deleting a teacher names its students', async () => {
  const [teacher, pupil] = [idOf(5), idOf(6)];
  server.sql(`update jobs set teacher_job = '${teacher}', name = 'the pupil' where id = '${pupil}'`);
  await go(`/jobs/${teacher}`);
  await page.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByText('Its student is the teacher of 1 job: the pupil.').waitFor();
  await page.getByRole('dialog').getByRole('button', { name: 'Back' }).click();
  await go(`/?q=${teacher}`);
  await page.locator(`tr[data-id="${teacher}"]`).getByRole('checkbox').check();
  await page.getByRole('toolbar').getByRole('button', { name: /^Delete/ }).click();
  await page.getByRole('dialog').getByText('Their students are the teachers of 1 job').waitFor();
  await page.getByRole('dialog').getByRole('button', { name: 'Keep them' }).click();
  await page.keyboard.press('Escape');
  page.assertQuiet();
});
