// Measures the dashboard's transfer size and load time with 5,000 jobs and 200,000 points in their series:
//
//     cargo build --release && DISTILLERY_BIN=target/release/distillery node benches/dashboard.mjs [JOBS]
//
// Starts its own server, fills its database, and opens the pages in a real Chromium on the same machine. Bytes are
// counted on the wire, headers included; times are medians from the start of the navigation.

import { addJobs, addPoints, idOf } from '../tests/browser/support/jobs.mjs';
import { launchBrowser } from '../tests/browser/support/page.mjs';
import { Server } from '../tests/browser/support/server.mjs';

const JOBS = Number(process.argv[2] ?? 5000);
const ROUNDS = 7;
const EVALUATIONS = 30;
const LONG = 200_000 - JOBS * EVALUATIONS;

const median = (numbers) => [...numbers].sort((one, other) => one - other)[Math.floor(numbers.length / 2)];
const ms = (value) => `${Math.round(value)} ms`;
const kb = (value) => `${(value / 1000).toFixed(1)} kB`;

/** Visits a page with an empty cache; returns bytes and times. */
async function visit(browser, url, ready) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  const client = await context.newCDPSession(page);
  await client.send('Network.enable');
  const sizes = new Map();
  const data = new Set();
  client.on('Network.responseReceived', ({ requestId, response }) => { if (new URL(response.url).pathname.startsWith('/v1/')) data.add(requestId); });
  client.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => sizes.set(requestId, encodedDataLength));
  await page.addInitScript((selector) => {
    const look = () => {
      if (document.querySelector(selector)) window.readyAt = performance.now();
      else requestAnimationFrame(look);
    };
    look();
  }, ready);
  await page.goto(url);
  await page.waitForFunction(() => window.readyAt);
  const times = await page.evaluate(() => ({ paint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime, ready: window.readyAt }));
  const sum = (ids) => ids.reduce((total, id) => total + sizes.get(id), 0);
  const result = { ...times, files: sum([...sizes.keys()].filter((id) => !data.has(id))), answers: sum([...sizes.keys()].filter((id) => data.has(id))) };
  await context.close();
  return result;
}

async function report(browser, name, url, ready) {
  const visits = [];
  for (let round = 0; round < ROUNDS; round += 1) visits.push(await visit(browser, url, ready));
  const of = (key) => median(visits.map((one) => one[key]));
  console.log(`${name.padEnd(28)} files ${kb(of('files'))}, answers ${kb(of('answers'))}; first paint ${ms(of('paint'))}, usable ${ms(of('ready'))}`);
}

async function answers(server) {
  const lists = ['', '?offset=4000', '?sort=best_top1', '?sort=gain', '?q=vgg13+sdd_dkd', '?label=team:edge&sort=eta', `?id=${idOf(1)}&id=${idOf(51)}&id=${idOf(101)}`];
  for (const path of [...lists.map((query) => `summaries${query}`), 'labels', 'system']) {
    const times = [];
    let size = 0;
    for (let round = 0; round < 3 * ROUNDS; round += 1) {
      const start = performance.now();
      const answer = await fetch(`${server.url}/v1/${path}`);
      size = (await answer.text()).length;
      times.push(performance.now() - start);
    }
    console.log(`GET /v1/${path.padEnd(48).slice(0, 48)} ${ms(median(times))}, ${kb(size)} before compression`);
  }
}

/** How long a sort takes for its user: from the click to the sorted rows. */
async function clicks(browser, server) {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  await page.goto(`${server.url}/#/`);
  await page.locator('.jobs tbody tr').first().waitFor();
  const times = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    times.push(await page.evaluate(() => new Promise((resolve) => {
      const start = performance.now();
      new MutationObserver((_, observer) => { observer.disconnect(); requestAnimationFrame(() => resolve(performance.now() - start)); })
        .observe(document.querySelector('.jobs tbody'), { childList: true });
      [...document.querySelectorAll('.jobs thead a')].find((link) => link.textContent === 'Best top-1').click();
    })));
  }
  console.log(`from a click on a heading to the sorted rows: ${ms(median(times))}`);
  await page.close();
}

const server = new Server();
let browser;
try {
  [browser] = await Promise.all([launchBrowser(), server.start()]);
  await addJobs(server, { jobs: JOBS, evaluations: EVALUATIONS });
  if (LONG > 0) addPoints(server, idOf(JOBS - 1), 'train/loss', LONG);
  console.log(`${JOBS} jobs, ${Math.max(LONG, 0) + JOBS * EVALUATIONS} points`);
  await answers(server);
  await report(browser, 'list of jobs', `${server.url}/#/`, '.jobs tbody tr:nth-child(50)');
  await report(browser, 'job with the longest series', `${server.url}/#/jobs/${idOf(JOBS - 1)}`, '.chart:not([data-points="0"]) canvas');
  await clicks(browser, server);
} finally {
  await browser?.close();
  await server.stop();
}
