// The page of a job: its live figures, charts, attempts, events, specification and files.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { program } from '../../static/js/job/snippets.js';
import { assertAccessible, assertFits, closeDashboard, downloaded, drawn, onEveryScreen, openDashboard, openPage, screenshot, statusBadge } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';
import { assertStill, watchShifts } from './support/shifts.mjs';

// A killed worker's job resumes after its lease: a short one saves time.
const server = new Server({ DISTILLERY_LEASE_SECONDS: '4' });
const directory = mkdtempSync(join(tmpdir(), 'distillery-job-page-'));
let browser;
let page;
let teacher;
let student;

const training = (epochs) => ({ epochs, batch_size: 32, seed: 1, augmentation: 'none' });
const dataset = { name: 'digits', limit: 320 };

before(async () => {
  ({ browser, page } = await openDashboard(server));
  const plain = { student: { architecture: 'resnet8' }, dataset, distillation: { method: 'none' }, training: training(2) };
  teacher = (await server.post('/v1/jobs', plain)).id;
  student = (await server.post('/v1/jobs', {
    name: 'watched', labels: { team: 'vision' }, teacher: { job: teacher }, student: { architecture: 'resnet8' }, dataset,
    distillation: { method: 'sdd_kd', scales: [1, 2, 4], temperature: 3 }, training: training(4),
  })).id;
}, { timeout: PATIENCE });

after(async () => {
  await closeDashboard(server, browser);
  rmSync(directory, { recursive: true, force: true });
});

const status = (name) => statusBadge(page, name);
const chart = (title) => page.getByRole('region', { name: title, exact: true });
const tile = (title) => page.locator('.progress-card .tiles > div', { hasText: title }).locator('dd').first();
const where = (title) => chart(title).locator('.chart-where');
const textOf = (title) => where(title).textContent();
const over = (title) => chart(title).locator('.u-over');
const zoomed = (title, value) => page.locator(`section[aria-label="${title}"][data-zoomed="${value}"]`).waitFor();

test('the header follows training, and the page hardly moves', { timeout: PATIENCE }, async () => {
  await page.goto(`${server.url}/#/jobs/${student}`);
  await status('running').waitFor({ timeout: PATIENCE });
  await watchShifts(page);
  await tile('Top-1 now').getByText(/^\d/).waitFor({ timeout: PATIENCE });
  await status('succeeded').waitFor({ timeout: PATIENCE });
  await page.locator('#connection[data-state="ended"]').waitFor();
  const { result } = await server.get(`/v1/jobs/${student}`);
  assert.equal(await tile('Best top-1').textContent(), `${result.best_top1.toFixed(2)} %`);
  assert.equal(await tile('Teacher top-1').textContent(), `${result.teacher_top1.toFixed(2)} %`);
  assert.equal(await tile('Time left').textContent(), '–');
  await page.locator('.region-map[role="img"]').first().waitFor();
  await assertStill(page, 0.02);
  page.assertQuiet();
});

test('every series of the trainer has a chart', async () => {
  for (const title of ['Evaluation top-1', 'Train loss', 'Parts of the train loss', 'Evaluation loss', 'Learning rate', 'Speed', 'Memory', 'Distillation loss by scale', 'Complementary regions']) {
    assert.ok(Number(await chart(title).getAttribute('data-points')) > 0, title);
  }
  assert.match(await chart('Memory').locator('.legend-value').first().textContent(), /^\d+(\.\d+)? [MG]iB$/);
});

test('the memory of a GPU appears only if a worker reports it', async () => {
  const gpu = chart('Memory').locator('.legend li', { hasText: 'GPU' });
  assert.equal(await gpu.isVisible(), false);
  server.sql(`insert into metrics (job_id, attempt, name, step, epoch, time, value)
    select job_id, attempt, 'memory/gpu_bytes', step, epoch, time, 3 * 2 ^ 30 from metrics where job_id = '${student}' and name = 'memory/resident_bytes'`);
  await page.reload();
  await gpu.locator('.legend-value').getByText('3 GiB').waitFor();
  assert.match(await chart('Memory').getByRole('img').getAttribute('aria-label'), /process .* at epoch 4; GPU 3 GiB at epoch 4$/);
  page.assertQuiet();
});

