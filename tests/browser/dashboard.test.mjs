// The dashboard from the first job on: the real server trains real jobs, and a browser watches.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';

import { FILE, declarations } from '../../scripts/api-types.mjs';
import { PYTHON_FILE, typedDicts } from '../../scripts/python-types.mjs';
import { UNREACHABLE, assertFits, closeDashboard, downloaded, onEveryScreen, openDashboard, refused, screenshot, shownJob, statusBadge } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const HOSTILE = '<img src=x onerror=alert(1)>';

const server = new Server();
let browser;
let page;
/** Ids of jobs that the tests create. */
let teacher;
let student;

before(async () => {
  ({ browser, page } = await openDashboard(server));
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const go = (path) => page.goto(`${server.url}/#${path}`);
/** Opens the page for a new job in its JSON view. */
async function goToJson() {
  await go('/new');
  await page.getByRole('radio', { name: 'JSON' }).check();
  await editor().waitFor();
}
const editor = () => page.locator('#spec');
const button = (name) => page.getByRole('button', { name, exact: true });
const status = (name) => statusBadge(page, name);
const saved = (act) => downloaded(page, act);
const pointsOf = (title) => page.getByRole('region', { name: title, exact: true }).getAttribute('data-points').then(Number);

async function edit(change) {
  const spec = JSON.parse(await editor().inputValue());
  change(spec);
  await editor().fill(JSON.stringify(spec, null, 2));
}

async function submit() {
  await button('Submit').click();
  await page.waitForURL(/#\/jobs\/job_/);
  return shownJob(page);
}

/** Makes a job small enough for a test and, with enough epochs, slow enough to watch. */
function brief(spec, epochs) {
  spec.student = { architecture: 'resnet8' };
  spec.dataset = { name: 'digits', limit: 320 };
  spec.training = { epochs, batch_size: 32, seed: 1, augmentation: 'none' };
}

test('the recorded types are those of the API', async () => {
  const document = await server.get('/openapi.json');
  for (const [file, types] of [[FILE, declarations(document)], [PYTHON_FILE, typedDicts(document)]]) {
    assert.equal(readFileSync(file, 'utf8'), types, `${file} is out of date: run node scripts/api-types.mjs`);
  }
});

test('an empty list says how to begin', async () => {
  await go('/');
  await page.getByText('No jobs yet.').waitFor();
  await page.locator('#connection[data-state="live"]').waitFor();
  page.assertQuiet();
});

test('faults appear at their lines', async () => {
  page.expected.push(refused(409, 422));
  await goToJson();
  await edit((spec) => {
    spec.teacher = { job: 'job_00000000000000000000000000' };
    spec.distillation.scales = [1, 4, 2];
    spec.student.architecture = 'resnet99';
    spec.training.epoch = 3;
  });
  const faults = page.locator('.editor .fault');
  await faults.first().waitFor();
  const shown = await faults.locator('code').allTextContents();
  for (const pointer of ['/student/architecture', '/distillation/scales/2', '/training/epoch']) assert.ok(shown.includes(pointer), `${pointer} in ${shown}`);
  const lines = (await editor().inputValue()).split('\n');
  const lineOf = (text) => lines.findIndex((line) => line.includes(text)) + 1;
  const marked = await page.locator('.gutter .faulty').allTextContents();
  assert.ok(marked.includes(String(lineOf('resnet99'))), `line of resnet99 in ${marked}`);
  assert.ok(marked.includes(String(lineOf('"epoch"'))), `line of epoch in ${marked}`);
  await faults.filter({ hasText: '/training/epoch' }).click();
  assert.match(await editor().evaluate((area) => area.value.slice(area.selectionStart, area.selectionEnd)), /^"epoch": 3$/);
  await screenshot(page, 'faults');
  page.assertQuiet();
});

test('a syntax error is shown with line and column while typing', async () => {
  await editor().fill('{\n  "name": "a",\n}');
  await page.locator('.editor .fault', { hasText: 'line 2, column 14' }).waitFor();
  assert.equal(await editor().getAttribute('aria-invalid'), 'true');
  page.assertQuiet();
});

test('an upload that is not a checkpoint is rejected with the reason', async () => {
  await page.setInputFiles('#teacher-file', { name: 'notes.pth', mimeType: 'application/octet-stream', buffer: Buffer.from('this is not a checkpoint') });
  await button('Upload').click();
  await page.locator('.upload-message .error-text').waitFor();
  page.assertQuiet();
});

test('a submitted job trains live, and its name is shown as text', { timeout: PATIENCE }, async () => {
  await goToJson();
  // The page asks before it replaces what the user wrote.
  await editor().fill('{"name": "mine"}');
  await page.getByLabel('Start from').selectOption('none');
  await page.getByRole('dialog').getByRole('button', { name: 'Replace' }).click();
  await edit((spec) => {
    brief(spec, 6);
    spec.name = HOSTILE;
  });
  await page.getByText('This job can run', { exact: true }).waitFor();
  teacher = await submit();
  assert.equal(await page.locator('h1').textContent(), HOSTILE);
  assert.equal(await page.locator('main img').count(), 0);

  await status('running').waitFor({ timeout: PATIENCE });
  const latency = page.locator('.result .facts > div').filter({ hasText: 'Latency' });
  assert.equal((await latency.textContent()).trim(), 'Latency–', 'what is not measured yet has no figures');
  await page.waitForFunction(() => /^[1-9]\d? % /.test(document.title), null, { timeout: PATIENCE });
  const early = await pointsOf('Train loss');
  await status('succeeded').waitFor({ timeout: PATIENCE });
  await page.locator('#connection[data-state="ended"]').waitFor();
  assert.ok(await pointsOf('Train loss') > early, 'points must arrive while the page is open');
  assert.equal(await pointsOf('Evaluation top-1'), 6);
  page.assertQuiet();
});

test('a student can teach the next job, all of whose charts have points', { timeout: PATIENCE }, async () => {
  await page.getByRole('link', { name: 'Use as teacher' }).click();
  await editor().waitFor();
  await edit((spec) => {
    assert.equal(spec.teacher.job, teacher);
    brief(spec, 3);
  });
  student = await submit();
  await status('succeeded').waitFor({ timeout: PATIENCE });
  await page.locator('#connection[data-state="ended"]').waitFor();
  const titles = ['Evaluation top-1', 'Train loss', 'Parts of the train loss', 'Distillation loss by scale', 'Complementary regions', 'Learning rate'];
  for (const title of titles) assert.ok(await pointsOf(title) > 0, title);
  const { result } = await server.get(`/v1/jobs/${student}`);
  await page.getByRole('img', { name: `teacher ${result.teacher_top1.toFixed(2)} %` }).waitFor();
  assert.equal(await page.locator('.legend').filter({ hasText: 'teacher' }).locator('.legend-value').last().textContent(), `${result.teacher_top1.toFixed(2)} %`);
  // No point or event was lost or shown twice.
  const { series } = await server.get(`/v1/jobs/${student}/metrics?name=train/loss`);
  assert.equal(await pointsOf('Train loss'), series[0].points.length);
  const { data } = await server.get(`/v1/jobs/${student}/events?limit=1000`);
  assert.equal(await page.locator('.log li').count(), data.length);
  page.assertQuiet();
});

test('the regions show where the teacher disagrees with itself, and in favour of what', async () => {
  const report = await server.get(`/v1/jobs/${student}/artifacts/regions.json`);
  const panel = page.getByRole('region', { name: 'Regions' });
  await panel.getByText(`contradicts its own prediction in ${(report.complementary_fraction * 100).toFixed(1)} % of all regions.`).waitFor();
  const maps = report.scales.filter(({ scale }) => scale > 1);
  assert.deepEqual(await panel.locator('.region-map').evaluateAll((grids) => grids.map((grid) => grid.children.length)), maps.map(({ scale }) => scale ** 2));
  const first = await panel.locator('.region').first().getAttribute('title');
  assert.equal(first, `row 1, column 1: ${(maps[0].map[0][0] * 100).toFixed(1)} %`);
  const rows = await panel.locator('tbody tr').allTextContents();
  assert.equal(rows.length, Math.min(report.votes.length, 8));
  assert.ok(rows[0].includes(report.votes[0].vote_name ?? `class ${report.votes[0].vote}`), rows[0]);
  page.assertQuiet();
});

test('the legend shows the values at the cross-hair', async () => {
  const chart = page.getByRole('region', { name: 'Train loss', exact: true });
  assert.match(await chart.locator('.chart-where').textContent(), /^latest: /);
  await chart.locator('.u-over').hover({ position: { x: 40, y: 40 } });
  await chart.locator('.chart-where').getByText(/^epoch /).waitFor();
  assert.match(await chart.locator('.legend-value').textContent(), /^\d/);
  page.assertQuiet();
});

test('the downloaded student is the one that the page describes', async () => {
  const { result } = await server.get(`/v1/jobs/${student}`);
  const hash = await page.locator('.hash code').textContent();
  assert.equal(hash, result.student.sha256);
  const file = await saved(() => page.getByRole('link', { name: 'Download student (best)' }).click());
  assert.match(file.name, /\.safetensors$/);
  assert.equal(file.bytes.length, result.student.size_bytes);
  assert.equal(createHash('sha256').update(file.bytes).digest('hex'), hash);
  const last = await saved(() => page.getByRole('link', { name: 'Student (last)' }).click());
  assert.notEqual(last.name, file.name);
  const manifest = await saved(() => page.getByRole('link', { name: 'Manifest', exact: true }).click());
  assert.equal(typeof JSON.parse(manifest.bytes.toString()), 'object');
  const csv = await saved(() => button('Metrics (CSV)').click());
  assert.match(csv.bytes.toString(), /^name,step,epoch,time,value\r?\n/);
  const events = await saved(() => page.getByRole('link', { name: 'TensorBoard' }).click());
  assert.match(events.name, new RegExp(`^events\\.out\\.tfevents\\.\\d{10}\\.${student}$`));
  assert.ok(events.bytes.includes('eval/top1'));
  assert.match(await page.locator('.result .curl code').textContent(), new RegExp(`^curl -OJ ${server.url}/v1/jobs/${student}/student$`));
  page.assertQuiet();
});

test('an uploaded checkpoint is recognised and can be the teacher', { timeout: PATIENCE }, async () => {
  const answer = await fetch(`${server.url}/v1/jobs/${teacher}/student`);
  const buffer = Buffer.from(await answer.arrayBuffer());
  await goToJson();
  await page.setInputFiles('#teacher-file', { name: 'teacher.safetensors', mimeType: 'application/octet-stream', buffer });
  await button('Upload').click();
  await page.locator('.upload-message').getByText('It fits resnet8 (10 classes).').waitFor();
  await page.locator('.upload-message').getByRole('button', { name: 'Use as teacher' }).click();
  const { data: [checkpoint] } = await server.get('/v1/checkpoints');
  assert.equal(checkpoint.sha256, createHash('sha256').update(buffer).digest('hex'));
  await edit((spec) => {
    assert.deepEqual(spec.teacher, { architecture: 'resnet8', checkpoint: checkpoint.id });
    brief(spec, 1);
  });
  const id = await submit();
  await status('succeeded').waitFor({ timeout: PATIENCE });
  // These are the weights and images of the job that named its teacher's job.
  const [uploaded, chained] = await Promise.all([id, student].map((job) => server.get(`/v1/jobs/${job}`)));
  assert.equal(uploaded.result.teacher_top1, chained.result.teacher_top1);
  await server.remove(`/v1/jobs/${id}`);
  await go(`/jobs/${student}`);
  await status('succeeded').waitFor();
  page.assertQuiet();
});

test('the specification shows all defaults', async () => {
  await page.getByText('Specification', { exact: true }).click();
  const spec = JSON.parse(await page.getByLabel('Specification', { exact: true }).textContent());
  assert.deepEqual(spec, (await server.get(`/v1/jobs/${student}`)).spec);
});

test('the list stays up to date without reloading the document', { timeout: PATIENCE }, async () => {
  await go('/');
  await page.getByRole('link', { name: HOSTILE }).waitFor();
  await page.locator('#connection[data-state="live"]').waitFor();
  await page.evaluate(() => { window.sameDocument = true; });
  const spec = { name: 'long', distillation: { method: 'none' } };
  brief(spec, 5000);
  const { id } = await server.post('/v1/jobs', spec);
  const row = page.locator(`tr[data-id="${id}"]`);
  await row.locator('.badge[data-status="running"]').waitFor({ timeout: PATIENCE });
  await row.locator('.rest[title*="images/s"]').waitFor({ timeout: PATIENCE });
  assert.match(await page.title(), /^1 running/);
  assert.equal(await page.locator('tbody tr').first().getAttribute('data-id'), id, 'the newest job must come first');
  await page.getByRole('link', { name: /^Succeeded/ }).click();
  await page.locator('.jobs tbody tr').nth(2).waitFor({ state: 'detached' });
  assert.equal(await page.locator('.jobs tbody tr').count(), 2);
  assert.equal(await page.evaluate(() => window.sameDocument), true);
  page.assertQuiet();
});

test('a worker is listed with its job', async () => {
  await go('/workers');
  await page.getByRole('row').nth(1).getByRole('link', { name: 'long' }).waitFor();
  page.assertQuiet();
});

test('a running job can be cancelled from its page, which asks first', { timeout: PATIENCE }, async () => {
  await go('/?status=running');
  await page.getByRole('link', { name: 'long' }).click();
  await button('Cancel').click();
  await page.getByRole('dialog').getByRole('button', { name: 'Let it run' }).click();
  await status('running').waitFor();
  await button('Cancel').click();
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel the job' }).click();
  await status('cancelled').waitFor({ timeout: PATIENCE });
  await button('Retry').waitFor();
  page.assertQuiet();
});

test('a job can be retried, paused, resumed, cancelled and deleted from its page', { timeout: PATIENCE }, async () => {
  const training = page.locator('.progress-line .live-figure', { hasText: 'left' });
  await button('Retry').click();
  await training.waitFor({ timeout: PATIENCE });
  await button('Pause').click();
  await status('paused').waitFor({ timeout: PATIENCE });
  const id = shownJob(page);
  const paused = (await server.get(`/v1/jobs/${id}`)).progress.step;
  await button('Resume').click();
  await training.waitFor({ timeout: PATIENCE });
  assert.ok((await server.get(`/v1/jobs/${id}`)).progress.step >= paused, 'it must resume where it was paused');
  await button('Cancel').click();
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel the job' }).click();
  await status('cancelled').waitFor({ timeout: PATIENCE });
  await button('Delete').click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete the job' }).click();
  await page.waitForURL(/#\/\?status=running$/);
  await page.getByText('No job has this status.').waitFor();
  assert.equal((await fetch(`${server.url}/v1/jobs/${id}`)).status, 404);
  page.assertQuiet();
});

test('every page fits on every screen, with the header in one place', async () => {
  await onEveryScreen(browser, async (other, screen) => {
    const headers = new Set();
    for (const [name, path] of [['jobs', '/'], ['job', `/jobs/${student}`], ['new', '/new'], ['workers', '/workers']]) {
      await other.goto(`${server.url}/#${path}`);
      await other.locator(name === 'job' ? '.u-over >> nth=0' : name === 'new' ? '.verdict-line' : 'tbody tr >> nth=0').waitFor();
      await assertFits(other);
      headers.add(await other.evaluate(() => [...document.querySelectorAll('.brand, .bar nav a')].map((link) => Math.round(link.getBoundingClientRect().left)).join()));
      await screenshot(other, `${name}-${screen.name}`);
    }
    assert.equal(headers.size, 1, `the header moves between pages on ${screen.name}: ${[...headers].join(' and ')}`);
  });
});

test('a lost connection is shown, live figures disappear, and the page recovers', { timeout: PATIENCE }, async () => {
  const spec = { name: 'outlives the server', distillation: { method: 'none' } };
  brief(spec, 5000);
  const { id } = await server.post('/v1/jobs', spec);
  await go(`/jobs/${id}`);
  await page.locator('.progress-line .live-figure', { hasText: 'left' }).waitFor({ timeout: PATIENCE });
  page.expected.push(UNREACHABLE);
  await server.kill();
  await page.getByText('Connection lost – retrying.').waitFor();
  await page.locator('#connection', { hasText: 'connection lost' }).waitFor();
  assert.match(await page.title(), /^offline · /);
  assert.equal(await page.locator('.progress-line .live-figure').isVisible(), false, 'the page must not claim a speed');
  await screenshot(page, 'lost');
  await server.start();
  await page.locator('#lost').waitFor({ state: 'hidden', timeout: PATIENCE });
  await page.locator('#connection[data-state="live"]').waitFor();
  const seqs = await server.get(`/v1/jobs/${id}/events?limit=1000`);
  await page.locator('.log li').nth(seqs.data.length - 1).waitFor();
  page.assertQuiet();
});
