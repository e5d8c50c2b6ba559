// What the server passed over, guessed or measured is said where the user chooses.

import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { duration } from '../../static/js/ui/format.js';
import { smallJob } from './support/jobs.mjs';
import { assertAccessible, assertFits, closeDashboard, onEveryScreen, openDashboard, openPage, refused, screenshot } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const IMAGE = fileURLToPath(new URL('../fixtures/images/grey.jpg', import.meta.url));
/** A directory that is no data set, with a name that must not become markup. */
const EMPTY = '<i>empty';

/**
 * A resnet8 for the digits as safetensors, without training: under each of these prefixes, which its own keys
 * do not have.
 * @param {string[]} prefixes
 */
function prefixed(...prefixes) {
  const { resnet8: { state_dict: shapes } } = JSON.parse(readFileSync(new URL('../fixtures/architectures.json', import.meta.url)));
  const header = {};
  let end = 0;
  for (const prefix of prefixes) {
    for (const [key, shape] of Object.entries({ ...shapes, 'fc.weight': [10, 64], 'fc.bias': [10] })) {
      const begin = end;
      end += 4 * shape.reduce((product, size) => product * size, 1);
      header[`${prefix}${key}`] = { dtype: 'F32', shape, data_offsets: [begin, end] };
    }
  }
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([size, text, Buffer.alloc(end)]);
}

const server = new Server();
let browser;
let page;

before(async () => {
  // Two classes in no split, and an image in no class.
  for (const directory of ['cats', 'dogs', '.']) {
    mkdirSync(join(server.datasetsDir, 'unsorted', directory), { recursive: true });
    copyFileSync(IMAGE, join(server.datasetsDir, 'unsorted', directory, 'one.jpg'));
  }
  mkdirSync(join(server.datasetsDir, EMPTY));
  ({ browser, page } = await openDashboard(server));
  page.expected.push(refused(422));
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const go = (path) => page.goto(`${server.url}/#${path}`);
const field = (pointer) => page.locator(`.field[data-pointer="${pointer}"]`);
const notes = (pointer) => field(pointer).locator('> .notes li');
const view = (name) => page.getByRole('radio', { name, exact: true }).check();

/** Writes the specification in the JSON view, and goes back to the form. */
async function write(spec) {
  await view('JSON');
  await page.locator('#spec').fill(JSON.stringify(spec));
  await view('Form');
}

async function edit(change) {
  await view('JSON');
  const spec = JSON.parse(await page.locator('#spec').inputValue());
  change(spec);
  await write(spec);
}

test('the chosen data set says what was guessed and passed over in it', async () => {
  const { data } = await server.get('/v1/datasets');
  const told = data.find(({ name }) => name === 'unsorted').notes;
  assert.match(told.join('\n'), /no splits[^]*1 image directly in unsorted is passed over/);
  await go('/new');
  const choice = field('/dataset/name').locator('select');
  await choice.selectOption({ value: '"unsorted"' });
  await notes('/dataset/name').first().waitFor();
  assert.deepEqual(await notes('/dataset/name').allTextContents(), told);
  await choice.selectOption({ value: '"digits"' });
  assert.deepEqual(await notes('/dataset/name').allTextContents(), data.find(({ name }) => name === 'digits').notes);
  const listed = page.locator('.new-side .help', { hasText: 'Data sets' }).locator('li', { hasText: 'unsorted' }).first();
  assert.deepEqual(await listed.locator('.notes li').allTextContents(), told);
  page.assertQuiet();
});

test('directories that are no data sets are named with the reason, in both views', async () => {
  const { unusable: [{ name, reason }, ...others] } = await server.get('/v1/datasets');
  assert.deepEqual([name, others], [EMPTY, []]);
  const folded = field('/dataset/name').locator('.not-offered');
  await folded.locator('summary').getByText('1 directory is not offered').click();
  await folded.locator('li code').getByText(EMPTY, { exact: true }).waitFor();
  assert.equal(await folded.locator('li .note').textContent(), reason);
  const aside = page.locator('.new-side .not-offered');
  assert.equal(await aside.isVisible(), false, 'the form says it already');
  await view('JSON');
  await aside.locator('summary').click();
  await aside.getByText(reason).waitFor();
  // Who names one all the same reads why at its field.
  await edit((spec) => { spec.dataset.name = EMPTY; });
  await notes('/dataset/name').getByText(`It is not offered: ${reason}`).waitFor();
  page.assertQuiet();
});

test('the check says how long training takes once a job has been measured, and before that there is no estimate', { timeout: PATIENCE }, async () => {
  const spec = smallJob('measured', 3000);
  const time = (hasText) => page.locator('.verdict[data-state="fine"] .verdict-time', { hasText });
  await write(spec);
  await time('No estimate of the time: no recent job on 1 device of a worker’s kind has been measured.').waitFor();
  const { id } = await server.post('/v1/jobs', smallJob('measured'));
  await server.succeeded(id);
  const progress = { epoch: 1, epochs: 1, step: 2, steps: 2, fraction: 1, images_per_second: 80, eta_seconds: 0 };
  server.sql(`update jobs set progress = '${JSON.stringify(progress)}' where id = '${id}'`);
  const { time: { seconds, measured_jobs: jobs, device, method } } = await server.post('/v1/jobs?dry_run=true', spec);
  assert.equal(jobs, 1);
  assert.match(method, /^from .* with the same networks and images on cpu$/);
  await write({ ...spec, name: 'the same again' });
  const told = time('Training takes about');
  await told.waitFor();
  assert.equal(await told.textContent(),
    `Training takes about ${duration(seconds)} on ${device} at 80 images/s, without the wait for a worker. Measured by 1 job, and computed ${method}.`);
  page.assertQuiet();
});

test('an upload says what was left out, and so do the list and the choice of it as a teacher', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await go('/');
  await go('/new');
  await page.locator('#teacher-file').setInputFiles({ name: 'wrapped.safetensors', mimeType: 'application/octet-stream', buffer: prefixed('backbone.') });
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  const note = 'every key begins with backbone., which is left out';
  await page.locator('.upload-message .notes').getByText(note).waitFor();
  const { data: [checkpoint] } = await server.get('/v1/checkpoints');
  assert.deepEqual(checkpoint.notes, [note]);
  const listed = page.getByRole('list', { name: 'Checkpoints' }).locator('> li', { hasText: checkpoint.id });
  await listed.locator('.notes li').first().waitFor();
  assert.deepEqual(await listed.locator('.notes li').allTextContents(), [note]);
  // It became the teacher that was missing.
  await field('/teacher/checkpoint').locator('.picked').getByText('wrapped.safetensors').waitFor();
  assert.deepEqual(await notes('/teacher/checkpoint').allTextContents(), [note]);
  await field('/teacher/checkpoint').getByRole('button', { name: 'Choose another' }).click();
  assert.equal(await notes('/teacher/checkpoint').count(), 0);
  page.assertQuiet();
});

test('a checkpoint from which the student starts says what was left out, and is not folded away', async () => {
  const { data: [{ id, notes: told }] } = await server.get('/v1/checkpoints');
  assert.equal(await field('/student/checkpoint').isVisible(), false);
  await edit((spec) => { spec.student = { architecture: 'resnet8', checkpoint: id }; });
  await notes('/student/checkpoint').first().waitFor();
  assert.deepEqual(await notes('/student/checkpoint').allTextContents(), told);
  page.assertQuiet();
});

test('of a file with several networks another than the usual one can be uploaded', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await go('/');
  await go('/new');
  await page.locator('#teacher-file').setInputFiles({ name: 'both.safetensors', mimeType: 'application/octet-stream', buffer: prefixed('student.', 'teacher.') });
  const upload = page.getByRole('button', { name: 'Upload', exact: true });
  await upload.click();
  await page.locator('.upload-message .notes').getByText('Another network is under teacher').waitFor();
  const stored = page.locator('.upload-message code');
  const usual = await stored.textContent();
  await page.getByLabel('State dict').pressSequentially('teacher', { delay: 20 });
  await upload.click();
  await stored.filter({ hasNotText: usual }).waitFor();
  const { data: [chosen] } = await server.get('/v1/checkpoints');
  assert.equal(await stored.textContent(), chosen.id);
  assert.deepEqual(chosen.fits.map(({ architecture }) => architecture), ['resnet8']);
  page.assertQuiet();
});

