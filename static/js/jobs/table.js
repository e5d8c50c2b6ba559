// The table of jobs: the rows of one page in the server's order, each updated in place.

import { fill, h } from '../ui/dom.js';
import { shortNames } from '../ui/settings.js';
import { addressOf, sortedBy } from './query.js';
import { JobRow } from './row.js';

/** @import { ListQuery } from './query.js' */
/** @typedef {Schemas['JobSummary']} JobSummary */

/** @type {[sort: string | null, name: string][]} */
const COLUMNS = [
  ['status', 'Status'], ['name', 'Name'], ['method', 'Method'], ['pair', 'Teacher → student'], ['progress', 'Progress'], [null, 'Top-1 curve'],
  ['best_top1', 'Best top-1'], ['gain', 'Gain'], ['eta', 'ETA'], ['worker', 'Worker'], ['created', 'Age'],
];

export class JobsTable {
  /** @type {Map<string, JobRow>} */
  #rows = new Map();
  /** @type {string[]} */
  #columns = [];
  #onSelect;
  #selection;

  /**
   * @param {Map<string, JobSummary>} selection by id; holds jobs of other pages too
   * @param {() => void} onSelect after each change of the selection
   */
  constructor(selection, onSelect) {
    this.#selection = selection;
    this.#onSelect = onSelect;
    this.all = h('input', { type: 'checkbox', 'aria-label': 'Select all jobs on this page', onchange: () => { this.selectAll(this.all.checked); } });
    this.head = h('tr', { role: 'row' });
    this.body = h('tbody', { role: 'rowgroup' });
    this.element = h('div', { class: 'table-frame' }, h('table', { class: 'jobs', role: 'table' },
      h('caption', { class: 'visually-hidden' }, 'Jobs'),
      h('thead', { role: 'rowgroup' }, this.head), this.body));
  }

  get ids() {
    return [...this.#rows.keys()];
  }

  /** @param {string} id */
  has(id) {
    return this.#rows.has(id);
  }

  /** @param {string} id */
  job(id) {
    return this.#rows.get(id)?.job;
  }

  /**
   * Shows the headings, each a link to the list sorted by its column.
   * @param {ListQuery} query
   */
  setQuery(query) {
    if (query.columns.join() !== this.#columns.join()) {
      // Rows are made with their cells.
      for (const { element } of this.#rows.values()) element.remove();
      this.#rows.clear();
      this.#columns = query.columns;
    }
    this.element.dataset.columns = String(query.columns.length);
    const names = shortNames(query.columns);
    const direction = query.order === 'asc' ? 'ascending' : 'descending';
    fill(this.head, h('th', { role: 'columnheader', scope: 'col' }, this.all), COLUMNS.map(([sort, name]) =>
      h('th', { role: 'columnheader', scope: 'col', 'aria-sort': sort === query.sort ? direction : null },
        sort ? h('a', { href: addressOf(sortedBy(query, sort)) }, h('span', {}, name)) : name)),
    query.columns.map((pointer, index) => h('th', { role: 'columnheader', scope: 'col', title: pointer }, h('a', {
      href: addressOf({ ...query, columns: query.columns.filter((other) => other !== pointer) }), 'aria-label': `Remove the column ${pointer}`,
    }, h('span', {}, names[index]), '×'))));
  }

  /**
   * Shows these jobs and no others.
   * @param {JobSummary[]} jobs
   */
  show(jobs) {
    const wanted = new Set(jobs.map(({ id }) => id));
    const { activeElement } = document;
    const focused = activeElement instanceof HTMLElement && this.body.contains(activeElement) ? activeElement : null;
    for (const [id, row] of this.#rows) if (!wanted.has(id)) row.element.remove();
    let next = this.body.firstElementChild;
    /** @type {Map<string, JobRow>} */
    const rows = new Map();
    for (const job of jobs) {
      const row = this.#rows.get(job.id) ?? new JobRow(job, (isSelected) => this.#select(job.id, isSelected), this.#columns);
      rows.set(job.id, row);
      if (row.element === next) next = next.nextElementSibling;
      else this.body.insertBefore(row.element, next);
    }
    this.#rows = rows;
    jobs.forEach((job) => this.update(job));
    // An element that moves loses the focus.
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    this.showSelection();
  }

  /** @param {JobSummary} job */
  update(job) {
    this.#rows.get(job.id)?.update(job);
    if (this.#selection.has(job.id)) this.#selection.set(job.id, job);
  }

  /**
   * @param {string} id
   * @param {boolean} isSelected
   */
  #select(id, isSelected) {
    const job = this.job(id);
    if (isSelected && job) this.#selection.set(id, job);
    else this.#selection.delete(id);
    this.#onSelect();
  }

  /** @param {boolean} isSelected */
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

  /** The id of the job whose row has the focus. */
  get focused() {
    return [...this.#rows].find(([, { element }]) => element.contains(document.activeElement))?.[0];
  }

  /** @param {string} id */
  focus(id) {
    this.#rows.get(id)?.link.focus({ preventScroll: true });
  }

  /**
   * Moves the focus by that many rows; without a focus, to the first or last row.
   * @param {number} by
   */
  step(by) {
    const rows = [...this.#rows.values()];
    const from = rows.findIndex(({ element }) => element.contains(document.activeElement));
    const last = rows.length - 1;
    const to = from < 0 ? (by > 0 ? 0 : last) : Math.min(Math.max(from + by, 0), last);
    rows[to]?.link.focus();
  }

  /** Selects or deselects the row that has the focus, and answers whether there is one. */
  toggleFocused() {
    const row = [...this.#rows.values()].find(({ element }) => element.contains(document.activeElement));
    row?.box.click();
    return row !== undefined;
  }
}
