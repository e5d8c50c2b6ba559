// The attempts of a job on one time axis: which worker ran each, what it resumed from, and how it ended.

import { api, now } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { isStale } from '../ui/connection.js';
import { fill, h, setStyle, setText } from '../ui/dom.js';
import { clock, duration, whole } from '../ui/format.js';
import { scrollBox } from '../ui/section.js';
import { isFinal } from '../ui/status.js';

/** @typedef {Schemas['Job']} Job */
/** @typedef {Schemas['Attempt']} Attempt */
/** @typedef {'waits' | 'runs' | 'lost' | 'silent'} Part of a time line */
/** @typedef {{ attempt: number, time: number, message: string }} Mark a checkpoint */
/** @typedef {{ from: number, to: number }} Span in milliseconds */

const INTERVAL = 5000;
const MAX_MARKS = 100;

/** @type {Record<string, string>} */
const OUTCOMES = {
  succeeded: 'succeeded',
  stopped: 'stopped by a user or released by its worker',
  worker_lost: 'worker lost',
  oom: 'out of memory',
  numeric: 'loss not finite',
  storage: 'storage failed',
  machine: 'fault of the worker’s machine',
  user: 'cannot run as specified',
  internal: 'internal error',
};

/** @type {Record<Part, { label: string, meaning?: string }>} */
const PARTS = {
  waits: { label: 'waiting' },
  runs: { label: 'training' },
  lost: { label: 'work lost', meaning: 'Steps after the last checkpoint. The next attempt repeats them.' },
  silent: { label: 'no heartbeat', meaning: 'The worker was gone, and its lease had to expire before another could take the job.' },
};

export class JobAttempts {
  #job;
  /**
   * Null until they have been read.
   * @type {Attempt[] | null}
   */
  #attempts = null;
  /** @type {Mark[]} */
  #marks = [];
  #known = '';
  #poller;

