// A server with a token: the dashboard asks for it, keeps it where no script reads it, and gives it back.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { PATIENCE, Server, assertAccessible, launchBrowser, openPage, screenshot } from './support.mjs';

const TOKEN = 'a-token-of-the-operator-0123456789-and-more';
const REFUSED = /Failed to load resource: the server responded with a status of 401/;

const server = new Server({ DISTILLERY_ADMIN_TOKEN: TOKEN });
let browser;
let page;

before(async () => {
  [browser] = await Promise.all([launchBrowser(), server.start()]);
  page = await openPage(browser);
  page.expected.push(REFUSED);
}, { timeout: PATIENCE });

after(async () => {
  await browser?.close();
  await server.stop();
});

const token = () => page.getByLabel('Token', { exact: true });
const button = (name) => page.getByRole('button', { name, exact: true });

test('without a token a page asks for one', async () => {
  await page.goto(`${server.url}/#/workers`);
  await token().waitFor();
  assert.match(await page.title(), /^Sign in/);
  assert.equal(await button('Sign out').isVisible(), false);
  await screenshot(page, 'sign-in');
});

test('a wrong token is refused with a message', async () => {
  await token().fill('dst_wrong');
  await button('Sign in').click();
  await page.getByRole('alert').getByText('That token is not valid here.').waitFor();
  page.assertQuiet();
});

test('the right one opens the page that was asked for, with live updates', async () => {
  await token().fill(TOKEN);
  await token().press('Enter');
  await page.getByRole('heading', { name: 'Workers' }).waitFor();
  await page.goto(`${server.url}/#/`);
  await page.locator('#connection[data-state="live"]').waitFor();
  const readable = await page.evaluate(() => `${document.cookie} ${JSON.stringify({ ...localStorage, ...sessionStorage })} ${location.href}`);
  assert.ok(!readable.includes(TOKEN), 'a script can read it');
  await page.reload();
  await page.locator('#connection[data-state="live"]').waitFor();
  page.assertQuiet();
});

test('the lines for a shell name the token and do not hold it', async () => {
  await page.goto(`${server.url}/#/new`);
  await page.locator('.verdict[data-state="incomplete"]').waitFor();
  await page.locator('summary', { hasText: 'What will be sent' }).click();
  const line = await page.locator('.sent .curl code').textContent();
  assert.match(line, /-H "Authorization: Bearer \$TOKEN"/);
  assert.ok(!(await page.content()).includes(TOKEN));
  page.assertQuiet();
});

test('the page that asks is accessible, in light and dark and on a telephone', async () => {
  for (const [colorScheme, width] of [['light', 1280], ['dark', 1280], ['light', 360], ['dark', 360]]) {
    const other = await openPage(browser, { colorScheme, viewport: { width, height: 800 } });
    other.expected.push(REFUSED);
    await other.goto(`${server.url}/#/`);
    await other.getByLabel('Token', { exact: true }).waitFor();
    await assertAccessible(other);
    await screenshot(other, `sign-in-${colorScheme}-${width}`);
    other.assertQuiet();
    await other.context().close();
  }
});

test('signing out ends it', async () => {
  await button('Sign out').click();
  await token().waitFor();
  await page.reload();
  await token().waitFor();
  assert.deepEqual(await page.context().cookies(), []);
  page.assertQuiet();
});