test('the choice of the x axis applies to all charts and is remembered', async () => {
  await page.getByRole('radio', { name: 'Step' }).check();
  await page.waitForFunction(() => [...document.querySelectorAll('.chart-where')].every((where) => /^latest: step \d+$/.test(where.textContent)));
  await page.getByRole('radio', { name: 'Time' }).check();
  await page.waitForFunction(() => [...document.querySelectorAll('.chart-where')].every((where) => /^latest: time .+ · step \d+$/.test(where.textContent)));
  await page.reload();
  await page.locator('.u-over').first().waitFor();
  assert.equal(await page.getByRole('radio', { name: 'Time' }).isChecked(), true);
  await page.getByRole('radio', { name: 'Epoch' }).check();
});

test('the cross-hair is at the same x in every chart', async () => {
  await over('Train loss').hover({ position: { x: 60, y: 40 } });
  await where('Train loss').getByText(/^epoch /).waitFor();
  assert.match(await textOf('Learning rate'), /^epoch /);
  assert.equal(await textOf('Speed'), await textOf('Learning rate'));
  await page.mouse.move(2, 2);
});

test('the values at the cross-hair move nothing, at any width', async () => {
  const places = () => page.locator('.charts .save-buttons, .chart-plot').evaluateAll((all) => all.map((one) => JSON.stringify(one.getBoundingClientRect())));
  for (const width of [1440, 360, 1280]) {
    await page.setViewportSize({ width, height: 900 });
    await over('Speed').hover({ position: { x: 90, y: 40 } });
    await where('Train loss').getByText(/^epoch /).waitFor();
    const before = await places();
    await page.mouse.move(2, 2);
    await where('Train loss').getByText(/^latest: /).waitFor();
    assert.deepEqual(await places(), before, `at ${width}`);
  }
  await page.setViewportSize({ width: 1280, height: 900 });
});

test('dragging over one chart zooms all, and a double click resets the zoom', async () => {
  await over('Train loss').scrollIntoViewIfNeeded();
  const box = await over('Train loss').boundingBox();
  await page.mouse.move(box.x + box.width * 0.3, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.7, box.y + 60, { steps: 5 });
  await page.mouse.up();
  for (const title of ['Train loss', 'Learning rate', 'Complementary regions']) await zoomed(title, true);
  assert.equal(await page.getByRole('button', { name: 'Show all' }).isEnabled(), true);
  await over('Learning rate').dblclick();
  for (const title of ['Train loss', 'Learning rate']) await zoomed(title, false);
});

test('the keyboard moves the cross-hair and zooms', async () => {
  const plot = chart('Train loss').locator('.chart-plot');
  await plot.focus();
  await page.keyboard.press('Home');
  await chart('Train loss').locator('.chart-where', { hasText: /^epoch / }).waitFor();
  const first = await textOf('Train loss');
  await page.keyboard.press('ArrowRight');
  await page.waitForFunction((was) => document.querySelector('section[aria-label="Train loss"] .chart-where').textContent !== was, first);
  await page.keyboard.press('+');
  await zoomed('Speed', true);
  for (const key of ['Home', 'End']) {
    await page.keyboard.press(key);
    await where('Train loss').getByText(/^epoch /).waitFor();
    assert.equal(await over('Train loss').locator('.u-cursor-x').evaluate((line) => {
      const at = line.getBoundingClientRect().x;
      const { left, right } = line.parentElement.getBoundingClientRect();
      return left - 1 <= at && at <= right + 1;
    }), true, `${key} leaves the visible range`);
  }
  await page.keyboard.press('0');
  await zoomed('Speed', false);
  page.assertQuiet();
});

test('losses can have a logarithmic scale, accuracies cannot', async () => {
  await page.getByLabel('Log scale').check();
  await page.locator('section[aria-label="Train loss"][data-scale="log"]').waitFor();
  assert.equal(await chart('Evaluation top-1').getAttribute('data-scale'), 'linear');
  await page.getByLabel('Smoothing').fill('0.6');
  assert.equal(await page.locator('output[for="smoothing"]').textContent(), '0.60');
  await screenshot(page, 'job-smoothed-log');
  await page.getByLabel('Smoothing').fill('0');
  await page.getByLabel('Log scale').uncheck();
  page.assertQuiet();
});

