// A real browser for the dashboard's tests.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

import { ROOT } from './server.mjs';

const SCREENSHOTS = join(ROOT, 'target/screenshots');
const AXE = readFileSync(join(ROOT, 'node_modules/axe-core/axe.min.js'), 'utf8');
/** The browser's own messages about requests that fail, for `page.expected`. */
export const UNREACHABLE = /Failed to load resource: net::ERR_|net::ERR_INCOMPLETE_CHUNKED_ENCODING/;
export const refused = (...statuses) => new RegExp(`Failed to load resource: the server responded with a status of (${statuses.join('|')})`);

/** From a telephone to a wall. */
export const SCREENS = [['light', 1280], ['dark', 1280], ['light', 360], ['dark', 360], ['light', 3840]]
  .map(([colorScheme, width]) => ({ colorScheme, width, viewport: { width, height: width > 2000 ? 2160 : 900 } }));

/** Starts a server and a browser, and opens a page. */
export async function openDashboard(server) {
  const [browser] = await Promise.all([launchBrowser(), server.start()]);
  return { browser, page: await openPage(browser) };
}

export async function closeDashboard(server, browser) {
  await browser?.close();
  await server.stop();
}

export async function launchBrowser() {
  const executablePath = process.env.CHROMIUM || execFileSync(join(ROOT, 'scripts/browser'), { encoding: 'utf8' }).trim();
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
}

/** A page that records errors and warnings. `page.expected` holds patterns of those that a test provokes. */
export async function openPage(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const complaints = [];
  page.on('console', (message) => { if (['error', 'warning'].includes(message.type())) complaints.push(`${message.text()} ${message.location().url}`); });
  page.on('pageerror', (error) => complaints.push(`uncaught: ${error.stack}`));
  page.on('dialog', (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
  });
  page.expected = [];
  page.assertQuiet = () => {
    const unexpected = complaints.filter((text) => !page.expected.some((pattern) => pattern.test(text)));
    assert.deepEqual(unexpected, [], 'the browser complained');
  };
  return page;
}

/** Runs `look(page, screen)` on a page of each size and colour scheme. */
export async function onEveryScreen(browser, look) {
  for (const { colorScheme, width, viewport } of SCREENS) {
    const page = await openPage(browser, { colorScheme, viewport });
    await look(page, { colorScheme, width, name: `${colorScheme}-${width}` });
    page.assertQuiet();
    await page.context().close();
  }
}

/** axe-core finds no faults. */
export async function assertAccessible(page) {
  // The page's Content-Security-Policy does not apply to what the debugger runs.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html}\n${failureSummary}`));
  assert.deepEqual(found, [], 'axe-core found faults');
}

/** The page needs no horizontal scrolling. */
export async function assertFits(page) {
  const { scrollWidth, clientWidth } = await page.evaluate(() => {
    const { scrollWidth, clientWidth } = document.documentElement;
    return { scrollWidth, clientWidth };
  });
  assert.ok(scrollWidth <= clientWidth, `the page is ${scrollWidth - clientWidth} px too wide for ${clientWidth} px`);
}

/** For people: with SCREENSHOTS=1 in the environment, a picture in target/screenshots. On a wall it takes seconds. */
export async function screenshot(page, name) {
  if (!process.env.SCREENSHOTS) return;
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });
}

/** The file that `act()` makes the browser download. */
export async function downloaded(page, act) {
  const [download] = await Promise.all([page.waitForEvent('download'), act()]);
  return { name: download.suggestedFilename(), bytes: readFileSync(await download.path()) };
}

/** The badge of a job's page once it has this status. */
export const statusBadge = (page, status) => page.locator(`h1 + .badge[data-status="${status}"]`);

/** The id of the job whose page is open. */
export const shownJob = (page) => new URL(page.url()).hash.split('/').at(-1);

/** Resolves once the page has drawn what was changed before. */
export function drawn(page) {
  return page.evaluate(() => new Promise((done) => { requestAnimationFrame(() => requestAnimationFrame(done)); }));
}
