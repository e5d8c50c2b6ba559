// The page of the best settings, and columns of settings in the list.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { addJobs, smallJob } from './support/jobs.mjs';
import { assertAccessible, assertFits, closeDashboard, downloaded, onEveryScreen, openDashboard, openPage, refused } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const server = new Server();
let browser;
let page;

before(async () => {
  ({ browser, page } = await openDashboard(server));
  await addJobs(server, { jobs: 240, evaluations: 4 });
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const table = () => page.getByRole('region', { name: 'Groups, table' });
const withLines = (count) => page.locator(`section[aria-label="Parallel coordinates"][data-lines="${count}"]`).waitFor();

test('groups are those of the method first, and of whatever is added', async () => {
  await page.goto(`${server.url}/#/`);
  await page.getByRole('link', { name: 'Best settings' }).click();
  await withLines(7);
  const field = page.getByRole('combobox', { name: 'Group by' });
  await field.fill('student');
  await page.getByRole('option', { name: 'student', exact: true }).click();
  await page.getByRole('columnheader', { name: 'student' }).waitFor();
  await page.getByText(`${server.url}/v1/groups?by=method&by=student&sort=top1&order=desc&limit=200`).waitFor();
  const rows = await table().getByRole('row').count();
  assert.ok(rows > 8, String(rows));
  await withLines(rows - 1);
  await page.getByRole('link', { name: 'Gain' }).click();
  await page.waitForURL(/sort=gain/);
  await table().locator('th[aria-sort="descending"]').getByText('Gain').waitFor();
  const saved = await downloaded(page, () => page.getByRole('button', { name: 'CSV' }).click());
  assert.match(saved.bytes.toString(), /^method,student,top1,/);
  await page.getByRole('link', { name: 'Do not group by student' }).click();
  await withLines(7);
  page.assertQuiet();
});

test('gains within the deviation of their baseline are neither good nor bad', async () => {
  await page.goto(`${server.url}/#/groups?by=method&by=teacher&by=student`);
  const gains = table().locator('.gain');
  await gains.first().waitFor();
  for (const gain of await gains.all()) {
    const [text, sign, title] = [await gain.innerText(), await gain.getAttribute('data-sign'), await gain.getAttribute('title')];
    if (title) assert.equal(sign, '0', `${text}: ${title}`);
    else if (text !== '–' && text !== '0.00') assert.equal(sign, text.startsWith('−') ? '-1' : '1', text);
  }
});

test('gains within the deviation of their baseline are grey', async () => {
  const group = (method, gain) => ({ values: [method], top1: 70, deviation: 1, n: 2, copies: 0, best: 71, gain, baseline_deviation: 0.5, jobs: [] });
  const data = [group('kd', 0.5), group('dkd', 0.9), group('nkd', -0.9), group('ttm', -0.4)];
  await page.route(/\/v1\/groups\?/, (route) => route.fulfill({ json: { by: ['method'], data, total: data.length } }));
  await page.goto(`${server.url}/#/groups?sort=gain`);
  await withLines(data.length);
  const gains = await table().locator('.gain').evaluateAll((found) => found.map((gain) => [gain.dataset.sign, getComputedStyle(gain).color]));
  assert.deepEqual(gains.map(([sign]) => sign), ['0', '1', '-1', '0']);
  assert.equal(new Set(gains.map(([, color]) => color)).size, 3);
  const muted = await table().evaluate((element) => {
    element.style.color = 'var(--muted)';
    return getComputedStyle(element).color;
  });
  assert.deepEqual([gains[0][1], gains[3][1]], [muted, muted]);
  await page.unroute(/\/v1\/groups\?/);
});

test('hundreds of groups with long values are cut, and built again only when they change', { timeout: PATIENCE }, async () => {
  let best = 70;
  const group = (index) => ({ values: [{ name: 'x'.repeat(5000), index }], top1: best - index / 100, deviation: null, n: 1, copies: 0, best, gain: null, baseline_deviation: null, jobs: [] });
  const answer = () => ({ by: ['/student'], total: 3000, data: Array.from({ length: 200 }, (_, index) => group(index)) });
  await page.route(/\/v1\/groups\?/, (route) => route.fulfill({ json: answer() }));
  await page.goto(`${server.url}/#/groups?by=%2Fstudent`);
  await withLines(200);
  await page.getByText('The first 200 of 3,000 groups').waitFor();
  const length = (await table().innerText()).length;
  assert.ok(length < 50_000, String(length));
  await table().getByRole('row').nth(1).evaluate((row) => { row.dataset.mark = 'kept'; });
  const changed = () => Promise.all([page.waitForResponse(/\/v1\/groups\?/), server.post('/v1/jobs', smallJob('another'))]);
  await changed();
  await page.evaluate(() => new Promise(requestAnimationFrame));
  assert.equal(await table().locator('[data-mark]').count(), 1);
  best = 71;
  await changed();
  await table().getByText('71.00 %').first().waitFor();
  assert.equal(await table().locator('[data-mark]').count(), 0);
  await page.unroute(/\/v1\/groups\?/);
});

test('no text of parallel coordinates lies over another, however narrow the screen', { timeout: PATIENCE }, async () => {
  const by = ['method', 'student', '/training/optimizer/learning_rate', '/distillation/scales', '/dataset/limit_per_class', 'label:a_long_name_of_a_label'];
  const values = [['sdd_kd_with_a_long_name', 'WWWWWWWWWWWWWWWW', 0.000123457, [1, 2, 4], 100, 'a value of this label'], ['kd', 'resnet8', 0.1, [1], 20000, 'another value of it']];
  for (const width of [360, 390, 1280]) {
    const narrow = await openPage(browser, { viewport: { width, height: 900 } });
    let count = 1;
    const group = (all, index) => ({ values: all.slice(0, count), top1: 70 + index, deviation: null, n: 1, copies: 0, best: 71, gain: null, baseline_deviation: null, datasets: 1, jobs: [] });
    await narrow.route(/\/v1\/groups\?/, (route) => route.fulfill({ json: { by: by.slice(0, count), data: values.map(group), total: 2 } }));
    for (count of [1, 2, by.length]) {
      await narrow.goto(`${server.url}/#/groups?${by.slice(0, count).map((key) => `by=${encodeURIComponent(key)}`).join('&')}`);
      const plot = narrow.locator('section[aria-label="Parallel coordinates"][data-lines="2"] svg');
      await plot.locator('line').nth(count).waitFor({ state: 'attached' });
      const faults = await plot.evaluate((element) => {
        const whole = element.getBoundingClientRect();
        const texts = [...element.querySelectorAll('text')].map((text) => ({ text: text.textContent, box: text.getBoundingClientRect() }));
        const beyond = texts.filter(({ box }) => box.left < whole.left || box.right > whole.right);
        const overlap = (one, other) => one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
        const pairs = texts.flatMap((one, index) => texts.slice(index + 1).filter((other) => overlap(one.box, other.box)).map((other) => `${one.text} over ${other.text}`));
        return [...beyond.map(({ text }) => `${text} is cut off`), ...pairs];
      });
      assert.deepEqual(faults, [], `${count} settings at ${width} px`);
      await assertFits(narrow);
    }
    await narrow.locator('svg.parallel text title', { hasText: 'sdd_kd_with_a_long_name' }).waitFor({ state: 'attached' });
    narrow.assertQuiet();
    await narrow.context().close();
  }
});

test('what cannot be grouped by is said instead of the groups of another address', async () => {
  await page.goto(`${server.url}/#/groups?by=method&by=student`);
  await page.getByRole('columnheader', { name: 'student' }).waitFor();
  page.expected.push(refused(400));
  await page.goto(`${server.url}/#/groups?by=%2Ftraining%2Fepoch`);
  await page.getByText('no job has the setting /training/epoch').waitFor();
  await table().waitFor({ state: 'hidden' });
  // That is the server's answer: nothing is out of date.
  await page.locator('#connection[data-state="live"]').waitFor();
  await page.goto(`${server.url}/#/groups?by=method&by=student`);
  await page.getByRole('columnheader', { name: 'student' }).waitFor();
});

test('any setting can be a column of the list', async () => {
  await page.goto(`${server.url}/#/`);
  await page.getByRole('combobox', { name: 'Add a column' }).fill('epochs');
  await page.getByRole('option', { name: /^\/training\/epochs/ }).click();
  await page.getByRole('columnheader', { name: 'epochs' }).waitFor();
  await page.locator('.jobs tbody tr .setting', { hasText: /^\d+$/ }).first().waitFor();
  await page.reload();
  await page.locator('.jobs tbody tr .setting', { hasText: /^\d+$/ }).first().waitFor();
  await page.getByRole('link', { name: 'Remove the column /training/epochs' }).click();
  await page.waitForFunction(() => document.querySelectorAll('.jobs tbody tr .setting').length === 0);
  page.assertQuiet();
});

test('the pages fit every screen and can be used by everybody', { timeout: PATIENCE }, async () => {
  await onEveryScreen(browser, async (screen) => {
    await screen.goto(`${server.url}/#/groups?by=method&by=student`);
    await screen.getByRole('region', { name: 'Groups, table' }).getByRole('row').nth(1).waitFor();
    await assertFits(screen);
    await assertAccessible(screen);
    await screen.goto(`${server.url}/#/groups?by=%2Flabels%2F${'x'.repeat(150)}&label=${'y'.repeat(60)}%3A${'z'.repeat(60)}`);
    await screen.getByText('No matching job has succeeded yet.').waitFor();
    await screen.getByRole('link', { name: /^Do not group by/ }).waitFor();
    await assertFits(screen);
    await screen.goto(`${server.url}/#/?column=%2Ftraining%2Fepochs`);
    await screen.locator('.jobs tbody tr .setting').first().waitFor();
    await assertFits(screen);
  });
});
