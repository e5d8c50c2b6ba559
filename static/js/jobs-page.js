// The list of jobs, newest first, kept up to date by /v1/stream.

import { api, now, paths } from './api.js';
import { setConnection } from './connection.js';
import { ageElement, fill, h, progressBar, setText, statusBadge } from './dom.js';
import { age, duration, pairing, percent, rate, share } from './format.js';
import { follow } from './stream.js';
import { isActive, isFinal } from './status.js';

const PAGE = 50;
const FILTERS = [
  ['All', []],
  ['Active', ['queued', 'running', 'pausing', 'paused', 'cancelling']],
  ['Queued', ['queued']],
  ['Running', ['running', 'pausing', 'cancelling']],
  ['Paused', ['paused']],
  ['Succeeded', ['succeeded']],
  ['Failed', ['failed']],
  ['Cancelled', ['cancelled']],
];
const COLUMNS = ['Status', 'Name', 'Method', 'Teacher → student', 'Progress', 'Best top-1', 'Created'];

export function jobsPage({ root, query, signal, setTitle, announce }) {
  const statuses = query.getAll('status');
  const list = new JobList(statuses, signal);
  const more = h('button', { type: 'button', class: 'quiet', hidden: true }, 'Load more');
  const note = h('p', { class: 'note', role: 'status' }, 'Loading…');
  fill(root,
    h('div', { class: 'heading' }, h('h1', {}, 'Jobs'), h('a', { class: 'button primary', href: '#/new' }, 'New job')),
    filterBar(statuses), list.element, note, h('div', { class: 'more' }, more));

  let cursor = null;

  async function load(after) {
    more.disabled = true;
    try {
      const page = await api.jobs({ status: statuses, after, limit: PAGE }, signal);
      page.data.forEach((job) => list.put(job));
      if (!after) list.keepOnly(page);
      cursor = after || cursor === null ? page.next : cursor;
      more.hidden = !cursor;
      setNote();
    } catch (error) {
      if (!signal.aborted) setText(note, error.message);
    } finally {
      more.disabled = false;
    }
  }

  function setNote() {
    const filtered = statuses.length > 0;
    setText(note, list.size > 0 ? '' : filtered ? 'No job has this status.' : 'No jobs yet. Post the first one with “New job”.');
    const running = list.running();
    setTitle(running > 0 ? `${running} running · Jobs` : 'Jobs');
  }

  function take(job) {
    const before = list.statusOf(job.id);
    list.put(job);
    setNote();
    if (before && before !== job.status) announce(`${job.name}: ${job.status}`);
  }

  more.addEventListener('click', () => load(cursor));
  load(null).then(() => {
    if (signal.aborted) return;
    follow(paths.stream, {
      on: {
        status: take,
        progress: ({ id, ...progress }) => list.progress(id, progress),
        deleted: ({ id }) => {
          list.remove(id);
          setNote();
        },
      },
      onState: setConnection,
      // Jobs may have been deleted meanwhile, of which a new connection says nothing.
      onReconnect: () => load(null),
      signal,
    });
  });
}

function filterBar(statuses) {
  const current = statuses.join();
  return h('nav', { class: 'filters', 'aria-label': 'Filter by status' }, FILTERS.map(([name, wanted]) =>
    h('a', {
      href: wanted.length ? `#/?${wanted.map((status) => `status=${status}`).join('&')}` : '#/',
      'aria-current': wanted.join() === current ? 'true' : null,
    }, name)));
}

/** The table: one row per job, in the order of ids, which is that of age. */
class JobList {
  #rows = new Map();
  #statuses;
  #signal;

