// The pages of sweeps.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { addLatencies, smallJob } from './support/jobs.mjs';
import { assertAccessible, assertFits, closeDashboard, downloaded, onEveryScreen, openDashboard, refused, statusBadge } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const server = new Server();
let browser;
let page;
let sweep;

const AXES = { '/training/optimizer/learning_rate': [0.05, 0.01, 1e-7] };

before(async () => {
  ({ browser, page } = await openDashboard(server));
  const { training, ...base } = smallJob('rates');
  const { epochs: _, ...rest } = training;
  const strategy = { type: 'halving', rungs: [1, 2], keep: 0.4 };
  sweep = await server.post('/v1/sweeps', { name: 'rates', base: { ...base, training: rest }, axes: AXES, seeds: 2, strategy });
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const table = () => page.getByRole('region', { name: 'Combinations, table' });
const badge = (status) => statusBadge(page, status);

test('the list leads to a sweep, whose combinations, rungs and curves are shown as it ends', { timeout: PATIENCE }, async () => {
  await page.goto(`${server.url}/#/sweeps`);
  await page.getByRole('link', { name: 'rates' }).click();
  await badge('finished').waitFor({ timeout: PATIENCE });
  assert.equal(await table().getByRole('row').count(), 4);
  assert.equal(await table().locator('tr[data-dropped]').count(), 1, 'two of three combinations are kept');
  await page.getByText('4 succeeded, 2 dropped · halving').waitFor();
  assert.equal(await table().getByRole('link', { name: /^seed \d+, dropped/ }).count(), 2);
  await table().getByRole('columnheader', { name: 'Epoch 1' }).waitFor();
  assert.match(await table().getByRole('row').nth(1).innerText(), /^1\s+0\.0[15]\s+\d+\.\d\d ± \d+\.\d\d %\s+2\s/);
  for (const name of ['eval/top1', 'top-1 by rung']) await page.locator(`section[aria-label="${name}"][data-lines="3"]`).waitFor();
  const csv = await downloaded(page, () => page.getByTitle('Download the table').click());
  assert.equal(csv.name, 'rates.csv');
  assert.equal(csv.bytes.toString().trim().split('\n').length, 4);
  await table().getByRole('link').first().click();
  await page.getByRole('heading', { name: /^rates: learning_rate/ }).waitFor();
  page.assertQuiet();
});

test('a sweep whose jobs fail says why on its page', { timeout: PATIENCE }, async () => {
  const base = smallJob('diverging', 50);
  const training = { ...base.training, optimizer: { learning_rate: 1000, momentum: 0.99, weight_decay: 1000 }, clip_grad_norm: null };
  const axes = { '/training/optimizer/momentum': [0.98, 0.99] };
  const { id } = await server.post('/v1/sweeps', { name: 'diverging', base: { ...base, training }, axes });
  await page.goto(`${server.url}/#/sweeps/${id}`);
  await badge('finished').waitFor({ timeout: PATIENCE });
  const failures = page.locator('section', { has: page.getByRole('heading', { name: 'Failures' }) });
  await failures.getByText('2 jobs failed, first').waitFor();
  await failures.getByRole('link').click();
  await page.locator('.error-class', { hasText: 'numeric' }).waitFor();
  page.assertQuiet();
});

test('the page says which students qualify, and how long they take', { timeout: PATIENCE }, async () => {
  const { results } = await server.get(`/v1/sweeps/${sweep.id}`);
  const [first, second] = results.map(({ jobs }) => jobs.map(({ id }) => id));
  addLatencies(server, [...first, second[0]], 3);
  addLatencies(server, [second[1]], 9);
  await page.goto(`${server.url}/#/sweeps/${sweep.id}?latency_ms=5`);
  await page.getByText('3 of 4 finished students qualify').waitFor();
  await page.getByText(`${server.url}/v1/pareto?sweep=${sweep.id}&limit=1000&latency_ms=5`).waitFor();
  const verdicts = () => table().locator('td[data-qualifies]').allInnerTexts();
  assert.deepEqual(await verdicts(), ['yes', '1 of 2', '–']);
  await table().getByTitle('3.000 to 9.000 ms for one image on a CPU').getByText('9.000 ms').waitFor();
  const most = page.getByLabel('ms for one image');
  await most.fill('0');
  await most.press('Enter');
  await page.getByText('0 is not above 0').waitFor();
  await most.fill('2');
  await most.press('Enter');
  await page.waitForURL(/latency_ms=2$/);
  await page.getByText('0 of 4 finished students qualify').waitFor();
  assert.deepEqual(await verdicts(), ['no', 'no', '–']);
  await table().getByTitle('latency 3.000 ms, at most 2.000 ms').first().waitFor();
  await page.goBack();
  await page.getByText('3 of 4 finished students qualify').waitFor();
  await most.fill('');
  await most.press('Enter');
  await table().getByRole('columnheader', { name: 'Qualifies' }).waitFor({ state: 'detached' });
  page.assertQuiet();
});

test('a sweep is paused, resumed, cancelled and deleted on its page', { timeout: PATIENCE }, async () => {
  const long = await server.post('/v1/sweeps', { name: 'long', base: smallJob('long', 500), axes: AXES });
  await page.goto(`${server.url}/#/sweeps/${long.id}`);
  const busy = '.members .badge:is([data-status="running"], [data-status="pausing"], [data-status="cancelling"])';
  const untilIdle = () => page.waitForFunction((selector) => !document.querySelector(selector), busy, { timeout: PATIENCE });
  for (const [verb, status] of [['Pause', 'paused'], ['Resume', 'running'], ['Cancel', 'cancelled']]) {
    // A job that is still writing its checkpoint keeps the sweep from being resumed.
    if (verb === 'Resume') await untilIdle();
    await page.getByRole('button', { name: verb, exact: true }).click();
    if (verb === 'Cancel') await page.getByRole('button', { name: 'Cancel the sweep' }).click();
    await badge(status).waitFor();
  }
  await untilIdle();
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByRole('button', { name: 'Delete the sweep' }).click();
  await page.waitForURL(/#\/sweeps$/);
  await page.getByRole('link', { name: 'rates' }).waitFor();
  assert.equal(await page.getByRole('link', { name: 'long' }).count(), 0);
});

test('a sweep begins with a job, is checked as it is typed, and starts', { timeout: PATIENCE }, async () => {
  const { id } = await server.post('/v1/jobs', smallJob('to vary'));
  page.expected.push(refused(422));
  await page.goto(`${server.url}/#/jobs/${id}`);
  await page.locator('details.spec > summary').click();
  await page.getByRole('link', { name: 'Sweep', exact: true }).click();
  const editor = page.getByRole('textbox', { name: 'Sweep (JSON)' });
  await page.getByText('6 jobs: 2 combinations × 3 seeds').waitFor();
  const document = JSON.parse(await editor.inputValue());
  assert.equal(document.name, 'to vary');
  await editor.fill(JSON.stringify({ ...document, seeds: 0 }, null, 2));
  await page.getByRole('button', { name: /\/seeds/ }).waitFor();
  assert.ok(await page.getByRole('button', { name: 'Start the sweep' }).isDisabled());
  await editor.fill(JSON.stringify({ ...document, seeds: 1 }, null, 2));
  await page.getByText('2 jobs: 2 combinations × 1 seed').waitFor();
  await page.getByRole('button', { name: 'Start the sweep' }).click();
  await badge('finished').waitFor({ timeout: PATIENCE });
  // What was started is there again on the way back, and is no draft.
  await page.goBack();
  await page.getByText('2 jobs: 2 combinations × 1 seed').waitFor();
  await page.getByRole('link', { name: 'Sweeps' }).first().click();
  await page.goto(`${server.url}/#/sweeps/new?job=${id}`);
  await page.getByText('6 jobs: 2 combinations × 3 seeds').waitFor();
});

test('a sweep that was typed and not started is there again after a look at others', { timeout: PATIENCE }, async () => {
  const spec = page.getByRole('textbox', { name: 'Sweep (JSON)' });
  await page.goto(`${server.url}/#/sweeps/new`);
  await page.getByText('combinations × 3 seeds').waitFor();
  const example = await spec.inputValue();
  const typed = example.replace('"seeds": 3', '"seeds": 5');
  assert.notEqual(typed, example);
  await spec.fill(typed);
  await page.getByText('combinations × 5 seeds').waitFor();
  const { id: other } = await server.post('/v1/jobs', smallJob('another'));
  await page.goto(`${server.url}/#/sweeps/new?job=${other}`);
  await page.getByText('2 combinations × 3 seeds').waitFor();
  assert.match(await spec.inputValue(), /another/);
  await page.getByRole('link', { name: 'Sweeps' }).first().click();
  await page.getByRole('link', { name: 'New sweep' }).click();
  await page.getByText('combinations × 5 seeds').waitFor();
  assert.equal(await spec.inputValue(), typed);
});

test('constraints are checked before a sweep starts, and stay with it', { timeout: PATIENCE }, async () => {
  const { id } = await server.post('/v1/jobs', smallJob('to keep small'));
  await page.goto(`${server.url}/#/sweeps/new?job=${id}`);
  await page.getByText('6 jobs: 2 combinations × 3 seeds').waitFor();
  const most = page.getByLabel('MB', { exact: true });
  await most.fill('small');
  await page.getByText('small is not a number').waitFor();
  await page.getByText('A constraint is not a number yet.').waitFor();
  assert.ok(await page.getByRole('button', { name: 'Start the sweep' }).isDisabled());
  await most.fill('0,1');
  await page.getByText('0 of 2 students can qualify').waitFor();
  await page.getByText(/untrained network has size_mb 0\.\d+, and at most 0\.1 is allowed/).first().waitFor();
  // They are kept with the draft.
  await page.getByRole('link', { name: 'Sweeps' }).first().click();
  await page.goto(`${server.url}/#/sweeps/new?job=${id}`);
  await page.getByText('0 of 2 students can qualify').waitFor();
  assert.equal(await most.inputValue(), '0,1');
  await most.fill('50');
  await page.getByText('2 of 2 students can qualify').waitFor();
  await page.getByText(`${server.url}/v1/sweeps?size_mb=50`).waitFor();
  await page.getByRole('button', { name: 'Start the sweep' }).click();
  await page.waitForURL(/#\/sweeps\/swp_\w+\?size_mb=50$/);
});

test('only the rows of combinations that change are built again, and the focus stays', async () => {
  const { results: [like] } = await server.get(`/v1/sweeps/${sweep.id}`);
  await page.goto(`${server.url}/#/sweeps`);
  const found = await page.evaluate(async ({ like, pointers }) => {
    const { CombinationsTable } = await import('/js/sweeps/combinations.js');
    const costs = { students: new Map(), isBounded: false, reason: '' };
    const results = [1, 2, 3].map((number) => ({ ...like, number, jobs: [{ ...like.jobs[0], id: `job_${number}` }] }));
    const table = new CombinationsTable();
    document.body.append(table.element);
    table.show(pointers, results, costs, { type: 'grid' });
    const before = [...table.element.tBodies[0].rows];
    before[1].querySelector('a').focus();
    table.show(pointers, [results[2], { ...results[1], best: 99 }], costs, { type: 'grid' });
    const after = [...table.element.tBodies[0].rows];
    const focused = document.activeElement.getAttribute('href');
    table.element.remove();
    return { rows: after.length, isSame: after[0] === before[2], isNew: !before.includes(after[1]), best: after[1].innerText.includes('99.00 %'), focused };
  }, { like, pointers: Object.keys(AXES) });
  assert.deepEqual(found, { rows: 2, isSame: true, isNew: true, best: true, focused: '#/jobs/job_2' });
});

test('of hundreds of combinations the best are shown first, and all of them on request', { timeout: PATIENCE }, async () => {
  const { results: [like], ...rest } = await server.get(`/v1/sweeps/${sweep.id}`);
  const results = Array.from({ length: 500 }, (_, index) => ({ ...like, number: index + 1, rank: index + 1, jobs: like.jobs.map((job) => ({ ...job, id: `${job.id}${index}` })) }));
  const address = new RegExp(`/v1/sweeps/${sweep.id}$`);
  await page.route(address, (route) => route.fulfill({ json: { ...rest, results } }));
  await page.goto(`${server.url}/#/sweeps/${sweep.id}`);
  await page.locator('section[aria-label="Parallel coordinates"][data-lines="200"]').getByText('The best 200 of 500').waitFor();
  assert.equal(await table().getByRole('row').count(), 101);
  await page.getByRole('button', { name: 'Show all 500 combinations' }).click();
  assert.equal(await table().getByRole('row').count(), 501);
  assert.ok(await table().evaluate((element) => element === document.activeElement));
  await page.unroute(address);
});

test('the pages fit every screen and can be used by everybody', { timeout: PATIENCE }, async () => {
  await onEveryScreen(browser, async (screen) => {
    await screen.goto(`${server.url}/#/sweeps/${sweep.id}`);
    await screen.locator('section[aria-label="eval/top1"][data-lines="3"]').waitFor();
    await assertFits(screen);
    await assertAccessible(screen);
    await screen.goto(`${server.url}/#/sweeps/new`);
    await screen.getByText('combinations × 3 seeds').waitFor();
    await assertFits(screen);
    await assertAccessible(screen);
    await screen.goto(`${server.url}/#/sweeps`);
    await screen.getByRole('link', { name: 'rates' }).waitFor();
    await assertFits(screen);
    await assertAccessible(screen);
  });
});
