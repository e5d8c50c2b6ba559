// The form for a new job, which is made from the server's schema and checked while it is filled in.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { assertAccessible, assertFits, closeDashboard, onEveryScreen, openDashboard, refused, screenshot, shownJob, statusBadge } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const server = new Server();
let browser;
let page;
let teacher;

before(async () => {
  ({ browser, page } = await openDashboard(server));
  page.expected.push(refused(422));
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

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

test('without a teacher the form says what is missing, and shows the server’s defaults', async () => {
  await go('/new');
  await verdict('incomplete');
  assert.match(await field('/teacher/checkpoint').locator('.field-fault').textContent(), /choose a teacher/);
  await page.waitForFunction(() => document.querySelector('[data-pointer="/training/optimizer/learning_rate"] input').placeholder === '0.05');
  assert.deepEqual((await server.get('/v1/jobs')).data, []);
  page.assertQuiet();
});

test('the form has every field of the server’s schema, and no other', async () => {
  const { components: { schemas } } = await server.get('/openapi.json');
  const fieldsOf = (schema, pointer) => {
    const target = schema.$ref ?? schema.anyOf?.find(({ $ref }) => $ref)?.$ref;
    const resolved = target ? schemas[target.split('/').at(-1)] : schema;
    // Of several variants the form shows the first, which is the default.
    const { properties } = resolved?.properties || !resolved?.anyOf ? resolved : resolved.anyOf[0];
    return properties ? Object.entries(properties).flatMap(([key, property]) => fieldsOf(property, `${pointer}/${key}`)) : [pointer];
  };
  const shown = await page.locator('.job-form .field[data-pointer]').evaluateAll((fields) => fields.map(({ dataset }) => dataset.pointer));
  assert.deepEqual(shown.filter((pointer) => pointer !== '/teacher').sort(), fieldsOf({ $ref: '#/JobSpecRequest' }, '').sort());
});

test('plain training needs no teacher, and the form submits it', { timeout: PATIENCE }, async () => {
  await page.getByRole('radio', { name: 'None: plain training' }).check();
  for (const [weight, isThere] of [['cross_entropy', true], ['distillation', false], ['complementary', false]]) {
    assert.equal(await field(`/distillation/weights/${weight}`).isVisible(), isThere, weight);
  }
  await input('/student/architecture').selectOption({ value: '"resnet8"' });
  await input('/training/epochs').fill('1');
  await input('/dataset/limit').fill('320');
  await input('/training/augmentation').selectOption({ value: '"none"' });
  await verdict('fine');
  assert.match(await page.locator('.verdict-body').textContent(), /1 epoch, 10 classes/);
  await page.getByRole('button', { name: 'Submit', exact: true }).click();
  await page.waitForURL(/#\/jobs\/job_/);
  teacher = shownJob(page);
  await statusBadge(page, 'succeeded').waitFor({ timeout: PATIENCE });
  const sent = await server.get(`/v1/jobs/${teacher}/submitted`);
  assert.equal(sent.teacher, undefined);
  assert.deepEqual([sent.distillation.method, sent.training.epochs, sent.dataset.limit], ['none', 1, 320]);
  page.assertQuiet();
});

test('a job’s student can be the teacher, and an empty field shows its default', async () => {
  await go('/new');
  await page.getByRole('radio', { name: 'Student of a job' }).check();
  await verdict('incomplete');
  assert.equal((await spec()).teacher, undefined, 'no job may be chosen unless the user chooses it');
  const { name } = await server.get(`/v1/jobs/${teacher}`);
  await page.getByRole('combobox', { name: 'Search the jobs' }).pressSequentially('resnet8', { delay: 60 });
  await page.getByRole('option', { name }).click();
  await verdict('fine');
  assert.deepEqual((await spec()).teacher, { job: teacher });
  await field('/teacher/job').locator('.picked').getByText(/resnet8 · digits · [\d.]+ %/).waitFor();
  assert.equal(await field('/teacher/job').locator('.picked a').textContent(), name);
  await input('/distillation/temperature').fill('');
  await page.waitForFunction(() => document.querySelector('[data-pointer="/distillation/temperature"] input').placeholder === '4');
  assert.equal((await spec()).distillation.temperature, undefined);
});

test('a decimal comma is accepted, and an ambiguous number is a fault', async () => {
  await input('/distillation/temperature').fill('2,5');
  assert.equal((await spec()).distillation.temperature, 2.5);
  await input('/distillation/temperature').fill('1,234');
  assert.match(await field('/distillation/temperature').locator('.field-fault').textContent(), /could be 1234 or 1\.234/);
  await input('/distillation/temperature').fill('4');
  await verdict('fine');
});

/** Types like a person: key by key, so that the server's verdict on the first digits arrives before the last. */
async function type(pointer, text, state) {
  await field(pointer).evaluate((element) => element.closest('details')?.setAttribute('open', ''));
  await input(pointer).click();
  await input(pointer).press('ControlOrMeta+a');
  await input(pointer).press('Delete');
  await input(pointer).pressSequentially(text, { delay: 450 });
  await page.locator('h1').click();
  await verdict(state);
}

test('text that cannot be read stays with its fault, and is never sent as another number', { timeout: PATIENCE }, async () => {
  const posts = [];
  const watch = (request) => { if (request.method() === 'POST' && !request.url().includes('dry_run')) posts.push(request.url()); };
  page.on('request', watch);
  const cases = [
    ['/training/batch_size', '1,234', /could be 1234 or 1\.234/, '32'],
    ['/training/epochs', '10.5', /not a whole number/, '1'],
    ['/training/schedule/milestones', '5, 3, x', /x is not a number/, ''],
    ['/labels', 'a:b, a:c', /the label a is given twice/, 'a: b'],
    ['/dataset/mean', '0,5, 0,4, 0,3', /two ways/, ''],
  ];
  for (const [pointer, text, fault, corrected] of cases) {
    await type(pointer, text, 'faulty');
    assert.equal(await input(pointer).inputValue(), text);
    assert.match(await field(pointer).locator('.field-fault').textContent(), fault);
    assert.equal(await input(pointer).getAttribute('aria-invalid'), 'true');
    await page.getByRole('button', { name: 'Submit', exact: true }).click();
    assert.equal(await input(pointer).evaluate((element) => element === document.activeElement), true, 'Submit must lead to the fault');
    // Changes elsewhere, the other view and a reload keep it.
    await input('/training/seed').fill('7');
    await verdict('faulty');
    assert.equal((await spec())[pointer.split('/')[1]] !== undefined, true);
    await page.reload();
    await verdict('faulty');
    assert.equal(await input(pointer).inputValue(), text);
    if (corrected) await type(pointer, corrected, 'fine');
    else await type(pointer, '', 'fine');
  }
  assert.deepEqual(posts, []);
  page.off('request', watch);
  page.assertQuiet();
});

test('scales are check boxes, with the number of regions', async () => {
  // Teacher and student are CIFAR ResNets.
  await page.getByText('1 + 4 = 5 regions').waitFor();
  assert.equal(await page.getByRole('checkbox', { name: '4×4' }).isChecked(), false);
  await page.getByRole('checkbox', { name: '3×3' }).check();
  await page.getByText('1 + 4 + 9 = 14 regions').waitFor();
  assert.deepEqual((await spec()).distillation.scales, [1, 2, 3]);
  await page.getByRole('button', { name: 'As published' }).click();
  await page.getByText('1 + 4 = 5 regions').waitFor();
  assert.equal((await spec()).distillation.scales, undefined);
});

test('the server’s faults appear at their fields until they are corrected', async () => {
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

test('a method shows its own fields only', async () => {
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

test('the form and the JSON show one specification', async () => {
  await view('JSON');
  const text = JSON.parse(await page.locator('#spec').inputValue());
  await page.locator('#spec').fill(JSON.stringify({ ...text, name: 'from JSON', labels: { team: 'vision' } }));
  await view('Form');
  assert.equal(await input('/name').inputValue(), 'from JSON');
  assert.equal(await input('/labels').inputValue(), 'team: vision');
  await input('/labels').fill('team: vision, sweep: 1');
  assert.deepEqual((await spec()).labels, { team: 'vision', sweep: '1' });
  await page.locator('summary', { hasText: 'Request' }).click();
  const body = page.getByLabel('Body', { exact: true });
  await page.waitForFunction(() => document.querySelector('.sent pre').textContent.includes('"sweep"'));
  assert.deepEqual(JSON.parse(await body.textContent()), await spec());
  assert.match(await page.locator('.sent .curl code').textContent(), new RegExp(`^curl -X POST .* ${server.url}/v1/jobs$`));
});

test('a file dropped on the page is uploaded and becomes the missing teacher', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await go('/');
  await go('/new');
  await verdict('incomplete');
  const bytes = Buffer.from(await (await fetch(`${server.url}/v1/jobs/${teacher}/student`)).arrayBuffer()).toString('base64');
  await page.locator('main').evaluate((main, base64) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], 'dropped.safetensors'));
    transfer.items.add(new File(['another'], 'second.pth'));
    main.dispatchEvent(new DragEvent('dragover', { dataTransfer: transfer, bubbles: true, cancelable: true }));
    main.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, bytes);
  await page.locator('.upload-message').getByText('It fits resnet8 (10 classes).').waitFor();
  const { data: [checkpoint] } = await server.get('/v1/checkpoints');
  await verdict('fine');
  assert.deepEqual((await spec()).teacher, { architecture: 'resnet8', checkpoint: checkpoint.id });
  await field('/teacher/checkpoint').locator('.picked').getByText(/^resnet8 · 10 classes/).waitFor();
  assert.match(await field('/teacher/checkpoint').locator('.picked').textContent(), /^dropped\.safetensors/);
  await page.getByText('Only dropped.safetensors is uploaded, and not second.pth').waitFor();
  page.assertQuiet();
});

test('a clone is the specification as it was sent', async () => {
  await go(`/jobs/${teacher}`);
  await page.getByText('Specification', { exact: true }).click();
  await page.getByRole('link', { name: 'Clone into a new job' }).click();
  await verdict('fine');
  assert.deepEqual(await spec(), await server.get(`/v1/jobs/${teacher}/submitted`));
});

test('looking at a clone loses neither draft', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await go('/');
  await go('/new');
  await verdict('incomplete');
  await type('/name', 'mine', 'incomplete');
  await go('/');
  await go(`/new?from=${teacher}`);
  await verdict('fine');
  assert.notEqual(await input('/name').inputValue(), 'mine');
  await type('/name', 'the clone', 'fine');
  await go('/');
  await go('/new');
  await verdict('incomplete');
  assert.equal(await input('/name').inputValue(), 'mine');
  await page.getByText('This is your draft, which was not submitted.').waitFor();
  await go('/');
  await go(`/new?from=${teacher}`);
  await verdict('fine');
  assert.equal(await input('/name').inputValue(), 'the clone');
  await page.getByRole('button', { name: 'Discard the draft' }).click();
  assert.deepEqual(await spec(), await server.get(`/v1/jobs/${teacher}/submitted`));
  page.expected.push(refused(404));
  const unknown = `job_${'0'.repeat(26)}`;
  await go(`/new?from=${unknown}`);
  await page.getByText(`The form does not start from job ${unknown}:`).waitFor();
  page.assertQuiet();
});

test('another kind of teacher can be looked at without losing the choice', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await go('/');
  await go(`/new?teacher_job=${teacher}`);
  await verdict('fine');
  await type('/distillation/temperature', '3', 'fine');
  const before = await spec();
  for (const kind of ['Uploaded checkpoint', 'None: plain training', 'Student of a job']) await page.getByRole('radio', { name: kind }).check();
  await verdict('fine');
  assert.deepEqual(await spec(), before);
  await page.getByRole('button', { name: 'Choose another' }).click();
  await verdict('incomplete');
  assert.equal((await spec()).teacher, undefined);
});

test('a published preset needs only a teacher and its data set', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await go('/');
  await go('/new');
  await verdict('incomplete');
  await page.getByLabel('Start from').selectOption('cifar100/resnet32x4-shufflenet_v1-sdd_kd');
  const filled = await spec();
  assert.deepEqual([filled.teacher.architecture, filled.student.architecture, filled.labels.published_top1], ['resnet32x4', 'shufflenet_v1', '76.30']);
  await verdict('incomplete');
  page.assertQuiet();
});

