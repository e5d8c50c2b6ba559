// Takes docs/screenshots/*.webp: the real server trains on the digits, survives being killed, and a browser looks on.
// `make screenshots` builds first and names ONNX Runtime, which measures latencies; `node scripts/screenshots.mjs` takes
// target/debug/distillery or $DISTILLERY_BIN, and $DISTILLERY_ONNXRUNTIME.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { drawn, launchBrowser, openPage } from '../tests/browser/support/page.mjs';
import { PATIENCE, Server } from '../tests/browser/support/server.mjs';

const DIRECTORY = fileURLToPath(new URL('../docs/screenshots/', import.meta.url));
const SWEEP = fileURLToPath(new URL('../examples/digits/sweep.json', import.meta.url));
/** A picture in a document should not weigh more than the page that it shows. */
const MOST_BYTES = 150_000;
const DESK = { width: 1280, height: 1500 };
const PHONE = { width: 390, height: 1300 };
const EPOCHS = 15;
/** A worker at work, with all that it tells. */
const BUSY = '.workers tbody tr:has(.gauge:not([hidden])):has(.worker-job a:not([hidden]))';

const server = new Server();

function job(name, student, distillation, epochs, more = {}) {
  return {
    name, student: { architecture: student }, dataset: { name: 'digits' }, distillation,
    training: { epochs, batch_size: 32, seed: 1, augmentation: 'none', schedule: { type: 'cosine' } }, ...more,
  };
}

/** The sweep of docs/sweeps.md, to its end. */
async function sweepOf(teacher) {
  const { id } = await server.post('/v1/sweeps', JSON.parse(readFileSync(SWEEP, 'utf8').replace('$TEACHER', teacher)));
  let sweep = await server.get(`/v1/sweeps/${id}`);
  for (; sweep.status === 'running'; sweep = await server.get(`/v1/sweeps/${id}`)) await wait(2000);
  assert.equal(sweep.status, 'finished');
  return id;
}

/** Waits until the server has measured the students of jobs that have succeeded, or fails if it cannot. */
async function measured(jobs) {
  const end = Date.now() + PATIENCE;
  for (const id of jobs) {
    let job = await server.get(`/v1/jobs/${id}`);
    for (; !job.student_latency; job = await server.get(`/v1/jobs/${id}`)) {
      assert.ok(!job.latency_not_measured, `the pictures need latencies; run make screenshots: ${job.latency_not_measured}`);
      assert.ok(Date.now() < end, `the student of ${id} has not been measured in ${PATIENCE / 1000} s`);
      await wait(1000);
    }
    assert.ok(job.student_latency.latency, `the student of ${id} cannot be measured: ${job.student_latency.failure}`);
  }
}

/** The jobs of a sweep that have succeeded. */
async function studentsOf(sweep) {
  const { results } = await server.get(`/v1/sweeps/${sweep}`);
  return results.flatMap(({ jobs }) => jobs).filter(({ status }) => status === 'succeeded').map(({ id }) => id);
}

/** A teacher, a sweep, one student by three methods, and a job that runs on. The SDD student's server is killed on the way. */
async function train() {
  const teacher = (await server.post('/v1/jobs', job('resnet20 on the digits', 'resnet20', { method: 'none' }, 6))).id;
  const sweep = await sweepOf(teacher);
  const taught = { teacher: { job: teacher }, labels: { pair: 'resnet20-resnet8' } };
  const sdd = (await server.post('/v1/jobs', job('resnet8 by SD-KD', 'resnet8', { method: 'sdd_kd', scales: [1, 2, 4] }, EPOCHS, taught))).id;
  const kd = (await server.post('/v1/jobs', job('resnet8 by KD', 'resnet8', { method: 'kd' }, EPOCHS, taught))).id;
  const alone = (await server.post('/v1/jobs', job('resnet8 alone', 'resnet8', { method: 'none' }, EPOCHS, { labels: taught.labels }))).id;
  const live = (await server.post('/v1/jobs', job('resnet14 by SD-KD', 'resnet14', { method: 'sdd_kd', scales: [1, 2, 4] }, 100, taught))).id;
  await server.until(sdd, ({ progress }) => progress?.epoch > EPOCHS / 3);
  await server.kill();
  await server.start();
  await server.succeeded(alone);
  await server.until(live, ({ progress }) => progress?.epoch > 8);
  await measured([sdd, kd, alone, ...await studentsOf(sweep)]);
  return { sdd, kd, alone, live, sweep };
}