test('a chart can be downloaded as points and as an image', async () => {
  const saved = (name) => downloaded(page, () => chart('Evaluation top-1').getByRole('button', { name }).click());
  const csv = await saved('CSV');
  const { series: [{ points }] } = await server.get(`/v1/jobs/${student}/metrics?name=eval/top1`);
  const lines = csv.bytes.toString().trim().split('\r\n');
  assert.deepEqual([csv.name, lines[0], lines.length], ['Evaluation-top-1.csv', 'series,step,epoch,time,value', 1 + points.length]);
  assert.equal(lines[1], `eval/top1,${points[0].step},${points[0].epoch},${new Date(points[0].time).toISOString()},${points[0].value}`);
  const png = await saved('PNG');
  assert.deepEqual([png.name, png.bytes.subarray(1, 4).toString()], ['Evaluation-top-1.png', 'PNG']);
});

test('the gain is measured against the same student trained by a simpler method', { timeout: PATIENCE }, async () => {
  assert.equal(await tile('Gain').textContent(), '–');
  const spec = { name: 'plain', student: { architecture: 'resnet8' }, dataset, distillation: { method: 'none' }, training: training(4) };
  const { id } = await server.post('/v1/jobs', spec);
  await server.succeeded(id);
  await page.reload();
  const { data: [{ gain, baseline }] } = await server.get(`/v1/summaries?id=${student}`);
  assert.equal(baseline.method, 'none');
  const sign = gain < 0 ? '−' : gain > 0 ? '\\+' : '';
  await tile('Gain').getByText(new RegExp(`^${sign}${Math.abs(gain).toFixed(2)}$`)).waitFor();
  await page.locator('.progress-card .tiles > div', { hasText: 'Gain' }).getByText(`over none, ${baseline.top1.toFixed(2)} %`).waitFor();
});

test('each attempt is a timeline with its checkpoints', async () => {
  const row = page.locator('.attempts tbody tr');
  await row.first().waitFor();
  assert.equal(await row.count(), 1);
  assert.match(await row.textContent(), /the start.*succeeded/);
  await row.locator('.key-mark').first().waitFor({ state: 'attached' });
});

test('an answer about attempts is ignored once a newer one has arrived', async () => {
  const other = await openPage(browser);
  let asked = 0;
  let overtake;
  const newer = new Promise((resolve) => { overtake = resolve; });
  const older = new Promise((resolve) => {
    other.route('**/attempts', async (route) => {
      asked += 1;
      if (asked > 1) {
        await route.continue();
        return;
      }
      await newer;
      // The page may have aborted the request.
      await route.fulfill({ json: { data: [] } }).catch(() => {});
      resolve();
    });
  });
  other.on('response', (answer) => { if (answer.url().endsWith('/attempts')) overtake(answer.finished()); });
  await other.goto(`${server.url}/#/jobs/${student}`);
  await older;
  await drawn(other);
  assert.equal(await other.locator('.attempts tbody tr').count(), 1);
  other.assertQuiet();
  await other.context().close();
});

test('the events can be searched', async () => {
  const rows = page.locator('.log li');
  const all = await rows.count();
  await page.getByLabel('Search the events').fill('CHECKPOINT');
  await page.locator('.found', { hasText: `of ${all}` }).waitFor();
  const shown = await page.locator('.log li:not([hidden])').allTextContents();
  assert.ok(shown.length > 0 && shown.length < all);
  for (const text of shown) assert.match(text, /checkpoint/);
  assert.equal((await page.locator('.log mark').first().textContent()).toLowerCase(), 'checkpoint');
  await page.getByLabel('Search the events').fill('');
  assert.equal(await page.locator('.log li:not([hidden])').count(), all);
});

test('the specification is shown as sent and as resolved, with differences from the recipe marked', async () => {
  await page.getByText('Specification', { exact: true }).click();
  const differences = page.getByRole('region', { name: 'Differences from the published recipe' });
  await differences.waitFor();
  const pointers = await differences.locator('tbody th').allTextContents();
  for (const pointer of ['/distillation/temperature', '/distillation/scales', '/training/epochs', '/training/batch_size', '/training/augmentation']) assert.ok(pointers.includes(pointer), `${pointer} in ${pointers}`);
  assert.ok(!pointers.includes('/training/seed') && !pointers.includes('/distillation/grouping'), String(pointers));
  const marks = await page.getByLabel('Specification', { exact: true }).locator('mark').allTextContents();
  assert.ok(marks.includes('"temperature": 3'), String(marks));
  const sent = JSON.parse(await page.getByLabel('As sent', { exact: true }).locator('pre').textContent());
  assert.deepEqual(sent, await server.get(`/v1/jobs/${student}/submitted`));
  page.assertQuiet();
});