  constructor(statuses, signal) {
    this.#statuses = statuses;
    this.#signal = signal;
    this.body = h('tbody', { role: 'rowgroup' });
    this.element = h('div', { class: 'table-frame' }, h('table', { class: 'jobs', role: 'table' },
      h('caption', { class: 'visually-hidden' }, 'Jobs, newest first'),
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, COLUMNS.map((name) => h('th', { role: 'columnheader', scope: 'col' }, name)))),
      this.body));
  }

  get size() {
    return this.#rows.size;
  }

  running() {
    return [...this.#rows.values()].filter((row) => row.job.status === 'running').length;
  }

  statusOf(id) {
    return this.#rows.get(id)?.job.status;
  }

  /** Adds a job or brings its row up to date; one that the filter no longer covers goes. */
  put(job) {
    if (this.#statuses.length > 0 && !this.#statuses.includes(job.status)) {
      this.remove(job.id);
      return;
    }
    let row = this.#rows.get(job.id);
    if (!row) {
      row = new JobRow(job, this.#signal);
      this.#rows.set(job.id, row);
      const older = [...this.body.children].find((other) => other.dataset.id < job.id);
      this.body.insertBefore(row.element, older ?? null);
    }
    row.update(job);
  }

  progress(id, progress) {
    const row = this.#rows.get(id);
    if (row) row.update({ ...row.job, progress });
  }

  /** Of the jobs that a first page should hold, those that it does not hold are gone. */
  keepOnly({ data, has_more: hasMore }) {
    const there = new Set(data.map((job) => job.id));
    const oldest = hasMore ? data.at(-1).id : '';
    for (const id of this.#rows.keys()) if (!there.has(id) && id >= oldest) this.remove(id);
  }

  remove(id) {
    this.#rows.get(id)?.element.remove();
    this.#rows.delete(id);
  }
}

class JobRow {
  #signal;
  #bestOf = null;

  constructor(job, signal) {
    this.#signal = signal;
    this.badge = statusBadge();
    this.link = h('a', { href: `#/jobs/${encodeURIComponent(job.id)}` });
    this.method = h('span', { class: 'method' });
    this.pair = h('span', {});
    this.bar = progressBar('Progress');
    this.share = h('span', { class: 'share' });
    this.rest = h('span', { class: 'rest live-figure' });
    this.best = h('span', { class: 'figure' });
    const cell = (label, ...children) => h('td', { role: 'cell', 'data-label': label }, children);
    this.element = h('tr', { role: 'row', 'data-id': job.id },
      cell('Status', this.badge.element),
      h('th', { role: 'rowheader', scope: 'row', 'data-label': 'Name' }, this.link),
      cell('Method', this.method),
      cell('Teacher → student', this.pair),
      cell('Progress', h('div', { class: 'progress-cell' }, this.bar.element, this.share, this.rest)),
      cell('Best top-1', this.best),
      cell('Created', ageElement(job.created_at, (time) => age(time, now()))));
  }

  update(job) {
    this.job = job;
    this.badge.update(job.status);
    setText(this.link, job.name);
    setText(this.method, job.spec.distillation.method);
    const { teacher, student } = pairing(job.spec);
    setText(this.pair, teacher ? `${teacher} → ${student}` : student);
    const { progress } = job;
    const fraction = job.status === 'succeeded' ? 1 : progress?.fraction;
    this.bar.update(fraction);
    this.bar.element.dataset.status = job.status;
    this.element.dataset.final = String(isFinal(job.status));
    setText(this.share, progress || fraction === 1 ? share(fraction) : '');
    setText(this.rest, restOf(job));
    this.#showBest(job);
  }

  async #showBest(job) {
    if (job.result) {
      setText(this.best, percent(job.result.best_top1));
      return;
    }
    // The best so far is not part of a job; the thinned series keeps its peak. Asked once an epoch.
    const epoch = job.progress?.epoch;
    if (!isActive(job.status) || !epoch || this.#bestOf === `${job.attempt}/${epoch}`) return;
    this.#bestOf = `${job.attempt}/${epoch}`;
    try {
      const { series } = await api.metrics(job.id, { name: 'eval/top1', maxPoints: 4 }, this.#signal);
      const values = series.flatMap(({ points }) => points.map(({ value }) => value));
      if (!this.job.result) setText(this.best, values.length ? `${percent(Math.max(...values))} so far` : '');
    } catch {
      // The next epoch asks again.
    }
  }
}

function restOf(job) {
  if (job.status === 'failed') return job.error?.class ?? '';
  if (job.status !== 'running' || !job.progress) return '';
  return `${duration(job.progress.eta_seconds)} left · ${rate(job.progress.images_per_second)}`;
}
