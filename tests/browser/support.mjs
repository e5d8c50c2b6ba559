// A real server and a real browser for the dashboard's tests.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const SCREENSHOTS = join(ROOT, 'target/screenshots');
/** Starting includes initdb; training is done by a CPU that others may use too. */
export const PATIENCE = 240_000;

/** `distillery serve` with the digits in a directory of its own. */
export class Server {
  #dir = mkdtempSync(join(tmpdir(), 'distillery-dashboard-'));
  #child = null;
  #log = [];
  #env;

  /** `env` holds further environment variables. */
  constructor(env = {}) {
    this.#env = env;
    cpSync(join(ROOT, 'examples/data/digits'), join(this.#dir, 'datasets/digits'), { recursive: true });
  }

  async start() {
    const program = process.env.DISTILLERY_BIN ?? join(ROOT, 'target/debug/distillery');
    assert.ok(existsSync(program), `${program} is missing: build it first, or set DISTILLERY_BIN`);
    const listen = this.url?.slice('http://'.length) ?? '127.0.0.1:0';
    const { DATABASE_URL: _, ...env } = process.env;
    this.#child = spawn(program, ['serve', '--listen', listen, '--workers', '1',
      '--data-dir', this.dataDir, '--datasets-dir', join(this.#dir, 'datasets')], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...env, ...this.#env } });
    const log = this.#log;
    createInterface({ input: this.#child.stderr }).on('line', (line) => log.push(line));
    const address = new Promise((resolve) => {
      createInterface({ input: this.#child.stdout }).on('line', (line) => {
        const found = /http:\/\/\S+/.exec(line);
        if (found) resolve(found[0]);
      });
    });
    const ended = once(this.#child, 'exit').then(() => { throw new Error(`the server ended:\n${log.slice(-20).join('\n')}`); });
    this.url = await Promise.race([address, ended]);
    ended.catch(() => {});
  }

  get dataDir() {
    return join(this.#dir, 'data');
  }

  /** Without a chance to say goodbye to anybody: a worker that outlived the server for a moment could give its job back. */
  async kill() {
    for (const worker of this.#workers()) process.kill(worker, 'SIGKILL');
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }

  /** The ids of its worker processes. */
  #workers() {
    const threads = `/proc/${this.#child.pid}/task`;
    const children = readdirSync(threads).flatMap((thread) => readFileSync(`${threads}/${thread}/children`, 'utf8').trim().split(' ').filter(Boolean));
    return children.filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[1] === 'worker').map(Number);
  }

  async stop() {
    if (this.#child?.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGTERM');
      await once(this.#child, 'exit');
    }
    rmSync(this.#dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }

  async get(path) {
    const answer = await fetch(this.url + path);
    assert.ok(answer.ok, `GET ${path}: ${answer.status}${answer.status >= 500 ? `\n${this.#log.slice(-20).join('\n')}` : ''}`);
    return answer.json();
  }

  async post(path, body) {
    const answer = await fetch(this.url + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
    assert.ok(answer.ok, `POST ${path}: ${answer.status} ${await answer.clone().text()}`);
    return answer.json();
  }

  async remove(path) {
    const answer = await fetch(this.url + path, { method: 'DELETE' });
    assert.ok(answer.ok, `DELETE ${path}: ${answer.status}`);
  }
}

export async function launchBrowser() {
  const executablePath = process.env.CHROMIUM || execFileSync(join(ROOT, 'scripts/browser'), { encoding: 'utf8' }).trim();
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
}

/** A page that notes everything that goes wrong in it. `expected` holds patterns of messages that a test provokes. */
export async function openPage(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const complaints = [];
  page.on('console', (message) => { if (['error', 'warning'].includes(message.type())) complaints.push(message.text()); });
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

const AXE = readFileSync(join(ROOT, 'node_modules/axe-core/axe.min.js'), 'utf8');

/** Nothing that axe-core can find is wrong with the page. */
export async function assertAccessible(page) {
  // Run by the debugger, which the page's Content-Security-Policy does not bind.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html}\n${failureSummary}`));
  assert.deepEqual(found, [], 'axe-core found faults');
}

export async function screenshot(page, name) {
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });
}