test('the command lines fit the job’s status', async () => {
  await page.locator('summary', { hasText: 'curl' }).click();
  const lines = await page.locator('.popover-body code').allTextContents();
  assert.deepEqual(lines, [`curl ${server.url}/v1/jobs/${student}`, `curl -X DELETE ${server.url}/v1/jobs/${student}`]);
  await page.keyboard.press('Escape');
  await page.locator('.popover-body').waitFor({ state: 'hidden' });
});

test('every file is listed with its size and hash', async () => {
  const { data } = await server.get(`/v1/jobs/${student}/artifacts`);
  const rows = page.locator('.files tbody tr');
  assert.deepEqual(await rows.locator('th a').allTextContents(), data.map(({ name }) => name));
  assert.deepEqual(await rows.locator('code').evaluateAll((codes) => codes.map((code) => code.title)), data.map(({ sha256 }) => sha256));
});

test('other formats are offered, and a report tells how one was checked', async () => {
  const rows = page.locator('.exports tbody tr');
  const formats = (await rows.locator('th a').evaluateAll((links) => links.map((link) => new URL(link.href).searchParams.get('format'))));
  assert.deepEqual(formats, ['onnx', 'int8', 'bundle'], 'only uploaded networks have a .pt2');
  await page.getByRole('button', { name: 'Show report on ONNX', exact: true }).click();
  const said = rows.first().locator('td').first();
  await said.getByText(/Not checked|ran it on/).waitFor();
  const report = await server.get(`/v1/jobs/${student}/artifacts/export-onnx.json`);
  assert.match(await said.textContent(), report.parity ? /ran it on \d+ images/ : /Not checked: \S/);
  page.assertQuiet();
});

/** Runs Python with a stub of torch that only knows names and shapes. */
function python(code) {
  const PYTHONPATH = fileURLToPath(new URL('torch-stub', import.meta.url));
  return execFileSync('python3', ['-c', code], { cwd: directory, encoding: 'utf8', stdio: 'pipe', env: { ...process.env, PYTHONPATH } }).trim();
}

test('the page’s Python loads the student, with all keys and shapes', async () => {
  const code = await page.getByLabel('Python').textContent();
  const file = /load\("([^"]+)"/.exec(code)[1];
  const answer = await fetch(`${server.url}/v1/jobs/${student}/student`);
  assert.match(answer.headers.get('content-disposition'), new RegExp(file.replaceAll('.', '\\.')), 'curl must store the file under this name');
  writeFileSync(join(directory, file), Buffer.from(await answer.arrayBuffer()));
  assert.equal(python(code), '(1, 10)');
  // The check can fail: a network of another depth does not fit.
  assert.throws(() => python(code.replace('(depth - 2) // 6', '2')), /does not fit/);
});

test('there is such Python for every architecture of the server', async () => {
  const text = async (name) => (await fetch(`${server.url}/snippets/${name}`)).text();
  const fixture = JSON.parse(readFileSync(new URL('../fixtures/architectures.json', import.meta.url)));
  const load = await text('load.py');
  const { data } = await server.get('/v1/architectures');
  assert.equal(data.length, Object.keys(fixture).length);
  for (const { name, family } of data) {
    const { classes, state_dict: shapes } = fixture[name];
    const counters = Object.keys(shapes).filter((key) => key.endsWith('running_var')).map((key) => [key.replace('running_var', 'num_batches_tracked'), { shape: [] }]);
    const metadata = { architecture: name, num_classes: String(classes), image_size: '32', mean: '[0, 0, 0]', std: '[1, 1, 1]' };
    const tensors = Object.entries(shapes).map(([key, shape]) => [key, { shape }]);
    const header = Buffer.from(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries([...tensors, ...counters]) }));
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(header.length));
    writeFileSync(join(directory, 'any.safetensors'), Buffer.concat([size, header]));
    assert.equal(python(program(await text(`${family}.py`), load, 'any.safetensors')), `(1, ${classes})`, name);
  }
});

