// The form for a new job: made from the server's schema, checked while it is filled in, and the same job as its JSON.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { PATIENCE, Server, assertAccessible, launchBrowser, openPage, screenshot } from './support.mjs';

const REFUSED = /Failed to load resource: the server responded with a status of 422/;

const server = new Server();
let browser;
let page;
let teacher;

before(async () => {
  [browser] = await Promise.all([launchBrowser(), server.start()]);
  page = await openPage(browser);
  page.expected.push(REFUSED);
}, { timeout: PATIENCE });

after(async () => {
  await browser?.close();
  await server.stop();
});

const go = (path) => page.goto(`${server.url}/#${path}`);
const field = (pointer) => page.locator(`.field[data-pointer="${pointer}"]`);
const input = (pointer) => field(pointer).locator('input, select').first();
const verdict = (state) => page.locator(`.verdict[data-state="${state}"]`).waitFor();
const view = (name) => page.getByRole('radio', { name, exact: true }).check();

async function spec() {
  await view('JSON');
  const text = await page.locator('#spec').inputValue();
  await view('Form');
  return JSON.parse(text);
}

test('without a teacher the form says what is missing, and asks the server for the rest', async () => {
  await go('/new');
  await verdict('incomplete');
  assert.match(await field('/teacher/checkpoint').locator('.field-fault').textContent(), /choose a teacher/);
  await page.waitForFunction(() => document.querySelector('[data-pointer="/training/optimizer/learning_rate"] input').placeholder === '0.05');
  assert.deepEqual((await server.get('/v1/jobs')).data, []);
  page.assertQuiet();
});

test('plain training needs none, and is posted from the form', { timeout: PATIENCE }, async () => {
  await page.getByRole('radio', { name: 'None: plain training' }).check();
  for (const [weight, isThere] of [['cross_entropy', true], ['distillation', false], ['complementary', false]]) {
    assert.equal(await field(`/distillation/weights/${weight}`).isVisible(), isThere, weight);
  }
  await input('/student/architecture').selectOption({ value: '"resnet8"' });
  await input('/training/epochs').fill('1');
  await input('/dataset/limit').fill('320');
  await input('/training/augmentation').selectOption({ value: '"none"' });
  await verdict('fine');
  assert.match(await page.locator('.verdict-body').textContent(), /1 epoch on 10 classes/);
  await page.getByRole('button', { name: 'Submit', exact: true }).click();
  await page.waitForURL(/#\/jobs\/job_/);
  teacher = new URL(page.url()).hash.split('/').at(-1);
  await page.locator('h1 + .badge[data-status="succeeded"]').waitFor({ timeout: PATIENCE });
  const sent = await server.get(`/v1/jobs/${teacher}/submitted`);
  assert.equal(sent.teacher, undefined);
  assert.deepEqual([sent.distillation.method, sent.training.epochs, sent.dataset.limit], ['none', 1, 320]);
  page.assertQuiet();
});

test('its student is offered as a teacher, and what is left empty shows what the server fills in', async () => {
  await go('/new');
  await page.getByRole('radio', { name: 'Student of a job' }).check();
  await verdict('fine');
  assert.deepEqual((await spec()).teacher, { job: teacher });
  await input('/distillation/temperature').fill('');
  await page.waitForFunction(() => document.querySelector('[data-pointer="/distillation/temperature"] input').placeholder === '4');
  assert.equal((await spec()).distillation.temperature, undefined);
});

test('a decimal comma is a decimal point, and what could be two numbers is asked about', async () => {
  await input('/distillation/temperature').fill('2,5');
  assert.equal((await spec()).distillation.temperature, 2.5);
  await input('/distillation/temperature').fill('1,234');
  assert.match(await field('/distillation/temperature').locator('.field-fault').textContent(), /could be 1234 or 1\.234/);
  await input('/distillation/temperature').fill('4');
  await verdict('fine');
});

test('scales are chips, with the number of regions', async () => {
  await page.getByRole('checkbox', { name: '4×4' }).uncheck();
  await page.getByRole('checkbox', { name: '3×3' }).check();
  await page.getByText('1 + 4 + 9 = 14 regions').waitFor();
  assert.deepEqual((await spec()).distillation.scales, [1, 2, 3]);
  await page.getByRole('button', { name: 'As published' }).click();
  await page.getByText('1 + 4 + 16 = 21 regions').waitFor();
  assert.equal((await spec()).distillation.scales, undefined);
});

test('a fault found by the server stands at its field, and goes when it is mended', async () => {
  await input('/training/batch_size').fill('0');
  await verdict('faulty');
  assert.match(await field('/training/batch_size').locator('.field-fault').textContent(), /1/);
  assert.equal(await input('/training/batch_size').getAttribute('aria-invalid'), 'true');
  await page.locator('.verdict .fault').click();
  assert.equal(await input('/training/batch_size').evaluate((element) => element === document.activeElement), true);
  await input('/training/batch_size').fill('32');
  await verdict('fine');
  assert.equal(await field('/training/batch_size').locator('.field-fault').isVisible(), false);
  page.assertQuiet();
});

test('a method brings its own fields and none of the last one’s', async () => {
  await input('/distillation/method').selectOption('sdd_dkd');
  await verdict('fine');
  await field('/distillation/alpha').waitFor();
  assert.equal(await field('/distillation/gamma').isVisible(), false);
  assert.equal(await input('/distillation/beta').getAttribute('placeholder'), '8');
  await input('/training/optimizer/type').selectOption({ value: '"adamw"' });
  await field('/training/optimizer/beta1').waitFor();
  await verdict('fine');
  assert.deepEqual((await spec()).training.optimizer, { type: 'adamw' });
});

test('the form and the JSON are one specification', async () => {
  await view('JSON');
  const text = JSON.parse(await page.locator('#spec').inputValue());
  await page.locator('#spec').fill(JSON.stringify({ ...text, name: 'from JSON', labels: { team: 'vision' } }));
  await view('Form');
  assert.equal(await input('/name').inputValue(), 'from JSON');
  assert.equal(await input('/labels').inputValue(), 'team: vision');
  await input('/labels').fill('team: vision, sweep: 1');
  assert.deepEqual((await spec()).labels, { team: 'vision', sweep: '1' });
  await page.locator('summary', { hasText: 'What will be sent' }).click();
  const body = page.getByLabel('Body', { exact: true });
  await page.waitForFunction(() => document.querySelector('.sent pre').textContent.includes('"sweep"'));
  assert.deepEqual(JSON.parse(await body.textContent()), await spec());
  assert.match(await page.locator('.sent .curl code').textContent(), new RegExp(`^curl -X POST .* ${server.url}/v1/jobs$`));
});

test('a file that is dropped on the page is uploaded and becomes the teacher that was missing', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await go('/');
  await go('/new');
  await verdict('incomplete');
  const bytes = Buffer.from(await (await fetch(`${server.url}/v1/jobs/${teacher}/student`)).arrayBuffer()).toString('base64');
  await page.locator('main').evaluate((main, base64) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], 'dropped.safetensors'));
    main.dispatchEvent(new DragEvent('dragover', { dataTransfer: transfer, bubbles: true, cancelable: true }));
    main.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, bytes);
  await page.locator('.upload-message').getByText('It fits resnet8 (10 classes).').waitFor();
  const { data: [checkpoint] } = await server.get('/v1/checkpoints');
  await verdict('fine');
  assert.deepEqual((await spec()).teacher, { architecture: 'resnet8', checkpoint: checkpoint.id });
  assert.match(await input('/teacher/checkpoint').locator('option:checked').textContent(), /^dropped\.safetensors · resnet8 · 10 classes/);
  page.assertQuiet();
});

