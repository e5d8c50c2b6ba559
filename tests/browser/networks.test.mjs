// Networks that come as files stand beside those of the list: in the upload, in the form, and with the jobs.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { studentFrom } from '../../static/js/new/presets.js';
import { assertAccessible, assertFits, closeDashboard, onEveryScreen, openDashboard, refused, screenshot } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const FILE = fileURLToPath(new URL('../fixtures/exported/test_efficientnet.pt2', import.meta.url));
const NAME = 'test_efficientnet.pt2';

const server = new Server();
let browser;
let page;
let network;

before(async () => {
  ({ browser, page } = await openDashboard(server));
  page.expected.push(refused(422));
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const go = (path) => page.goto(`${server.url}/#${path}`);
const field = (pointer) => page.locator(`.field[data-pointer="${pointer}"]`);
const student = () => field('/student/architecture').locator('select');
const verdict = (state) => page.locator(`.verdict[data-state="${state}"]`).waitFor();
const view = (name) => page.getByRole('radio', { name, exact: true }).check();

async function spec() {
  await view('JSON');
  const text = await page.locator('#spec').inputValue();
  await view('Form');
  return JSON.parse(text);
}

test('the lines of Python that export a network are shown where one is uploaded', async () => {
  await go('/new');
  await page.locator('summary', { hasText: 'A network that is not in the list' }).click();
  const program = page.getByLabel('Python that exports a network');
  await program.waitFor();
  assert.equal(await program.textContent(), readFileSync(new URL('../../static/snippets/export.py', import.meta.url), 'utf8').trimEnd());
  page.assertQuiet();
});

test('an uploaded network shows what was found in it, and becomes the missing teacher', async () => {
  await page.locator('#teacher-file').setInputFiles(FILE);
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  const facts = page.locator('.upload-message .network-facts');
  await facts.waitFor();
  ({ data: [network] } = await server.get('/v1/checkpoints'));
  assert.equal(network.format, 'torch_export');
  const text = await facts.textContent();
  for (const part of ['Images64×64 pixels', 'Classes10', 'Exported intraining mode', 'Written byPyTorch 2.11.0', 'Largest batch65,536', 'Feature map256 × 2×2, channels first', 'flatten → linear']) {
    assert.ok(text.includes(part), `${part} in ${text}`);
  }
  await field('/teacher/checkpoint').locator('.picked').getByText(NAME).waitFor();
  await field('/teacher/checkpoint').locator('.picked').getByText(/exported for 64×64 pixels · 10 classes/).waitFor();
  await verdict('fine');
  assert.deepEqual((await spec()).teacher, { checkpoint: network.id });
  page.assertQuiet();
});

test('an uploaded network can be the student, chosen among the architectures', async () => {
  const label = await student().locator(`option[value='"${network.id}"']`).textContent();
  assert.match(label, /^test_efficientnet\.pt2 · exported for 64×64 pixels/);
  await student().selectOption({ value: `"${network.id}"` });
  await verdict('fine');
  assert.deepEqual((await spec()).student, { checkpoint: network.id });
  assert.equal(await student().inputValue(), `"${network.id}"`);
  const rows = page.locator('.verdict-body tbody tr');
  assert.deepEqual(await rows.locator('td').first().textContent(), NAME);
  assert.match(await rows.last().textContent(), /256 × 2×2/);
  await page.locator('.verdict-body .warning-line', { hasText: 'learning_rate is 0.01' }).waitFor();
  await student().selectOption({ value: '"resnet8"' });
  await verdict('fine');
  assert.deepEqual((await spec()).student, { architecture: 'resnet8' });
  await page.locator('.upload-message').getByRole('button', { name: 'Use as student' }).click();
  await verdict('fine');
  assert.deepEqual((await spec()).student, { checkpoint: network.id });
  page.assertQuiet();
});

test('another choice drops a network, and leaves first weights to the server', () => {
  const isNetwork = (id) => id === 'ckpt_net';
  assert.deepEqual(studentFrom({ architecture: 'resnet8' }, 'ckpt_net', isNetwork), { checkpoint: 'ckpt_net' });
  assert.deepEqual(studentFrom({ checkpoint: 'ckpt_net' }, 'resnet8', isNetwork), { architecture: 'resnet8' });
  assert.deepEqual(studentFrom({ architecture: 'resnet8', checkpoint: 'ckpt_1' }, 'resnet20', isNetwork), { architecture: 'resnet20', checkpoint: 'ckpt_1' });
  // What becomes of a checkpoint's classifier goes with the checkpoint.
  assert.deepEqual(studentFrom({ checkpoint: 'ckpt_net', head: 'new' }, 'ckpt_net', isNetwork), { checkpoint: 'ckpt_net', head: 'new' });
  assert.deepEqual(studentFrom({ architecture: 'resnet8', checkpoint: 'ckpt_1', head: 'new' }, 'resnet20', isNetwork), { architecture: 'resnet20', checkpoint: 'ckpt_1', head: 'new' });
  assert.deepEqual(studentFrom({ checkpoint: 'ckpt_net', head: 'new' }, 'resnet8', isNetwork), { architecture: 'resnet8' });
  assert.deepEqual(studentFrom({ checkpoint: 'ckpt_net' }, undefined, isNetwork), {});
  assert.deepEqual(studentFrom(undefined, 'resnet8', isNetwork), { architecture: 'resnet8' });
});

test('a job with exported networks is listed by their names', async () => {
  const { id } = await server.post('/v1/jobs', {
    name: 'two files', teacher: { checkpoint: network.id }, student: { checkpoint: network.id }, dataset: { name: 'digits' }, priority: 1,
  });
  await server.post(`/v1/jobs/${id}/cancel`, {});
  await go('/');
  const row = page.locator('tr', { hasText: 'two files' });
  await row.getByText(`${NAME} → ${NAME}`).waitFor();
  await row.getByRole('link', { name: 'two files' }).click();
  await page.locator('.facts').getByText(`${NAME} → ${NAME}`).waitFor();
  page.assertQuiet();
});

test('the form with an exported network is accessible and fits on every screen', async () => {
  await onEveryScreen(browser, async (other, { name }) => {
    other.expected.push(refused(422));
    await other.goto(`${server.url}/#/new`);
    await other.locator('summary', { hasText: 'A network that is not in the list' }).click();
    await other.getByLabel('Python that exports a network').waitFor();
    await other.locator('[data-pointer="/student/architecture"] select').selectOption({ value: `"${network.id}"` });
    await assertAccessible(other);
    await screenshot(other, `new-networks-${name}`);
    await assertFits(other);
  });
});
