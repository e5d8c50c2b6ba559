// The table of jobs: one row per job of the page, in the server's order, each brought up to date in place.

import { now } from '../api/client.js';
import { ageElement, fill, h, progressBar, setText, statusBadge } from '../ui/dom.js';
import { comparedWith, duration, pairOf, percent, points, rate, share, shortAge } from '../ui/format.js';
import { addressOf, sortedBy } from './query.js';
import { sparkline } from '../charts/sparkline.js';
import { isFinal } from '../ui/status.js';

const COLUMNS = [
  ['status', 'Status'], ['name', 'Name'], ['method', 'Method'], ['pair', 'Teacher → student'], ['progress', 'Progress'], [null, 'Top-1 curve'],
  ['best_top1', 'Best top-1'], ['gain', 'Gain'], ['eta', 'ETA'], ['worker', 'Worker'], ['created', 'Age'],
];

export class JobsTable {
  #rows = new Map();
  #onSelect;
  #selection;

  /** `selection`: a Map of the selected jobs by id, which outlives pages; `onSelect()` after each change of it. */
  constructor(selection, onSelect) {
    this.#selection = selection;
    this.#onSelect = onSelect;
    this.all = h('input', { type: 'checkbox', 'aria-label': 'Select all jobs of this page', onchange: () => this.selectAll(this.all.checked) });
    this.head = h('tr', { role: 'row' });
    this.body = h('tbody', { role: 'rowgroup' });
    this.element = h('div', { class: 'table-frame' }, h('table', { class: 'jobs', role: 'table' },
      h('caption', { class: 'visually-hidden' }, 'Jobs'),
      h('thead', { role: 'rowgroup' }, this.head), this.body));
  }

  get ids() {
    return [...this.#rows.keys()];
  }

  has(id) {
    return this.#rows.has(id);
  }

  /** The headings, as links to the list sorted by each. */
  setQuery(query) {
    const heading = ([sort, name]) => {
      const is = sort && sort === query.sort;
      return h('th', { role: 'columnheader', scope: 'col', 'aria-sort': is ? (query.order === 'asc' ? 'ascending' : 'descending') : null },
        sort ? h('a', { href: addressOf(sortedBy(query, sort)) }, name) : name);
    };
    fill(this.head, h('th', { role: 'columnheader', scope: 'col' }, this.all), COLUMNS.map(heading));
  }

  /** Shows these jobs and no others. */
  show(jobs) {
    const wanted = new Set(jobs.map(({ id }) => id));
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    for (const id of this.ids) if (!wanted.has(id)) this.#remove(id);
    let next = this.body.firstElementChild;
    const rows = new Map();
    for (const job of jobs) {
      const row = this.#rows.get(job.id) ?? new JobRow(job.id, (isSelected) => this.#select(job.id, isSelected));
      rows.set(job.id, row);
      if (row.element === next) next = next.nextElementSibling;
      else this.body.insertBefore(row.element, next);
    }
    this.#rows = rows;
    jobs.forEach((job) => this.update(job));
    // An element that is moved loses the focus.
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    this.showSelection();
  }

  update(job) {
    const row = this.#rows.get(job.id);
    row.update(job);
    if (this.#selection.has(job.id)) this.#selection.set(job.id, job);
  }

  job(id) {
    return this.#rows.get(id)?.job;
  }

  #remove(id) {
    this.#rows.get(id).element.remove();
    this.#rows.delete(id);
  }

  #select(id, isSelected) {
    if (isSelected) this.#selection.set(id, this.job(id));
    else this.#selection.delete(id);
    this.#onSelect();
  }

  selectAll(isSelected) {
    for (const [id, { job }] of this.#rows) {
      if (isSelected) this.#selection.set(id, job);
      else this.#selection.delete(id);
    }
    this.#onSelect();
  }