/** One picture, as small as WebP makes it. */
async function take(browser, { name, path, colorScheme = 'light', viewport = DESK, ready, prepare }) {
  const page = await openPage(browser, { colorScheme, viewport, deviceScaleFactor: viewport === PHONE ? 1.5 : 1 });
  await page.goto(`${server.url}/#${path}`);
  await page.locator(ready).first().waitFor();
  await prepare?.(page);
  await drawn(page);
  const { data } = await (await page.context().newCDPSession(page)).send('Page.captureScreenshot', { format: 'webp', quality: 80 });
  const bytes = Buffer.from(data, 'base64');
  assert.ok(bytes.length < MOST_BYTES, `${name} has ${bytes.length} bytes`);
  writeFileSync(join(DIRECTORY, `${name}.webp`), bytes);
  page.assertQuiet();
  await page.context().close();
  console.log(`docs/screenshots/${name}.webp ${(bytes.length / 1000).toFixed(0)} kB`);
}

const to = (selector) => async (page) => {
  await page.locator('.files tbody tr').first().waitFor();
  await page.locator(selector).evaluate((element) => element.scrollIntoView({ block: 'start' }));
};

/** Until the server has read all images. */
async function decoded(page) {
  await page.getByText('Width×height in pixels').waitFor();
}

async function specification(page) {
  await page.locator('.spec summary').click();
  await page.locator('.recipe table').waitFor();
  await page.locator('.spec').evaluate((element) => element.scrollIntoView({ block: 'start' }));
}

function pictures({ sdd, kd, alone, live, sweep }) {
  const plot = '.u-over';
  const compare = `/compare?${[sdd, kd, alone].map((id) => `job=${id}`).join('&')}`;
  return [
    { name: 'jobs-light', path: '/', ready: 'tbody tr', viewport: { width: 1280, height: 620 } },
    { name: 'job-light', path: `/jobs/${live}`, ready: plot },
    { name: 'job-dark', path: `/jobs/${sdd}`, ready: plot, colorScheme: 'dark' },
    { name: 'job-phone', path: `/jobs/${sdd}`, ready: plot, viewport: PHONE },
    { name: 'regions-light', path: `/jobs/${sdd}`, ready: plot, prepare: to('section.regions'), viewport: { width: 1280, height: 1100 } },
    { name: 'mistakes-light', path: `/jobs/${sdd}/mistakes`, ready: '.predictions li', viewport: { width: 1280, height: 1600 } },
    { name: 'specification-dark', path: `/jobs/${sdd}`, ready: plot, prepare: specification, colorScheme: 'dark', viewport: { width: 1280, height: 1000 } },
    { name: 'jobs-dark', path: '/', ready: 'tbody tr', viewport: { width: 1280, height: 620 }, colorScheme: 'dark' },
    { name: 'jobs-phone', path: '/', ready: 'tbody tr', viewport: PHONE },
    { name: 'compare-light', path: compare, ready: '.scatter circle', viewport: { width: 1280, height: 1200 } },
    { name: 'compare-dark', path: compare, ready: '.scatter circle', viewport: { width: 1280, height: 1200 }, colorScheme: 'dark' },
    { name: 'compare-phone', path: compare, ready: '.scatter circle', viewport: PHONE },
    { name: 'sweep-light', path: `/sweeps/${sweep}`, ready: '.charts .u-over', viewport: { width: 1280, height: 1500 } },
    { name: 'data-light', path: '/data/digits', ready: '.pictures img', prepare: decoded, viewport: { width: 1280, height: 1100 } },
    { name: 'workers-light', path: '/workers', ready: BUSY, viewport: { width: 1280, height: 560 } },
    { name: 'workers-dark', path: '/workers', ready: BUSY, viewport: { width: 1280, height: 560 }, colorScheme: 'dark' },
    { name: 'workers-phone', path: '/workers', ready: BUSY, viewport: PHONE },
    { name: 'attempts-light', path: `/jobs/${sdd}`, ready: plot, prepare: to('section[aria-labelledby="attempts-title"]'), viewport: { width: 1280, height: 480 } },
    { name: 'new-light', path: `/new?from=${sdd}`, ready: '.verdict[data-state="fine"]' },
    { name: 'new-dark', path: `/new?from=${sdd}`, ready: '.verdict[data-state="fine"]', colorScheme: 'dark' },
    { name: 'new-phone', path: `/new?from=${sdd}`, ready: '.verdict[data-state="fine"]', viewport: PHONE },
  ];
}

mkdirSync(DIRECTORY, { recursive: true });
const [browser] = await Promise.all([launchBrowser(), server.start()]);
try {
  for (const picture of pictures(await train())) await take(browser, picture);
} finally {
  await browser.close();
  await server.stop();
}