test('a job is cloned as it was sent', async () => {
  await go(`/jobs/${teacher}`);
  await page.getByText('Specification', { exact: true }).click();
  await page.getByRole('link', { name: 'Clone: post again with changes' }).click();
  await verdict('fine');
  assert.deepEqual(await spec(), await server.get(`/v1/jobs/${teacher}/submitted`));
});

test('a published row needs only its teacher and its data', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await page.getByLabel('Start from').selectOption('cifar100/resnet32x4-shufflenet_v1-sdd_kd');
  const filled = await spec();
  assert.deepEqual([filled.teacher.architecture, filled.student.architecture, filled.labels.published_top1], ['resnet32x4', 'shufflenet_v1', '76.30']);
  await verdict('incomplete');
  page.assertQuiet();
});

test('it is filled in and sent by the keyboard alone', { timeout: PATIENCE }, async () => {
  await go('/');
  await go(`/new?from=${teacher}`);
  await verdict('fine');
  await page.locator('h1').click();
  const focused = () => page.evaluate(() => document.activeElement.closest('[data-pointer]')?.dataset.pointer ?? document.activeElement.textContent);
  for (let presses = 0; (await focused()) !== '/name' && presses < 60; presses += 1) await page.keyboard.press('Tab');
  assert.equal(await focused(), '/name');
  await page.keyboard.type('by keyboard');
  for (let presses = 0; (await focused()) !== 'Submit' && presses < 20; presses += 1) await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await page.waitForURL(/#\/jobs\/job_/);
  assert.equal((await server.get(`/v1/jobs/${new URL(page.url()).hash.split('/').at(-1)}`)).name, 'by keyboard');
  page.assertQuiet();
});

test('it is accessible, in light and dark and on a telephone, in both views', async () => {
  for (const [colorScheme, width] of [['light', 1280], ['dark', 1280], ['light', 360], ['dark', 360], ['dark', 3840]]) {
    const other = await openPage(browser, { colorScheme, viewport: { width, height: 900 } });
    await other.goto(`${server.url}/#/new?from=${teacher}`);
    await other.locator('.verdict[data-state="fine"]').waitFor();
    for (const name of ['Form', 'JSON']) {
      await other.getByRole('radio', { name, exact: true }).check();
      await assertAccessible(other);
      await screenshot(other, `new-${name.toLowerCase()}-${colorScheme}-${width}`);
      const overflow = await other.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(overflow <= 0, `${name}: ${overflow} px too wide at ${width}`);
    }
    other.assertQuiet();
    await other.context().close();
  }
});
