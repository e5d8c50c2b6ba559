// The list of jobs, with more jobs than fit on a page.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { parseQuery, requestOf } from '../../static/js/jobs/query.js';
import { addJobs, idOf, smallJob } from './support/jobs.mjs';
import { UNREACHABLE, assertAccessible, assertFits, closeDashboard, onEveryScreen, openDashboard, openPage, refused, screenshot } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';
import { assertStill, watchShifts } from './support/shifts.mjs';

const JOBS = 1200;

const server = new Server();
let browser;
let page;

before(async () => {
  ({ browser, page } = await openDashboard(server));
  await addJobs(server, { jobs: JOBS, evaluations: 20 });
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const rows = () => page.locator('.jobs tbody tr');
const row = (id) => page.locator(`tr[data-id="${id}"]`);
const shownIds = () => rows().evaluateAll((all) => all.map(({ dataset }) => dataset.id));
const focusedRow = () => page.evaluate(() => document.activeElement.closest('tr')?.dataset.id);
const hash = () => new URL(page.url()).hash;
const dialog = () => page.getByRole('dialog');

/** Goes to a list and waits until it shows what the server answers for it. */
async function show(address) {
  await page.goto(`${server.url}/#/${address}`);
  await settled(address);
}

async function settled(address) {
  const request = requestOf(parseQuery(new URLSearchParams(address.replace(/^\?/, ''))));
  const query = new URLSearchParams(Object.entries(request).flatMap(([name, value]) => [value].flat().map((one) => [name, one])));
  const { data } = await server.get(`/v1/summaries?${query}`);
  const wanted = data.map(({ id }) => id).join();
  await page.waitForFunction((ids) => [...document.querySelectorAll('.jobs tbody tr')].map(({ dataset }) => dataset.id).join() === ids, wanted);
  return data;
}

test('the first page shows the newest jobs, and counts all by status', async () => {
  await show('');
  assert.equal(await rows().count(), 50);
  await page.getByText(`1–50 of ${(JOBS + 1).toLocaleString('en-US')}`).waitFor();
  await page.locator('#connection[data-state="live"]').waitFor();
  const counts = await page.locator('.filters a').allTextContents();
  assert.ok(counts.includes('Failed 24') && counts.includes('Queued 24'), counts.join());
  const { data } = await server.get('/v1/summaries?limit=50');
  const job = data.find(({ gain }) => Number.isFinite(gain));
  const text = await row(job.id).innerText();
  for (const part of [job.name, job.method, `${job.best_top1.toFixed(2)} %`, Math.abs(job.gain).toFixed(2)]) assert.ok(text.includes(part), `${part} in ${text}`);
  const title = await row(job.id).locator('.gain').getAttribute('title');
  assert.match(title, /^Compared with \w+: [\d.]+ % ± [\d.]+, the mean of [23] jobs, with the same teacher, student, data set and training/);
  assert.equal((await row(job.id).locator('.spark-line').getAttribute('points')).split(' ').length, 20);
  page.assertQuiet();
});

test('a heading sorts, and the browser’s history leads back', async () => {
  await page.getByRole('link', { name: 'Best top-1' }).click();
  const best = await settled('?sort=best_top1');
  assert.equal(hash(), '#/?sort=best_top1');
  assert.ok(best.every((job, index) => index === 0 || job.best_top1 <= best[index - 1].best_top1));
  await page.getByRole('link', { name: 'Best top-1' }).click();
  await settled('?sort=best_top1&order=asc');
  assert.equal(await page.locator('[aria-sort]').getAttribute('aria-sort'), 'ascending');
  await page.goBack();
  await settled('?sort=best_top1');
  await page.goBack();
  await settled('');
  for (const sort of ['gain', 'eta', 'status', 'name', 'pair', 'worker']) await show(`?sort=${sort}`);
  page.assertQuiet();
});

test('typing searches, and the address can be shared', async () => {
  await show('');
  const entries = await page.evaluate(() => history.length);
  await page.keyboard.press('/');
  await page.keyboard.type('vgg13 sdd_dkd');
  await settled('?q=vgg13 sdd_dkd');
  assert.equal(await page.evaluate(() => history.length), entries, 'typing must not add entries to the history');
  for (const text of await rows().allInnerTexts()) assert.match(text, /vgg13[^]*sdd_dkd|sdd_dkd[^]*vgg13/);
  await page.getByRole('link', { name: 'Failed' }).click();
  await settled('?status=failed&q=vgg13 sdd_dkd');
  const other = await openPage(browser);
  await other.goto(page.url());
  await other.locator('.jobs tbody tr').first().waitFor();
  assert.deepEqual(await other.locator('.jobs tbody tr').evaluateAll((all) => all.map(({ dataset }) => dataset.id)), await shownIds());
  assert.equal(await other.getByRole('searchbox').inputValue(), 'vgg13 sdd_dkd');
  await other.context().close();
  await page.getByRole('searchbox').fill('no such thing');
  await page.getByText('No job matches.').waitFor();
  await page.getByRole('searchbox').press('Escape');
  await settled('?status=failed');
  page.assertQuiet();
});

test('a label in a row filters by it, and the filter can be removed', async () => {
  await page.setViewportSize({ width: 1680, height: 900 });
  await show('?q=vgg13');
  await rows().first().locator('.label').click();
  const label = new URLSearchParams(hash().slice(3)).get('label');
  await settled(`?label=${label}`);
  await page.getByRole('link', { name: `Remove the filter by label ${label}` }).click();
  await settled('');
  await page.setViewportSize({ width: 1280, height: 900 });
  page.assertQuiet();
});

test('labels of jobs can be chosen by keyboard alone', async () => {
  await show('');
  await page.keyboard.press('l');
  const field = page.getByRole('combobox', { name: 'Filter by label' });
  const options = page.getByRole('option');
  await options.first().waitFor();
  const { data } = await server.get('/v1/labels');
  assert.deepEqual(await options.allTextContents(), data.map(({ key, value, jobs }) => `${key}:${value}${jobs}`));
  assert.equal(await field.getAttribute('aria-expanded'), 'true');
  await assertAccessible(page);
  await page.keyboard.type('edg');
  await page.waitForFunction(() => document.querySelectorAll('[role="option"]').length === 1);
  await page.keyboard.press('ArrowDown');
  assert.equal(await field.getAttribute('aria-activedescendant'), await options.first().getAttribute('id'));
  assert.equal(await options.first().getAttribute('aria-selected'), 'true');
  await page.keyboard.press('Enter');
  await page.waitForURL((url) => url.hash === '#/?label=team%3Aedge');
  await settled('?label=team%3Aedge');
  assert.equal(await field.inputValue(), '');
  assert.equal(await field.getAttribute('aria-expanded'), 'false');
  await page.keyboard.type('no such label');
  await page.getByText('No job has a matching label.').waitFor();
  await page.keyboard.press('Escape');
  await page.getByText('No job has a matching label.').waitFor({ state: 'hidden' });
  await page.keyboard.press('ArrowDown');
  assert.equal(await page.getByRole('option', { name: 'team:edge' }).count(), 0, 'a chosen label must not be offered again');
  await page.goBack();
  await settled('');
  page.assertQuiet();
});

test('the labels of a job are visible at every width', async () => {
  for (const width of [360, 1280, 1920]) {
    await page.setViewportSize({ width, height: 900 });
    await show('?label=team:edge');
    const label = page.locator('.jobs .label').first();
    assert.equal(await label.textContent(), 'team:edge');
    const { x, width: wide, height } = await label.boundingBox();
    assert.ok(wide > 40 && height > 10 && x >= 0 && x + wide <= width, `${x} ${wide} ${height} at ${width}`);
    const name = await page.locator('.jobs tbody th a').first().evaluate(({ clientWidth, scrollWidth }) => clientWidth / scrollWidth);
    assert.ok(name > 0.5, `the name must have room at ${width}`);
  }
  await page.setViewportSize({ width: 1280, height: 900 });
});

test('the keyboard moves through the list, selects, turns pages and opens a job', async () => {
  await page.reload();
  await show('');
  const [first, second, third] = await shownIds();
  await page.keyboard.press('j');
  assert.equal(await focusedRow(), first);
  await page.keyboard.press('j');
  await page.keyboard.press('ArrowDown');
  assert.equal(await focusedRow(), third);
  await page.keyboard.press('k');
  await page.keyboard.press('x');
  assert.equal(await row(second).getByRole('checkbox').isChecked(), true);
  await page.getByRole('toolbar', { name: 'Selected jobs' }).getByText('1 selected').waitFor();
  await page.keyboard.press('Escape');
  assert.equal(await row(second).getByRole('checkbox').isChecked(), false);
  await page.keyboard.press('n');
  await settled('?page=2');
  await page.keyboard.press('p');
  await settled('');
  await page.keyboard.press('?');
  await dialog().getByText('next job').waitFor();
  const edges = await dialog().evaluate((box) => [box.getBoundingClientRect().left, box.querySelector('h2').getBoundingClientRect().left]);
  assert.ok(edges[1] - edges[0] > 10, `the text must have room: ${edges}`);
  await page.keyboard.press('j');
  await page.keyboard.press('Escape');
  await dialog().waitFor({ state: 'detached' });
  // Single-letter shortcuts can be turned off.
  const setKeys = async (isOn) => {
    await page.getByRole('button', { name: 'Keyboard shortcuts' }).click();
    await dialog().getByRole('checkbox').setChecked(isOn);
    await dialog().getByRole('button', { name: 'Close' }).click();
  };
  await setKeys(false);
  await page.keyboard.press('x');
  await page.keyboard.press('j');
  assert.equal(await focusedRow(), undefined);
  await setKeys(true);
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.waitForURL(new RegExp(`#/jobs/${first}$`));
  page.assertQuiet();
});

test('Back keeps the place and the selection, and the crumb keeps the filters', async () => {
  await show('?label=team:edge');
  const ids = await shownIds();
  await row(ids[2]).getByRole('checkbox').check();
  await row(ids[4]).getByRole('checkbox').check();
  const link = row(ids[44]).locator('th a').first();
  await link.scrollIntoViewIfNeeded();
  const before = await page.evaluate(() => window.scrollY);
  assert.ok(before > 300, `the list must be scrolled: ${before}`);
  await link.click();
  await page.locator('.job-head').waitFor();
  assert.equal(await page.evaluate(() => window.scrollY), 0, 'a new page starts at its top');
  await page.goBack();
  await settled('?label=team:edge');
  await page.waitForFunction((top) => Math.abs(window.scrollY - top) < 3, before);
  await page.getByRole('toolbar', { name: 'Selected jobs' }).getByText('2 selected').waitFor();
  assert.equal(await row(ids[4]).getByRole('checkbox').isChecked(), true);
  assert.equal(await focusedRow(), ids[44]);
  await page.goForward();
  await page.locator('.crumb').getByRole('link', { name: 'Jobs' }).click();
  await settled('?label=team:edge');
  assert.equal(hash(), '#/?label=team%3Aedge');
  // Searching replaces the address, which must not forget the entry.
  await page.getByRole('searchbox').pressSequentially('vgg13', { delay: 60 });
  await settled('?label=team:edge&q=vgg13');
  const [found] = await shownIds();
  await row(found).getByRole('checkbox').check();
  await row(found).locator('th a').first().click();
  await page.locator('.job-head').waitFor();
  await page.goBack();
  await settled('?label=team:edge&q=vgg13');
  await page.getByRole('toolbar', { name: 'Selected jobs' }).getByText('1 selected').waitFor();
  await page.keyboard.press('Escape');
  page.assertQuiet();
});

test('a bulk deletion asks first, and reports what failed', async () => {
  page.expected.push(refused(404, 409));
  const [one, two] = [idOf(100), idOf(104)];
  const queued = idOf(102);
  await show(`?q=${one.slice(0, -3)}10&order=asc`);
  for (const id of [one, two, queued]) await row(id).getByRole('checkbox').check();
  await server.remove(`/v1/jobs/${two}`);
  await page.getByRole('toolbar').getByRole('button', { name: /^Delete/ }).click();
  await dialog().getByText('Delete 2 jobs?').waitFor();
  await dialog().getByText('1 job (queued) stays unchanged.').waitFor();
  await dialog().getByRole('button', { name: 'Keep them' }).click();
  assert.equal((await fetch(`${server.url}/v1/jobs/${one}`)).status, 200);
  // The page hears of the deletion, but the selection stays as the user made it.
  await page.getByRole('toolbar').getByRole('button', { name: /^Delete/ }).click();
  await dialog().getByRole('button', { name: 'Delete them' }).click();
  await page.getByRole('alert').getByText('1 job deleted. 1 job could not be deleted:').waitFor();
  await page.getByRole('alert').getByText(`there is no job ${two}`).waitFor();
  await row(one).waitFor({ state: 'detached' });
  await screenshot(page, 'jobs-bulk-report');
  assert.equal((await fetch(`${server.url}/v1/jobs/${one}`)).status, 404);
  assert.equal((await fetch(`${server.url}/v1/jobs/${queued}`)).status, 200);
  await page.getByRole('button', { name: 'Dismiss' }).click();
  await page.keyboard.press('Escape');
  page.assertQuiet();
});

test('all jobs of a search can be cancelled at once, on all pages', { timeout: PATIENCE }, async () => {
  await show('?status=queued&status=running&status=pausing&status=cancelling&status=paused&rows=50');
  const { total } = await server.get('/v1/summaries?status=queued&status=running&limit=1');
  await show('?status=queued');
  await page.getByRole('checkbox', { name: 'Select all jobs on this page' }).check();
  await page.getByRole('toolbar').getByRole('button', { name: /^Cancel/ }).click();
  await dialog().getByText(/^23 queued: will not start\.|^24 queued: will not start\./).waitFor();
  await dialog().getByRole('button', { name: 'Cancel them' }).click();
  await page.getByRole('alert').getByText(/jobs asked to stop\.$/).waitFor();
  await page.getByText('No job has this status.').waitFor();
  await page.getByRole('button', { name: 'Dismiss' }).click();
  const left = await server.get('/v1/summaries?status=queued&status=running&limit=1');
  assert.ok(left.total < total);
  await show('?q=vision');
  await page.keyboard.press('a');
  const all = page.getByRole('button', { name: /^Select all/ });
  const many = (await server.get('/v1/summaries?q=vision&limit=1')).total;
  assert.equal(await all.textContent(), `Select all ${many}`);
  await all.click();
  await page.getByText(`${many} selected`).waitFor();
  await page.keyboard.press('Escape');
  page.assertQuiet();
});

test('rows are updated in place, and only new jobs move them', { timeout: PATIENCE }, async () => {
  await show('?status=running');
  await page.locator('#connection[data-state="live"]').waitFor();
  await page.evaluate(() => { window.sameDocument = true; });
  await watchShifts(page);
  const id = (await shownIds())[3];
  const progress = (fraction) => server.sql(`update jobs set progress = jsonb_set(jsonb_set(progress, '{fraction}', '${fraction}'), '{eta_seconds}', '7200'), best_top1 = 91.25 where id = '${id}'`);
  progress(0.61);
  await row(id).getByText('61 %', { exact: true }).waitFor();
  await row(id).getByText('91.25 %').waitFor();
  await row(id).getByText('2 h 0 min').waitFor();
  progress(0.62);
  await row(id).getByText('62 %', { exact: true }).waitFor();
  await assertStill(page);
  await show('');
  const { id: posted } = await server.post('/v1/jobs', smallJob('posted meanwhile', 2));
  await row(posted).waitFor();
  assert.equal((await shownIds())[0], posted);
  await row(posted).locator('.badge[data-status="succeeded"]').waitFor({ timeout: PATIENCE });
  await server.remove(`/v1/jobs/${posted}`);
  await row(posted).waitFor({ state: 'detached' });
  assert.equal(await page.evaluate(() => window.sameDocument), true);
  page.assertQuiet();
});

test('the focus stays on its row while rows move', async () => {
  await show('?status=running&sort=progress');
  const ids = await shownIds();
  await row(ids[5]).getByRole('link').first().focus();
  server.sql(`update jobs set progress = jsonb_set(progress, '{fraction}', '0.99') where id = '${ids[5]}'`);
  await page.waitForFunction((id) => document.querySelector('.jobs tbody tr').dataset.id === id, ids[5]);
  assert.equal(await focusedRow(), ids[5]);
  page.assertQuiet();
});

test('the student of any job can be a teacher, however many jobs came later', async () => {
  const { name } = await server.get(`/v1/jobs/${idOf(0)}`);
  server.sql(`update jobs set name = 'the very first' where id = '${idOf(0)}'`);
  await page.goto(`${server.url}/#/new`);
  await page.getByRole('radio', { name: 'Student of a job' }).check();
  await page.getByRole('combobox', { name: 'Search the jobs' }).pressSequentially('very first', { delay: 60 });
  await page.getByRole('option', { name: 'the very first' }).click();
  await page.locator('.picked a').getByText('the very first').waitFor();
  assert.equal(await page.locator('.picked a').getAttribute('href'), `#/jobs/${idOf(0)}`);
  server.sql(`update jobs set name = '${name}' where id = '${idOf(0)}'`);
});

test('the list is accessible and fits on every screen', async () => {
  await onEveryScreen(browser, async (other, { name }) => {
    await other.goto(`${server.url}/#/?sort=gain`);
    await other.locator('.jobs tbody tr').first().waitFor();
    await other.locator('.jobs tbody input').first().check();
    await assertFits(other);
    await assertAccessible(other);
    await screenshot(other, `list-${name}`);
  });
});

test('the list shows a lost connection, and recovers', { timeout: PATIENCE }, async () => {
  await show('?status=running');
  await page.locator('#connection[data-state="live"]').waitFor();
  page.expected.push(UNREACHABLE);
  await server.kill();
  await page.getByText('Connection lost – retrying.').waitFor();
  assert.equal(await rows().first().locator('.rest').isVisible(), false, 'the page must not claim a time left');
  await server.start();
  await page.locator('#lost').waitFor({ state: 'hidden', timeout: PATIENCE });
  await settled('?status=running');
  page.assertQuiet();
});
