// The pages that compare jobs and show workers.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { addJobs, addLatencies, addPoints, idOf, smallJob } from './support/jobs.mjs';
import { UNREACHABLE, assertAccessible, assertFits, closeDashboard, downloaded, drawn, onEveryScreen, openDashboard, openPage, refused, screenshot } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';
import { assertStill, watchShifts } from './support/shifts.mjs';

/** kd and sdd_dkd with the same networks, three seeds each. */
const JOBS = [51, 52, 53, 63, 64, 65].map((number) => idOf(number + 24));

const server = new Server();
let browser;
let page;

before(async () => {
  ({ browser, page } = await openDashboard(server));
  await addJobs(server, { jobs: 120, evaluations: 12 });
  for (const job of JOBS) addPoints(server, job, 'train/loss', 300);
  addPoints(server, JOBS[0], 'lr', 10);
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const address = (more = '') => `/compare?${JOBS.map((id) => `job=${id}`).join('&')}${more}`;
const chart = (name) => page.getByRole('region', { name, exact: true });
const table = (name) => page.getByRole('region', { name: `${name}, table` });

const saved = (act) => downloaded(page, act);
const withLines = (name, count) => page.locator(`section[aria-label="${name}"][data-lines="${count}"]`).waitFor();
const drawing = (name) => chart(name).locator('canvas').evaluate((canvas) => canvas.toDataURL());

test('jobs selected in the list are compared, and one can be removed', async () => {
  await page.goto(`${server.url}/#/?q=sdd_dkd`);
  const boxes = page.locator('.jobs tbody input');
  for (const place of [0, 1, 2]) await boxes.nth(place).check();
  await page.keyboard.press('c');
  await table('Jobs').getByRole('row').nth(3).waitFor();
  assert.equal(new URLSearchParams(new URL(page.url()).hash.split('?')[1]).getAll('job').length, 3);
  await table('Jobs').getByRole('button', { name: /^Remove/ }).first().click();
  await page.waitForFunction(() => document.querySelectorAll('[aria-label="Jobs, table"] tbody tr').length === 2);
  await page.goBack();
  await page.waitForFunction(() => document.querySelectorAll('[aria-label="Jobs, table"] tbody tr').length === 3);
  page.assertQuiet();
});

test('without jobs the page says how to add them, and it names unknown ones', async () => {
  page.expected.push(refused(404));
  await page.goto(`${server.url}/#/compare`);
  await page.getByText('Add jobs here, or select them in the list').waitFor();
  const field = page.getByRole('combobox', { name: 'Add a job' });
  await field.fill('mobilenet sdd_dkd');
  await page.getByRole('option').first().waitFor();
  const offered = await page.getByRole('option').count();
  await field.press('ArrowDown');
  await field.press('Enter');
  await table('Jobs').getByRole('row').nth(1).waitFor();
  assert.match(await table('Jobs').getByRole('row').nth(1).innerText(), /sdd_dkd\s+\S+ → mobilenet_v2/);
  await field.fill('mobilenet sdd_dkd');
  await page.waitForFunction((count) => document.querySelectorAll('[role="option"]').length === count, offered - 1);
  await page.getByRole('option').first().click();
  await table('Jobs').getByRole('row').nth(2).waitFor();
  await page.goto(`${server.url}/#/compare?job=${JOBS[0]}&job=${idOf(999)}`);
  await page.getByText(`1 of these jobs does not exist: ${idOf(999)}.`).waitFor();
  page.assertQuiet();
});

test('the curves of a series share a chart, and series can be added and removed', async () => {
  await page.goto(`${server.url}/#${address()}`);
  await withLines('train/loss', 6);
  await withLines('eval/top1', JOBS.length);
  await page.getByRole('checkbox', { name: 'lr (1 of 6)' }).check();
  await withLines('lr', 1);
  await page.getByRole('checkbox', { name: 'train/loss' }).uncheck();
  await chart('train/loss').waitFor({ state: 'detached' });
  await page.reload();
  await chart('lr').waitFor();
  assert.equal(await chart('train/loss').count(), 0, 'the address must say which series are shown');
  await page.getByLabel('x axis').selectOption('time');
  await page.waitForURL(/x=time/);
  await chart('eval/top1').locator('.u-over').hover({ position: { x: 60, y: 60 } });
  await chart('eval/top1').getByText(/^hours -?\d/).waitFor();
  // Every chart says where its own points are, beside the one cross-hair.
  await chart('lr').getByText(/^hours -?\d/).waitFor();
  const lines = await page.locator('.u-cursor-x').evaluateAll((all) => all.map((line) => line.style.transform));
  assert.equal(new Set(lines).size, 1, `all charts must have one axis: ${lines}`);
  page.assertQuiet();
});

test('curves can be smoothed, and losses can have a logarithmic scale', async () => {
  await page.goto(`${server.url}/#${address()}`);
  await withLines('train/loss', 6);
  const rough = await drawing('train/loss');
  await page.getByLabel('Smoothing').fill('0.95');
  await drawn(page);
  assert.notEqual(await drawing('train/loss'), rough);
  assert.equal(await chart('train/loss').getAttribute('data-scale'), 'linear');
  await page.getByLabel('Log scale').check();
  await page.locator('section[aria-label="train/loss"][data-scale="log"]').waitFor();
  assert.equal(await chart('eval/top1').getAttribute('data-scale'), 'linear', 'an accuracy must not have a logarithmic scale');
  await page.reload();
  await page.locator('section[aria-label="train/loss"][data-scale="log"]').waitFor();
  await page.getByLabel('Smoothing').fill('0');
  await page.getByLabel('Log scale').uncheck();
  page.assertQuiet();
});

test('the keyboard moves the cross-hair and zooms, and smoothing keeps the zoom', async () => {
  await page.goto(`${server.url}/#${address()}`);
  await withLines('train/loss', 6);
  const zoomed = (name, is) => page.locator(`section[aria-label="${name}"][data-zoomed="${is}"]`).waitFor();
  await chart('eval/top1').locator('.chart-plot').focus();
  await page.keyboard.press('Home');
  const first = await chart('eval/top1').locator('.chart-where').textContent();
  await page.keyboard.press('ArrowRight');
  await page.waitForFunction((was) => document.querySelector('section[aria-label="eval/top1"] .chart-where').textContent !== was, first);
  await page.keyboard.press('+');
  for (const name of ['eval/top1', 'train/loss']) await zoomed(name, true);
  await page.getByLabel('Smoothing').fill('0.5');
  await drawn(page);
  for (const name of ['eval/top1', 'train/loss']) await zoomed(name, true);
  await page.getByRole('button', { name: 'Show all' }).click();
  for (const name of ['eval/top1', 'train/loss']) await zoomed(name, false);
  await page.getByLabel('Smoothing').fill('0');
  page.assertQuiet();
});

test('each job has the colour of its line, or of its group’s line', async () => {
  const colours = () => table('Jobs').locator('.swatch').evaluateAll((all) => all.map((one) => getComputedStyle(one).borderTopColor));
  const legend = () => chart('eval/top1').locator('.swatch').evaluateAll((all) => all.map((one) => getComputedStyle(one).borderTopColor));
  await page.goto(`${server.url}/#${address()}`);
  await withLines('eval/top1', 6);
  assert.equal(new Set(await colours()).size, 6);
  assert.deepEqual(await colours(), await legend());
  await page.goto(`${server.url}/#${address('&seeds=1')}`);
  await withLines('eval/top1', 2);
  const [kd, sdd] = await legend();
  assert.deepEqual(await colours(), [kd, kd, kd, sdd, sdd, sdd]);
});

test('seeds are averaged in the table, the curves and the scatter plot', async () => {
  await page.goto(`${server.url}/#${address()}`);
  await page.getByLabel('Mean ± standard deviation over seeds').check();
  await withLines('eval/top1', 2);
  const best = await Promise.all(JOBS.slice(0, 3).map(async (id) => (await server.get(`/v1/jobs/${id}`)).result.best_top1));
  const mean = best.reduce((sum, value) => sum + value, 0) / 3;
  const deviation = Math.sqrt(best.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 2);
  const row = table('Over seeds').getByRole('row').nth(1);
  assert.match(await row.innerText(), new RegExp(`^kd\\s+0, 1, 2\\s+${mean.toFixed(2)} ± ${deviation.toFixed(2)} %`));
  assert.match(await table('Over seeds').getByRole('row').nth(2).innerText(), /^sdd_dkd\s+0, 1, 2/);
  const scatter = page.getByRole('region', { name: 'Accuracy against parameters' });
  assert.equal(await scatter.getAttribute('data-points'), '3', 'two groups and their teacher');
  assert.match(await scatter.locator('svg').getAttribute('aria-label'), /\(teacher\): 74\.00 %/);
  const { bytes } = await saved(() => page.getByRole('region', { name: 'Over seeds', exact: true }).getByRole('button', { name: 'CSV' }).click());
  assert.match(bytes.toString(), new RegExp(`^jobs,seeds,best_top1_mean,.*\r\nkd,0 1 2,${mean.toFixed(4)}`));
  page.assertQuiet();
});

test('students beyond a bound are marked, whatever the axis shows', async () => {
  await page.goto(`${server.url}/#${address()}`);
  const scatter = page.getByRole('region', { name: /^Accuracy against / });
  await scatter.locator('circle').first().waitFor();
  await scatter.getByLabel('Cost').selectOption('size');
  assert.equal(await scatter.getAttribute('aria-label'), 'Accuracy against size');
  assert.equal(await scatter.getAttribute('data-points'), '6', 'a teacher’s size is not known');
  await scatter.getByLabel('at most').fill('1');
  await scatter.getByText('0 of 6 qualify; hollow ones do not').waitFor();
  assert.equal(await scatter.locator('.scatter-out').count(), 6);
  await scatter.getByLabel('Cost').selectOption('parameters');
  await scatter.getByText('0 of 6 qualify').waitFor();
  await scatter.getByLabel('Cost').selectOption('latency');
  await scatter.getByText('6 not measured yet').waitFor();
  assert.equal(await scatter.locator('circle').count(), 0);
  await scatter.getByLabel('Cost').selectOption('size');
  await scatter.getByLabel('at most').fill('1.2');
  await scatter.getByText('6 of 6 qualify').waitFor();
  // What is no number, or could be two, bounds nothing and says so.
  await scatter.getByLabel('at most').fill('');
  await scatter.getByLabel('at most').pressSequentially('1,234', { delay: 50 });
  await scatter.getByText('1,234 could be 1234 or 1.234').waitFor();
  assert.equal(await scatter.getByText('qualify').count(), 0);
  await scatter.getByLabel('Cost').selectOption('parameters');
  assert.equal(await scatter.getByText('could be').count(), 0);
  await scatter.getByLabel('Cost').selectOption('size');
  assert.equal(await scatter.getByLabel('at most').inputValue(), '1,234');
  await scatter.getByLabel('at most').fill('1,2');
  await scatter.getByText('6 of 6 qualify').waitFor();
  page.assertQuiet();
});

test('latencies are an axis, and on a job’s page', async () => {
  addLatencies(server, JOBS, 2.5);
  await page.reload();
  const scatter = page.getByRole('region', { name: /^Accuracy against / });
  await scatter.locator('circle').first().waitFor();
  await scatter.getByLabel('Cost').selectOption('latency');
  await scatter.getByText('a CPU').waitFor();
  assert.match(await scatter.locator('svg').getAttribute('aria-label'), /with 2\.500 ms(;|$)/);
  await page.goto(`${server.url}/#/jobs/${JOBS[0]}`);
  await page.locator('.result').getByText('one image; 64 take 160.0 ms, with one thread').waitFor();
  await page.locator('.result').getByText('2.500 ms', { exact: true }).waitFor();
  page.assertQuiet();
});

test('only differing settings are shown, and tables and charts can be downloaded', async () => {
  await page.goto(`${server.url}/#${address()}`);
  const rows = table('Settings that differ').getByRole('row');
  await rows.nth(2).waitFor();
  assert.deepEqual((await rows.locator('th code').allTextContents()).sort(), ['distillation.method', 'training.seed']);
  const settings = await saved(() => page.getByRole('region', { name: 'Settings that differ', exact: true }).getByRole('button', { name: 'CSV' }).click());
  assert.match(settings.bytes.toString(), /distillation\.method,kd,kd,kd,sdd_dkd,sdd_dkd,sdd_dkd/);
  const csv = await saved(() => chart('eval/top1').getByRole('button', { name: 'CSV' }).click());
  assert.equal(csv.bytes.toString().trim().split('\r\n').length, 1 + JOBS.length * 12);
  const png = await saved(() => chart('eval/top1').getByRole('button', { name: 'PNG' }).click());
  assert.deepEqual([png.name, png.bytes.subarray(1, 4).toString()], ['eval-top1.png', 'PNG']);
  assert.ok(png.bytes.readUInt32BE(16) > 300 && png.bytes.length > 5000);
  const svg = await saved(() => page.getByRole('region', { name: 'Accuracy against parameters' }).getByRole('button', { name: 'SVG' }).click());
  assert.match(svg.bytes.toString(), /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"[^>]* width="\d+"[^]*<circle [^>]*fill="rgb/);
  page.assertQuiet();
});

test('a job with one point is drawn, and values of different epochs say their epoch', async () => {
  const single = idOf(51);
  server.sql(`delete from metrics where job_id = '${single}' and (epoch > 1 or name <> 'eval/top1')`);
  // The cross-hair stays where the keyboard left it, until the document is left.
  await page.goto('about:blank');
  await page.goto(`${server.url}/#/compare?job=${single}`);
  await withLines('eval/top1', 1);
  await drawn(page);
  const coloured = await chart('eval/top1').locator('canvas').evaluate((canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const colour = document.createElement('canvas').getContext('2d');
    colour.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--series-1');
    colour.fillRect(0, 0, 1, 1);
    const wanted = colour.getImageData(0, 0, 1, 1).data;
    let pixels = 0;
    for (let at = 0; at < data.length; at += 4) if ([0, 1, 2, 3].every((part) => data[at + part] === wanted[part])) pixels += 1;
    return pixels;
  });
  assert.ok(coloured > 20, `the point must be visible: ${coloured} pixels`);
  await page.goto(`${server.url}/#/compare?job=${single}&job=${JOBS[0]}`);
  await withLines('eval/top1', 2);
  const values = () => chart('eval/top1').locator('.legend-value').allTextContents();
  const [ofSingle, ofOther] = await values();
  assert.match(ofSingle, / at 1$/);
  assert.match(ofOther, / at 12$/);
  assert.equal(await chart('eval/top1').locator('.chart-where').textContent(), 'latest');
  const first = await page.evaluate(async (id) => (await (await fetch(`/v1/jobs/${id}/metrics?name=eval/top1`)).json()).series[0].points[0].value, JOBS[0]);
  await chart('eval/top1').locator('.chart-plot').focus();
  await page.keyboard.press('Home');
  await chart('eval/top1').getByText('epoch 1', { exact: true }).waitFor();
  assert.equal((await values())[1], first.toPrecision(4));
  page.assertQuiet();
});

test('more jobs than fit are refused aloud', async () => {
  await page.goto(`${server.url}/#/?rows=100`);
  await page.locator('.jobs tbody tr').nth(60).waitFor();
  await page.getByRole('checkbox', { name: 'Select all jobs on this page' }).check();
  const bar = page.getByRole('toolbar', { name: 'Selected jobs' });
  await bar.getByText('Compare (at most 50)').waitFor();
  assert.equal(await bar.getByText('Compare (at most 50)').getAttribute('href'), null);
  await page.keyboard.press('Escape');
});

test('nothing moves while a page loads', async () => {
  const { data: [real] } = await server.get('/v1/summaries?q=real');
  for (const [name, path, ready] of [['compare', address(), '.scatter circle'], ['list', '/', '.jobs tbody tr'], ['job', `/jobs/${JOBS[0]}`, '.u-over'],
    ['workers', '/workers', '.workers tbody tr'], ['form', `/new?from=${real.id}`, '.verdict[data-state="fine"]']]) {
    for (const width of [1440, 390]) {
      const other = await openPage(browser, { viewport: { width, height: 900 } });
      await other.addInitScript(() => {
        window.shifts = [];
        new PerformanceObserver((list) => {
          for (const { value, hadRecentInput, sources } of list.getEntries()) {
            if (!hadRecentInput) window.shifts.push({ value, sources: sources.map(({ node }) => node?.outerHTML?.slice(0, 120)) });
          }
        }).observe({ type: 'layout-shift', buffered: true });
      });
      await other.goto(`${server.url}/#${path}`);
      await other.locator(ready).first().waitFor();
      await drawn(other);
      const shifts = await other.evaluate(() => window.shifts);
      const total = shifts.reduce((sum, { value }) => sum + value, 0);
      assert.ok(total <= 0.02, `${name} at ${width} moved by ${total}: ${JSON.stringify(shifts)}`);
      await other.context().close();
    }
  }
});

test('the comparison follows running jobs', async () => {
  const running = idOf(51);
  await page.goto(`${server.url}/#/compare?job=${running}&job=${JOBS[0]}`);
  const row = table('Jobs').locator(`tr[data-id="${running}"]`);
  await row.getByText('running').waitFor();
  server.sql(`insert into metrics (job_id, attempt, name, step, epoch, time, value) values ('${running}', 1, 'eval/top1', 9000, 90, now(), 93.5)`);
  await row.getByText('93.50 %').waitFor();
  page.assertQuiet();
});

test('workers and the system show their load', { timeout: PATIENCE }, async () => {
  await page.goto(`${server.url}/#/workers`);
  const { id } = await server.post('/v1/jobs', smallJob('keeps it busy', 5000, 320));
  const row = page.getByRole('row').nth(1);
  await row.getByRole('link', { name: 'keeps it busy' }).waitFor({ timeout: PATIENCE });
  await row.getByText(/% · .* left/).waitFor({ timeout: PATIENCE });
  await page.getByRole('region', { name: 'Running' }).getByText('1 of 1').waitFor();
  await page.getByRole('region', { name: 'Storage' }).getByText(/[KMG]iB/).first().waitFor();
  await row.getByText(/^\d+ % busy$/).waitFor();
  const { usage } = (await server.get('/v1/workers')).data[0];
  assert.ok(usage.cpu_share > 0 && usage.memory_used_bytes < usage.memory_total_bytes);
  await row.getByText(/^[\d.]+ [KMG]iB of [\d.]+ GiB$/).waitFor();
  const busy = Number(await row.getByRole('progressbar', { name: 'Busy in the last hour' }).getAttribute('aria-valuenow'));
  assert.ok(busy >= 1 && busy <= 100, String(busy));
  await watchShifts(page);
  const link = row.getByRole('link');
  await link.focus();
  const { heartbeat_at: before } = (await server.get('/v1/workers')).data[0];
  await page.waitForFunction((time) => document.querySelector('.workers tbody time').dateTime > time, before, { timeout: PATIENCE });
  assert.equal(await link.evaluate((element) => element === document.activeElement), true, 'an update must not take the focus');
  await assertStill(page);
  server.sql(`insert into workers (id, name, device, version, stopped_because) values ('wrk_0', 'broken', 'cpu', '0', 'its disk is full')`);
  await page.getByText('takes no jobs: its disk is full').waitFor({ timeout: PATIENCE });
  server.sql(`delete from workers where id = 'wrk_0'`);
  await server.post(`/v1/jobs/${id}/cancel`, {});
  page.assertQuiet();
});

test('both pages are accessible and fit on every screen', async () => {
  await onEveryScreen(browser, async (other, screen) => {
    for (const [name, path, ready] of [['compare', address('&seeds=1'), '.scatter circle'], ['workers', '/workers', '.workers tbody tr']]) {
      await other.goto(`${server.url}/#${path}`);
      await other.locator(ready).first().waitFor();
      await assertFits(other);
      await assertAccessible(other);
      await screenshot(other, `${name}-${screen.name}`);
    }
  });
});

test('both pages show a lost connection, and recover', { timeout: PATIENCE }, async () => {
  page.expected.push(UNREACHABLE);
  for (const path of ['/workers', address()]) {
    await page.goto(`${server.url}/#${path}`);
    await page.locator('#connection[data-state="live"]').waitFor();
    await server.kill();
    await page.getByText('Connection lost – retrying.').waitFor();
    await server.start();
    await page.locator('#lost').waitFor({ state: 'hidden', timeout: PATIENCE });
  }
  page.assertQuiet();
});
