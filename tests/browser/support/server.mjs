// A real server for the dashboard's tests, in a directory of its own.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const POSTGRES = process.env.DISTILLERY_POSTGRES_BIN_DIR ?? join(ROOT, '.deps/postgres/embedded_postgres/pginstall/bin');
/** In milliseconds. The first start runs initdb, and training may share its CPU. */
export const PATIENCE = 240_000;
/** Lines of the server's log that a failure quotes. */
const QUOTED_LINES = 20;

/** `distillery serve` with one worker and the digits data set. */
export class Server {
  #dir = mkdtempSync(join(tmpdir(), 'distillery-dashboard-'));
  #child = null;
  #log = [];
  #env;

  /** `env`: more environment variables. */
  constructor(env = {}) {
    this.#env = env;
    cpSync(join(ROOT, 'examples/data/digits'), join(this.datasetsDir, 'digits'), { recursive: true });
  }

  async start() {
    const program = process.env.DISTILLERY_BIN ?? join(ROOT, 'target/debug/distillery');
    assert.ok(existsSync(program), `${program} is missing: build it first, or set DISTILLERY_BIN`);
    const listen = this.url?.slice('http://'.length) ?? '127.0.0.1:0';
    const { DATABASE_URL: _, ...env } = process.env;
    this.#child = spawn(program, ['serve', '--listen', listen, '--workers', '1',
      '--data-dir', this.dataDir, '--datasets-dir', this.datasetsDir], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...env, ...this.#env } });
    const log = this.#log;
    createInterface({ input: this.#child.stderr }).on('line', (line) => log.push(line));
    const address = new Promise((resolve) => {
      createInterface({ input: this.#child.stdout }).on('line', (line) => {
        const found = /http:\/\/\S+/.exec(line);
        if (found) resolve(found[0]);
      });
    });
    const ended = once(this.#child, 'exit').then(() => { throw new Error(`the server ended:\n${log.slice(-QUOTED_LINES).join('\n')}`); });
    this.url = await Promise.race([address, ended]);
    // A later exit is expected.
    ended.catch(() => {});
  }

  get dataDir() {
    return join(this.#dir, 'data');
  }

  get datasetsDir() {
    return join(this.#dir, 'datasets');
  }

  /** Kills the server and its workers. A worker that outlived it for a moment could release its job properly. */
  async kill() {
    for (const worker of this.#workers()) process.kill(worker, 'SIGKILL');
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }

  /** The process ids of its workers. */
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
    assert.ok(answer.ok, `GET ${path}: ${answer.status}${answer.status >= 500 ? `\n${this.#log.slice(-QUOTED_LINES).join('\n')}` : ''}`);
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

  /** Follows a job's stream until `isReached(job)`, and answers the job. */
  async until(id, isReached) {
    const answer = await fetch(`${this.url}/v1/jobs/${id}/stream`);
    assert.ok(answer.ok, `the stream of ${id}: ${answer.status}`);
    let job;
    for await (const { event, data } of readEvents(answer.body)) {
      if (event === 'status') job = data;
      else if (event === 'progress') job = { ...job, progress: data };
      else continue;
      if (isReached(job)) return job;
    }
    throw new Error(`the stream of ${job?.name} ended with status ${job?.status}: ${job?.error?.message}`);
  }

  succeeded(id) {
    return this.until(id, ({ status }) => status === 'succeeded');
  }

  /** Runs SQL in the server's database. */
  sql(text) {
    const url = readFileSync(join(this.dataDir, 'postgres.url'), 'utf8');
    const options = ['--no-psqlrc', '--quiet', '--tuples-only', '--no-align', '--set', 'ON_ERROR_STOP=1', '--file', '-'];
    return execFileSync(join(POSTGRES, 'psql'), [url, ...options], { input: text, encoding: 'utf8' });
  }
}

/** The server-sent events of a body: `{event, data}` with parsed data. */
async function* readEvents(body) {
  let text = '';
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const blocks = text.split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]));
      if (fields.event && fields.data) yield { event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
