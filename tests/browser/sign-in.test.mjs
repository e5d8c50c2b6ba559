// A server with a token: the dashboard asks for it, keeps it where no script reads it, and gives it back.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { PATIENCE, Server, launchBrowser, openPage, screenshot } from './support.mjs';

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

test('signing out ends it', async () => {
  await button('Sign out').click();
  await token().waitFor();
  await page.reload();
  await token().waitFor();
  assert.deepEqual(await page.context().cookies(), []);
  page.assertQuiet();
});
