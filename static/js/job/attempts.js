// The attempts on one axis of time: who ran them, where each went on from, and how it ended.

import { api, now } from '../api/client.js';
import { isStale } from '../ui/connection.js';
import { fill, h, setStyle } from '../ui/dom.js';
import { clock, duration } from '../ui/format.js';
import { Paced } from '../api/paced.js';
import { isFinal } from '../ui/status.js';

const REFRESH = 5000;
const OUTCOMES = {
  succeeded: 'succeeded',
  stopped: 'stopped as asked, or given back by its worker',
  worker_lost: 'worker lost or killed',
  oom: 'out of memory',
  numeric: 'loss not finite',
  storage: 'storage failed',
  user: 'cannot work as specified',
  internal: 'fault of the server',
};

/** What a time line is made of. */
const PARTS = { waits: 'waits for a worker', runs: 'trains', lost: 'work lost', silent: 'nothing heard' };
const MEANINGS = {
  lost: 'What was done since the last checkpoint; the next attempt does it again.',
  silent: 'The worker was gone, and its lease had to run out before another could take the job.',
};

export class JobAttempts {
  #job;
  #attempts = [];
  #marks = [];
  #known = '';
  #look;

  constructor(job, signal) {
    this.#job = job;
    // Two changes that follow each other closely are two requests, whose answers may come the other way round.
    this.#look = new Paced(REFRESH, async (stop) => {
      this.#attempts = (await api.attempts(job.id, stop)).data;
      this.#draw();
    }, () => {}, signal);
    this.body = h('tbody', {});
    this.none = h('p', { class: 'note' }, 'Not started yet.');
    this.table = h('div', { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': 'Table of attempts' }, h('table', { class: 'attempts' },
      h('thead', {}, h('tr', {}, ['#', 'Worker', 'Time line', 'Ran for', 'Went on from', 'Ended'].map((name) => h('th', { scope: 'col' }, name)))),
      this.body));
    this.element = h('section', { class: 'card', 'aria-labelledby': 'attempts-title' },
      h('header', { class: 'card-head' }, h('h2', { id: 'attempts-title' }, 'Attempts'),
        h('ul', { class: 'legend keys' }, Object.entries(PARTS).map(([key, label]) =>
          h('li', { title: MEANINGS[key] }, h('span', { class: 'key', 'data-key': key, 'aria-hidden': 'true' }), label)), h('li', {}, h('span', { class: 'key-mark', 'aria-hidden': 'true' }), 'checkpoint'))),
      this.none, this.table);
    this.table.hidden = true;
    const timer = setInterval(() => { if (!isFinal(this.#job.status) && !isStale()) this.#draw(); }, REFRESH);
    signal.addEventListener('abort', () => clearInterval(timer));
  }

  /** Asks again where something about the attempts has changed. */
  update(job) {
    this.#job = job;
    const key = `${job.status} ${job.attempt}`;
    if (key === this.#known) return;
    this.#known = key;
    this.#look.now();
  }

  /** Checkpoints and the start of the trainer. */
  note({ kind, time, message, attempt, data }) {
    if (kind === 'checkpoint') this.#marks.push({ attempt, time: Date.parse(time), message });
    if (data && 'resumed_step' in data) this.#look.now();
  }

  #draw() {
    const attempts = this.#attempts;
    this.none.hidden = attempts.length > 0;
    this.table.hidden = attempts.length === 0;
    const from = Date.parse(this.#job.created_at);
    const to = Math.max(this.#job.finished_at ? Date.parse(this.#job.finished_at) : now(), from + 1000);
    const place = (time) => Math.min(Math.max((time - from) / (to - from), 0), 1);
    fill(this.body, attempts.map((one) => h('tr', { 'data-outcome': one.outcome ?? 'running' },
      h('th', { scope: 'row' }, String(one.attempt)),
      h('td', {}, one.worker ?? '–', one.device ? h('small', {}, ` ${one.device}`) : null),
      h('td', {}, this.#bar(one, place, to)),
      h('td', { class: 'number' }, duration(((one.heard_at ? Date.parse(one.heard_at) : end(one, to)) - Date.parse(one.started_at)) / 1000)),
      h('td', {}, origin(one)),
      h('td', {}, one.outcome ? `${OUTCOMES[one.outcome] ?? one.outcome} · ${clock(one.ended_at, now())}` : 'running'))));
  }

  #bar(one, place, to) {
    const saved = one.saved_at ? Date.parse(one.saved_at) : Date.parse(one.started_at);
    const isLost = one.outcome && !['succeeded', 'stopped'].includes(one.outcome);
    // What is not known to have been heard of later was heard of when it was saved.
    const heard = Math.max(one.heard_at ? Date.parse(one.heard_at) : end(one, to), saved);
    const parts = [['waits', Date.parse(one.runnable_at), Date.parse(one.started_at)], ['runs', Date.parse(one.started_at), isLost ? saved : end(one, to)]];
    if (isLost) parts.push(['lost', saved, heard], ['silent', heard, end(one, to)]);
    const spans = parts.filter(([, start, stop]) => stop > start).map(([key, start, stop]) => {
      const span = h('span', { class: 'key', 'data-key': key, title: `${PARTS[key]}: ${clock(start, now())} to ${clock(stop, now())}, ${duration((stop - start) / 1000)}` });
      setStyle(span, 'left', `${place(start) * 100}%`);
      setStyle(span, 'width', `${(place(stop) - place(start)) * 100}%`);
      return span;
    });
    const marks = this.#marks.filter(({ attempt }) => attempt === one.attempt).slice(-100).map(({ time, message }) => {
      const mark = h('span', { class: 'key-mark', title: `${clock(time, now())} ${message}` });
      setStyle(mark, 'left', `${place(time) * 100}%`);
      return mark;
    });
    return h('div', { class: 'time-line', 'aria-hidden': 'true' }, spans, marks);
  }
}

const end = (one, to) => (one.ended_at ? Date.parse(one.ended_at) : to);

function origin({ resumed_step: step, resumed_epochs: epochs }) {
  if (step === null) return '–';
  return step === 0 ? 'the beginning' : `epoch ${epochs}, step ${step.toLocaleString('en-US')}`;
}