test('a list that cannot be read is not said to be empty', async () => {
  const other = await openPage(browser);
  other.expected.push(refused(422, 503));
  const problem = { type: 'about:blank', title: 'Unavailable', status: 503, detail: 'The database is busy.' };
  await other.route(/\/v1\/(datasets|checkpoints|workers)(\?|$)/, (route) => route.fulfill({ status: 503, json: problem }));
  await other.goto(`${server.url}/#/new`);
  const told = other.locator('.message-line', { hasText: 'could not be read' });
  await told.waitFor();
  for (const name of ['data sets', 'checkpoints']) assert.ok((await told.textContent()).includes(`The ${name} could not be read; reload the page to choose among them. The database is busy.`), name);
  assert.equal(await other.locator('.new-side .help').getByText('Not read: The database is busy.').count(), 2);
  assert.equal(await other.getByText(/^None yet/).count(), 0);
  await other.getByRole('radio', { name: 'JSON', exact: true }).check();
  await other.locator('#spec').fill(JSON.stringify(smallJob('without a list')));
  await other.locator('.verdict[data-state="fine"]').getByText(/the workers could not be read/).waitFor();
  other.assertQuiet();
  await other.context().close();
});

test('a list that is too long says that it is cut', async () => {
  const other = await openPage(browser);
  const { data: [one] } = await server.get('/v1/checkpoints');
  await other.route(/\/v1\/checkpoints\?/, (route) => route.fulfill({ json: { data: [one], has_more: true, next: 'older' } }));
  await other.goto(`${server.url}/#/new`);
  await other.locator('.new-side .help').getByText('These are the newest 50. Older ones can be used by their ids').waitFor();
  other.assertQuiet();
  await other.context().close();
});

test('the notes are accessible and fit on every screen', async () => {
  await onEveryScreen(browser, async (other, { name }) => {
    other.expected.push(refused(422));
    await other.goto(`${server.url}/#/new`);
    await other.locator('[data-pointer="/dataset/name"] select').selectOption({ value: '"unsorted"' });
    await other.locator('[data-pointer="/dataset/name"] .notes li').first().waitFor();
    await other.locator('.job-form .not-offered summary').click();
    await assertAccessible(other);
    await screenshot(other, `new-notes-${name}`);
    await assertFits(other);
  });
});