test('a job says that it is waiting for its teacher', { timeout: PATIENCE }, async () => {
  const long = { student: { architecture: 'resnet8' }, dataset, distillation: { method: 'none' }, training: training(5000) };
  const { id: teaches } = await server.post('/v1/jobs', long);
  const { id } = await server.post('/v1/jobs', { ...long, teacher: { job: teaches }, distillation: { method: 'kd' } });
  await page.goto(`${server.url}/#/jobs/${id}`);
  await page.locator('.progress-line').getByText(/it waits for the job of its teacher, .*, which is /).waitFor();
  await server.post(`/v1/jobs/${teaches}/cancel`);
  await status('failed').waitFor({ timeout: PATIENCE });
  await page.getByRole('alert').getByText(/was cancelled: there is no student of it to learn from/).waitFor();
  page.assertQuiet();
});

test('after a kill the job resumes from its checkpoint, and the timeline shows the lost work', { timeout: 2 * PATIENCE }, async () => {
  const spec = { name: 'survives', student: { architecture: 'resnet8' }, dataset, distillation: { method: 'none' }, training: training(5000) };
  const { id } = await server.post('/v1/jobs', spec);
  const other = await openPage(browser);
  other.expected.push(/net::ERR_/);
  await other.goto(`${server.url}/#/jobs/${id}`);
  await other.locator('.attempts .key-mark').nth(1).waitFor({ timeout: PATIENCE });
  await server.kill();
  await other.getByText('Connection lost – retrying.').waitFor();
  await server.start();
  const rows = other.locator('.attempts tbody tr');
  await other.locator('.attempts tbody tr[data-outcome="worker_lost"]').waitFor({ timeout: PATIENCE });
  await rows.nth(1).getByText(/^epoch \d+, step [\d,]+$/).waitFor({ timeout: PATIENCE });
  assert.match(await rows.first().textContent(), /the start.*worker lost/);
  // Lost work is what was done between the last checkpoint and the last heartbeat.
  const [killed] = (await (await fetch(`${server.url}/v1/jobs/${id}/attempts`)).json()).data;
  const isKnownLost = Date.parse(killed.heard_at) > Date.parse(killed.saved_at ?? killed.started_at);
  assert.equal(await rows.first().locator('.key[data-key="lost"]').count(), isKnownLost ? 1 : 0);
  // The time until the lease expired is no lost work.
  const silence = rows.first().locator('.key[data-key="silent"]');
  assert.match(await silence.getAttribute('title'), /^no heartbeat: /);
  const widths = await rows.first().locator('.key').evaluateAll((all) => all.map((one) => [one.dataset.key, one.getBoundingClientRect().width]));
  assert.ok(Object.fromEntries(widths).silent > 0, JSON.stringify(widths));
  await screenshot(other, 'job-resumed');
  other.assertQuiet();
  await other.context().close();
  await fetch(`${server.url}/v1/jobs/${id}/cancel`, { method: 'POST' });
});

test('why the latency is not measured stays after the metrics are saved', { timeout: PATIENCE }, async () => {
  const other = await openPage(browser);
  await other.route(new RegExp(`/v1/jobs/${student}$`), async (route) => {
    const { student_latency: _, ...job } = await (await route.fetch()).json();
    await route.fulfill({ json: { ...job, latency_not_measured: 'no ONNX Runtime' } });
  });
  await other.goto(`${server.url}/#/jobs/${student}`);
  const reason = other.locator('.result .downloads').getByText('The latency is not measured: no ONNX Runtime');
  await reason.waitFor();
  await downloaded(other, () => other.getByRole('button', { name: 'Metrics (CSV)' }).click());
  await drawn(other);
  assert.equal(await reason.count(), 1);
  other.assertQuiet();
  await other.context().close();
});

test('the page is accessible and fits on every screen', { timeout: PATIENCE }, async () => {
  await onEveryScreen(browser, async (other, { name }) => {
    await other.goto(`${server.url}/#/jobs/${student}`);
    await other.locator('.files tbody tr').first().waitFor();
    await other.locator('.spec summary').click();
    await other.locator('.recipe table').waitFor();
    await assertAccessible(other);
    await screenshot(other, `job-page-${name}`);
    await assertFits(other);
    const clipped = await other.locator('.region-report .table-scroll').evaluate((table) => table.scrollWidth - table.clientWidth);
    assert.ok(clipped <= 0, `${clipped} px of the table of regions are out of sight on ${name}`);
  });
});