  /**
   * @param {Job} job
   * @param {AbortSignal} signal
   */
  constructor(job, signal) {
    this.#job = job;
    this.#poller = new Poller({
      interval: INTERVAL, signal,
      request: async (stop) => {
        this.#attempts = (await api.attempts(job.id, stop)).data;
        this.#draw();
      },
      // The page's stream already shows that the connection is lost.
      onError: () => {},
    });
    this.body = h('tbody', {});
    this.none = h('p', { class: 'note' });
    this.table = scrollBox('Table of attempts', {}, h('table', { class: 'attempts' },
      h('thead', {}, h('tr', {}, ['#', 'Worker', 'Timeline', 'Ran for', 'Resumed from', 'Ended'].map((name) => h('th', { scope: 'col' }, name)))),
      this.body));
    this.table.hidden = true;
    this.element = h('section', { class: 'card', 'aria-labelledby': 'attempts-title' },
      h('header', { class: 'card-head' }, h('h2', { id: 'attempts-title' }, 'Attempts'), legend()),
      this.none, this.table);
    const timer = setInterval(() => { if (!isFinal(this.#job.status) && !isStale()) this.#draw(); }, INTERVAL);
    signal.addEventListener('abort', () => clearInterval(timer));
  }

  /** @param {Job} job */
  update(job) {
    this.#job = job;
    setText(this.none, this.#withoutAttempts());
    const key = `${job.status} ${job.attempt}`;
    if (key === this.#known) return;
    this.#known = key;
    this.#poller.now();
  }

  /**
   * Takes checkpoints from the events, and the start of the trainer.
   * @param {Schemas['Event']} event
   */
  note({ kind, time, message, attempt, data }) {
    if (kind === 'checkpoint') this.#marks.push({ attempt: attempt ?? 1, time: Date.parse(time), message });
    if (data && 'resumed_step' in data) this.#poller.now();
  }

  /** What to say in the place of the table. */
  #withoutAttempts() {
    const { attempt, status } = this.#job;
    if (attempt === 0) return isFinal(status) ? 'It was never started.' : 'Not started yet.';
    return this.#attempts === null ? 'Loading…' : 'None was recorded.';
  }

  #draw() {
    const attempts = this.#attempts ?? [];
    setText(this.none, this.#withoutAttempts());
    this.none.hidden = attempts.length > 0;
    this.table.hidden = attempts.length === 0;
    const from = Date.parse(this.#job.created_at);
    const axis = { from, to: Math.max(this.#job.finished_at ? Date.parse(this.#job.finished_at) : now(), from + 1000) };
    fill(this.body, attempts.map((one) => h('tr', { 'data-outcome': one.outcome ?? 'running' },
      h('th', { scope: 'row' }, one.attempt),
      h('td', {}, one.worker ?? '–', one.device ? h('small', {}, ` ${one.device}`) : null),
      h('td', {}, this.#timeline(one, axis)),
      h('td', { class: 'number' }, duration((heardOf(one, axis) - Date.parse(one.started_at)) / 1000)),
      h('td', {}, origin(one)),
      h('td', {}, ending(one)))));
  }

  /**
   * @param {Attempt} attempt
   * @param {Span} axis
   */
  #timeline(attempt, axis) {
    const place = (/** @type {number} */ time) => `${Math.min(Math.max((time - axis.from) / (axis.to - axis.from), 0), 1) * 100}%`;
    const spans = partsOf(attempt, axis).filter(({ from, to }) => to > from).map(({ part, from, to }) => {
      const span = h('span', {
        class: 'key', 'data-key': part,
        title: `${PARTS[part].label}: ${clock(from, now())} to ${clock(to, now())}, ${duration((to - from) / 1000)}`,
      });
      setStyle(span, 'left', place(from));
      setStyle(span, 'right', `calc(100% - ${place(to)})`);
      return span;
    });
    const marks = this.#marks.filter((mark) => mark.attempt === attempt.attempt).slice(-MAX_MARKS).map(({ time, message }) => {
      const mark = h('span', { class: 'key-mark', title: `${clock(time, now())} ${message}` });
      setStyle(mark, 'left', place(time));
      return mark;
    });
    return h('div', { class: 'time-line', 'aria-hidden': 'true' }, spans, marks);
  }
}

function legend() {
  return h('ul', { class: 'legend keys' },
    Object.entries(PARTS).map(([key, { label, meaning }]) =>
      h('li', { title: meaning }, h('span', { class: 'key', 'data-key': key, 'aria-hidden': 'true' }), label)),
    h('li', {}, h('span', { class: 'key-mark', 'aria-hidden': 'true' }), 'checkpoint'));
}

/**
 * When an attempt ended, or the end of the axis.
 * @param {Attempt} attempt
 * @param {Span} axis
 */
function endOf({ ended_at: ended }, axis) {
  return ended ? Date.parse(ended) : axis.to;
}

/**
 * When an attempt's worker was last heard of.
 * @param {Attempt} attempt
 * @param {Span} axis
 */
function heardOf(attempt, axis) {
  return attempt.heard_at ? Date.parse(attempt.heard_at) : endOf(attempt, axis);
}

/**
 * @param {Attempt} attempt
 * @param {Span} axis
 * @returns {(Span & { part: Part })[]}
 */
function partsOf(attempt, axis) {
  const started = Date.parse(attempt.started_at);
  const saved = attempt.saved_at ? Date.parse(attempt.saved_at) : started;
  const end = endOf(attempt, axis);
  /** @type {Span & { part: Part }} */
  const waits = { part: 'waits', from: Date.parse(attempt.runnable_at), to: started };
  const isKept = !attempt.outcome || ['succeeded', 'stopped'].includes(attempt.outcome);
  if (isKept) return [waits, { part: 'runs', from: started, to: end }];
  const heard = Math.max(heardOf(attempt, axis), saved);
  return [waits, { part: 'runs', from: started, to: saved }, { part: 'lost', from: saved, to: heard }, { part: 'silent', from: heard, to: end }];
}

/** @param {Attempt} attempt */
function ending({ outcome, ended_at: ended, counted }) {
  if (!outcome || !ended) return 'running';
  const text = `${OUTCOMES[outcome] ?? outcome} · ${clock(ended, now())}`;
  return outcome !== 'succeeded' && counted === false ? `${text} · does not count` : text;
}

/** @param {Attempt} attempt */
function origin({ resumed_step: step, resumed_epochs: epochs }) {
  if (step == null) return '–';
  return step === 0 ? 'the start' : `epoch ${epochs}, step ${whole(step)}`;
}
