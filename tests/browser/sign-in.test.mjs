// A server that needs a token: signing in, and what the dashboard does with the token.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { assertAccessible, closeDashboard, onEveryScreen, openDashboard, refused, screenshot } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const TOKEN = 'a-token-of-the-operator-0123456789-and-more';
const UNAUTHORIZED = refused(401);

const server = new Server({ DISTILLERY_ADMIN_TOKEN: TOKEN });
let browser;
let page;

before(async () => {
  ({ browser, page } = await openDashboard(server));
  page.expected.push(UNAUTHORIZED);
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const token = () => page.getByLabel('Token', { exact: true });
const button = (name) => page.getByRole('button', { name, exact: true });

test('a page without a token asks for one', async () => {
  await page.goto(`${server.url}/#/workers`);
  await token().waitFor();
  assert.match(await page.title(), /^Sign in/);
  assert.equal(await button('Sign out').isVisible(), false);
  await screenshot(page, 'sign-in');
});

test('a wrong token is rejected with a message', async () => {
  await token().fill('dst_wrong');
  await button('Sign in').click();
  await page.getByRole('alert').getByText('This token is not valid.').waitFor();
  page.assertQuiet();
});

test('a valid token opens the requested page, which no script can read it from', async () => {
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

test('command lines name the token’s variable and do not contain the token', async () => {
  await page.goto(`${server.url}/#/new`);
  await page.locator('.verdict[data-state="incomplete"]').waitFor();
  await page.locator('summary', { hasText: 'Request' }).click();
  const line = await page.locator('.sent .curl code').textContent();
  assert.match(line, /-H "Authorization: Bearer \$TOKEN"/);
  assert.ok(!(await page.content()).includes(TOKEN));
  page.assertQuiet();
});

test('the sign-in page is accessible on every screen', async () => {
  await onEveryScreen(browser, async (other, { name }) => {
    other.expected.push(UNAUTHORIZED);
    await other.goto(`${server.url}/#/`);
    await other.getByLabel('Token', { exact: true }).waitFor();
    await assertAccessible(other);
    await screenshot(other, `sign-in-${name}`);
  });
});

test('signing out removes the token', async () => {
  await button('Sign out').click();
  await token().waitFor();
  await page.reload();
  await token().waitFor();
  assert.deepEqual(await page.context().cookies(), []);
  page.assertQuiet();
});