  showSelection() {
    let selected = 0;
    for (const [id, row] of this.#rows) {
      row.setSelected(this.#selection.has(id));
      if (this.#selection.has(id)) selected += 1;
    }
    this.all.checked = selected > 0 && selected === this.#rows.size;
    this.all.indeterminate = selected > 0 && selected < this.#rows.size;
  }

  /** Moves the focus by so many rows, from none to the first or last. */
  step(by) {
    const links = [...this.#rows.values()].map(({ link }) => link);
    const at = [...this.#rows.values()].findIndex(({ element }) => element.contains(document.activeElement));
    const to = at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1);
    links[to]?.focus();
  }

  /** Selects the row that has the focus, or not any more. */
  toggleFocused() {
    const row = [...this.#rows.values()].find(({ element }) => element.contains(document.activeElement));
    row?.box.click();
    return Boolean(row);
  }
}

class JobRow {
  constructor(id, onSelect) {
    this.box = h('input', { type: 'checkbox', onchange: () => onSelect(this.box.checked) });
    this.badge = statusBadge();
    this.link = h('a', { href: `#/jobs/${encodeURIComponent(id)}` });
    this.labels = h('span', { class: 'labels' });
    this.method = h('span', { class: 'method' });
    this.pair = h('span', {});
    this.bar = progressBar('Progress');
    this.share = h('span', { class: 'share' });
    this.spark = sparkline();
    this.best = h('span', { class: 'figure' });
    this.gain = h('span', { class: 'figure gain' });
    this.rest = h('span', { class: 'rest' });
    this.worker = h('span', {});
    this.age = h('td', { role: 'cell', 'data-label': 'Age' });
    const cell = (label, ...children) => h('td', { role: 'cell', 'data-label': label }, children);
    this.element = h('tr', { role: 'row', 'data-id': id },
      cell('Select', this.box),
      cell('Status', this.badge.element),
      h('th', { role: 'rowheader', scope: 'row', 'data-label': 'Name' }, h('div', { class: 'name-cell' }, this.link, this.labels)),
      cell('Method', this.method),
      cell('Teacher → student', this.pair),
      cell('Progress', h('div', { class: 'progress-cell' }, this.bar.element, this.share)),
      cell('Top-1 curve', this.spark.element),
      cell('Best top-1', this.best),
      cell('Gain', this.gain),
      cell('ETA', this.rest),
      cell('Worker', this.worker),
      this.age);
  }

  setSelected(isSelected) {
    this.box.checked = isSelected;
    this.element.classList.toggle('selected', isSelected);
  }

  update(job) {
    if (!this.job) {
      this.age.append(ageElement(job.created_at, (time) => shortAge(time, now())));
      this.box.setAttribute('aria-label', `Select ${job.name}`);
      this.#showConstant(job);
    }
    this.job = job;
    this.badge.update(job.status);
    const { progress, status } = job;
    const fraction = status === 'succeeded' ? 1 : progress?.fraction;
    this.bar.update(fraction);
    this.bar.element.dataset.status = status;
    this.element.dataset.final = String(isFinal(status));
    setText(this.share, Number.isFinite(fraction) ? share(fraction) : '');
    this.spark.update(job.curve, isFinal(status) ? null : progress?.steps);
    setText(this.best, Number.isFinite(job.best_top1) ? percent(job.best_top1) : '');
    this.best.title = bestTitle(job);
    this.#showGain(job);
    this.#showRest(job);
    setText(this.worker, job.worker ?? '');
    this.worker.title = job.worker ?? '';
  }

  /** What a job keeps all its life. */
  #showConstant(job) {
    setText(this.link, job.name);
    this.link.title = job.name;
    const labels = Object.entries(job.labels ?? {}).map(([key, value]) => `${key}:${value}`);
    fill(this.labels, labels.map((label) => h('a', { class: 'label', href: `#/?${new URLSearchParams({ label })}`, title: `Jobs with the label ${label}`, tabindex: '-1' }, label)));
    setText(this.method, job.method);
    setText(this.pair, pairOf(job));
    this.pair.title = `${pairOf(job)} on ${job.dataset ?? '–'}`;
  }

  #showGain({ gain, baseline, method }) {
    const isKnown = Number.isFinite(gain);
    setText(this.gain, isKnown ? points(gain) : '');
    this.gain.dataset.sign = isKnown ? String(Math.sign(Math.round(gain * 100))) : '';
    this.gain.title = baseline ? comparedWith(baseline) : method === 'none' ? 'Plain training is compared with nothing.'
      : 'No job of a simpler method has succeeded with the same teacher, student, data set and training.';
  }

  #showRest({ status, progress, error, started_at: started, finished_at: finished }) {
    const isRunning = status === 'running' && progress;
    const took = isFinal(status) && started && finished ? duration((Date.parse(finished) - Date.parse(started)) / 1000) : '';
    setText(this.rest, isRunning ? duration(progress.eta_seconds) : status === 'failed' && error ? error : took ? `took ${took}` : '');
    this.rest.classList.toggle('live-figure', Boolean(isRunning));
    this.rest.dataset.kind = status === 'failed' ? 'error' : isRunning ? 'eta' : 'took';
    this.rest.title = isRunning ? `${duration(progress.eta_seconds)} left · ${rate(progress.images_per_second)}` : took ? `took ${took}` : '';
  }
}

function bestTitle({ best_top1: best, teacher_top1: teacher, status }) {
  if (!Number.isFinite(best)) return 'Not evaluated yet.';
  const so = isFinal(status) ? 'Best top-1' : 'Best top-1 so far';
  return `${so}: ${percent(best)}${Number.isFinite(teacher) ? `; the teacher’s is ${percent(teacher)}` : ''}`;
}