test('the form can be filled in and submitted by keyboard alone', { timeout: PATIENCE }, async () => {
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
  assert.equal((await server.get(`/v1/jobs/${shownJob(page)}`)).name, 'by keyboard');
  page.assertQuiet();
});

test('what a student may cost is checked before it is trained, and goes with the job', { timeout: PATIENCE }, async () => {
  await go(`/new?from=${teacher}`);
  await verdict('fine');
  const most = page.getByLabel('MB', { exact: true });
  await most.fill('small');
  await page.getByText('A constraint is not a number yet').waitFor();
  await most.fill('0,01');
  await page.getByText(/untrained network has size_mb 0\.\d+, and at most 0\.01 is allowed/).waitFor();
  // It holds for whatever is tried in the tab.
  await go('/workers');
  await go(`/new?from=${teacher}`);
  await page.getByText(/at most 0\.01 is allowed/).waitFor();
  await most.fill('50');
  await page.getByText('The student can qualify.').waitFor();
  assert.match(await page.locator('.sent').textContent(), /\/v1\/jobs\?size_mb=50/);
  await most.fill('0.01');
  await page.getByText(/at most 0\.01 is allowed/).waitFor();
  await page.getByRole('button', { name: 'Submit', exact: true }).click();
  await page.waitForURL(/#\/jobs\/job_/);
  const { data } = await server.get(`/v1/jobs/${new URL(page.url()).hash.split('/').at(-1)}/events`);
  assert.ok(data.some(({ kind, message }) => kind === 'warning' && message.includes('cannot qualify')), JSON.stringify(data));
  await page.evaluate(() => sessionStorage.clear());
});

test('both views are accessible and fit on every screen', async () => {
  await onEveryScreen(browser, async (other, screen) => {
    await other.goto(`${server.url}/#/new?from=${teacher}`);
    await other.locator('.verdict[data-state="fine"]').waitFor();
    for (const name of ['Form', 'JSON']) {
      await other.getByRole('radio', { name, exact: true }).check();
      await assertAccessible(other);
      await screenshot(other, `new-${name.toLowerCase()}-${screen.name}`);
      await assertFits(other);
    }
  });
});
