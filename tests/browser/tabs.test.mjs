// Many tabs of one browser, which opens at most six connections to a server.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { addJobs, idOf } from './support/jobs.mjs';
import { UNREACHABLE, closeDashboard, openDashboard } from './support/page.mjs';
import { startProxy } from './support/proxy.mjs';
import { PATIENCE, Server } from './support/server.mjs';

/** Jobs that run as far as the database says; no worker holds them. */
const RUNNING = [51, 101, 151, 201].map(idOf);
const TABS = 20;

const server = new Server();
let browser;
let first;
let proxy;

before(async () => {
  ({ browser, page: first } = await openDashboard(server));
  await addJobs(server, { jobs: 240, evaluations: 5 });
  proxy = await startProxy(server.url);
}, { timeout: PATIENCE });

after(async () => {
  await proxy?.close();
  await closeDashboard(server, browser);
});

const live = (page) => page.locator('#connection[data-state="live"]').waitFor();
const progress = (id, percent) => server.sql(`update jobs set progress = jsonb_set(progress, '{fraction}', '${percent / 100}') where id = '${id}'`);

async function openTab(address) {
  const tab = await first.context().newPage();
  tab.setDefaultTimeout(30_000);
  await tab.goto(`${proxy.url}/#${address}`);
  return tab;
}

test('twenty tabs are live at once, over one stream', { timeout: PATIENCE }, async () => {
  const addresses = Array.from({ length: TABS }, (_, index) => {
    const id = RUNNING[index % RUNNING.length];
    return [`/jobs/${id}`, '/?status=running', `/compare?job=${id}`, `/jobs/${id}`, '/workers'][index % 5];
  });
  const tabs = [];
  for (const address of addresses) tabs.push(await openTab(address));
  await Promise.all(tabs.map(live));
  RUNNING.forEach((id) => progress(id, 77));
  await Promise.all(tabs.map((tab, index) => {
    if (addresses[index].startsWith('/jobs/')) return tab.locator('.progress-line').getByText('77 %').waitFor();
    if (addresses[index].startsWith('/?')) return tab.locator(`tr[data-id="${RUNNING[0]}"]`).getByText('77 %').waitFor();
    return live(tab);
  }));
  assert.equal(proxy.mostStreams, 1);
  // The tab that opened the stream can go.
  await tabs.shift().close();
  addresses.shift();
  progress(RUNNING[0], 78);
  await tabs[addresses.indexOf('/?status=running')].locator(`tr[data-id="${RUNNING[0]}"]`).getByText('78 %').waitFor();
  for (const tab of tabs) await tab.close();
  assert.equal(proxy.mostStreams, 1);
});

test('a hidden tab asks less, and catches up when it is shown', { timeout: PATIENCE }, async () => {
  const hidden = await first.context().newPage();
  await hidden.addInitScript(() => {
    window.isHidden = false;
    Object.defineProperty(Document.prototype, 'hidden', { get: () => window.isHidden });
  });
  const show = (isShown) => hidden.evaluate((isHidden) => {
    window.isHidden = isHidden;
    document.dispatchEvent(new Event('visibilitychange'));
  }, !isShown);
  for (const [address, figure] of [[`/jobs/${RUNNING[0]}`, '.progress-line'], ['/?status=running', `tr[data-id="${RUNNING[0]}"]`]]) {
    await hidden.goto(`${proxy.url}/#${address}`);
    await live(hidden);
    const visible = await openTab('/?status=running');
    await live(visible);
    await show(false);
    const asked = [];
    hidden.on('request', (request) => asked.push(request.url()));
    for (const percent of [31, 32, 33]) {
      progress(RUNNING[0], percent);
      await visible.locator(`tr[data-id="${RUNNING[0]}"]`).getByText(`${percent} %`).waitFor();
    }
    assert.deepEqual(asked, []);
    await show(true);
    await hidden.locator(figure).getByText('33 %').waitFor();
    await visible.close();
  }
  await hidden.close();
});

test('a stream that is open but silent is not live, and is opened again', { timeout: PATIENCE }, async () => {
  const tab = await openTab('/?status=running');
  await live(tab);
  proxy.silenceStreams();
  progress(RUNNING[0], 44);
  await tab.locator('#connection[data-state="lost"]').waitFor({ timeout: 60_000 });
  await live(tab);
  await tab.locator(`tr[data-id="${RUNNING[0]}"]`).getByText('44 %').waitFor();
  await tab.close();
});

test('a page whose requests are not answered does not say that it is live', { timeout: PATIENCE }, async () => {
  const tab = await openTab('/?status=running');
  await live(tab);
  let answer;
  const held = new Promise((resolve) => { answer = resolve; });
  await tab.route('**/v1/summaries*', async (route) => {
    await held;
    await route.continue();
  });
  progress(RUNNING[0], 55);
  await tab.locator('#connection[data-state="late"]').waitFor();
  assert.equal(await tab.locator('#connection').textContent(), 'out of date');
  answer();
  await live(tab);
  await tab.locator(`tr[data-id="${RUNNING[0]}"]`).getByText('55 %').waitFor();
  await tab.unroute('**/v1/summaries*');
  await tab.route('**/v1/summaries*', (route) => route.fulfill({ status: 503, contentType: 'application/problem+json', body: '{"title":"Service Unavailable","detail":"busy"}' }));
  progress(RUNNING[0], 56);
  await tab.locator('#connection[data-state="late"]').waitFor();
  await tab.close();
});

test('without shared workers a tab has a stream of its own, while it is visible', { timeout: PATIENCE }, async () => {
  const context = await browser.newContext();
  await context.addInitScript(() => { delete window.SharedWorker; });
  const tab = await context.newPage();
  await tab.goto(`${proxy.url}/#/?status=running`);
  await live(tab);
  progress(RUNNING[0], 66);
  await tab.locator(`tr[data-id="${RUNNING[0]}"]`).getByText('66 %').waitFor();
  const closed = proxy.streamClosed();
  await tab.evaluate(() => {
    Object.defineProperty(Document.prototype, 'hidden', { get: () => true });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await closed;
  await context.close();
});

test('a page notices that its job was retried or deleted elsewhere', { timeout: PATIENCE }, async () => {
  first.expected.push(UNREACHABLE);
  const id = idOf(3);
  const tab = await openTab(`/jobs/${id}`);
  await tab.locator('#connection[data-state="ended"]').waitFor();
  await server.remove(`/v1/jobs/${id}`);
  await tab.getByText('This job was deleted. The page shows its last state.').waitFor();
  await tab.close();
});
