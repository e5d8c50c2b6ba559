// The list of jobs. The server searches, sorts and pages; this keeps one page up to date.

import { api } from '../api/client.js';
import { Combobox, withRest } from '../ui/combobox.js';
import { fill, h, setText } from '../ui/dom.js';
import { whole } from '../ui/format.js';
import { rememberList, replaceAddress } from '../ui/places.js';
import { BulkBar } from './bulk.js';
import { help, listenToKeys } from './keys.js';
import { LiveList } from './live-list.js';
import { settingOptions } from '../groups/options.js';
import { MAX_COLUMNS, PAGE_SIZES, addressOf, parseQuery, requestOf } from './query.js';
import { JobsTable } from './table.js';

/** @typedef {Schemas['JobSummary']} JobSummary */

/** @type {[name: string, statuses: string[]][]} */
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
/** Milliseconds to wait for the next letter before searching. */
const TYPING_DELAY = 250;
const MAX_SELECTED = 5000;
/** What `GET /v1/labels` offers at once. */
const MAX_LABELS = 100;
/** Columns whose values never change while a job exists: an update of a row cannot move it. */
const FIXED_COLUMNS = ['created', 'name', 'method', 'pair'];

/**
 * @param {PageContext} context
 * @returns {PageView}
 */
export function jobsPage(context) {
  return new JobsPage(context);
}

class JobsPage {
  /** @type {Map<string, JobSummary>} */
  #selection;
  /**
   * The job whose row had the focus when the user left.
   * @type {string | undefined}
   */
  #focused;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #total = 0;
  /**
   * Statuses as last announced.
   * @type {Map<string, string>}
   */
  #announced = new Map();

  /** @param {PageContext} context */
  constructor({ root, query, signal, setTitle, announce, memory }) {
    this.#selection = memory?.selection ?? new Map();
    this.#focused = memory?.focused;
    this.signal = signal;
    this.setTitle = setTitle;
    this.announce = announce;
    this.query = parseQuery(query);
    this.bulk = new BulkBar(this.#selection, () => { this.#showSelection(); this.live.refresh(); });
    this.table = new JobsTable(this.#selection, () => this.#showSelection());
    this.counts = FILTERS.map(() => h('span', { class: 'filter-count' }));
    this.nav = h('nav', { class: 'filters', 'aria-label': 'Filter by status' });
    this.search = h('input', { type: 'search', class: 'search', placeholder: 'Search', 'aria-label': 'Search jobs', 'aria-keyshortcuts': '/', maxlength: 200, value: this.query.q });
    this.label = new Combobox({
      label: 'Filter by label', none: 'No job has a matching label.', signal,
      find: (text, stop) => this.#findLabels(text, stop), onPick: (label) => this.#addLabel(label),
    });
    this.columns = new Combobox({
      label: 'Add a column', none: 'No setting matches.', signal,
      find: (text, stop) => this.#findSettings(text, stop), onPick: (pointer) => this.#addColumn(pointer),
    });
    this.labels = h('div', { class: 'filters', hidden: true });
    this.note = h('p', { class: 'note', role: 'status' }, 'Loading…');
    this.pager = h('nav', { class: 'pager', 'aria-label': 'Pages of the list', hidden: true });
    fill(root,
      h('div', { class: 'heading' }, h('h1', {}, 'Jobs'), h('div', { class: 'actions' },
        h('button', { type: 'button', class: 'quiet keys-button', title: 'Keyboard shortcuts', 'aria-label': 'Keyboard shortcuts', onclick: help }, '?'),
        this.best = h('a', { class: 'button quiet', title: 'Which settings were best, over all seeds' }, 'Best settings'),
        h('a', { class: 'button primary', href: '#/new' }, 'New job'))),
      h('div', { class: 'list-tools' }, this.nav, this.label.element, this.columns.element, this.search), this.labels, this.bulk.report,
      this.table.element, this.note, this.pager, this.bulk.element);
    this.#listen();
    this.#showQuery();
    this.#showSelection();
    this.live = new LiveList({
      parameters: () => requestOf(this.query),
      has: (id) => this.table.has(id),
      onPage: (page) => this.#showPage(page),
      onRows: (jobs) => this.#updateRows(jobs),
      onError: (error) => setText(this.note, error.message),
      signal,
    });
  }

  /** @param {URLSearchParams} parameters */
  update(parameters) {
    this.query = parseQuery(parameters);
    if (document.activeElement !== this.search) this.search.value = this.query.q;
    this.#showQuery();
    this.live.refresh();
  }

  remember() {
    return { selection: this.#selection, focused: this.table.focused };
  }

  #listen() {
    this.search.addEventListener('input', () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#searchFor(this.search.value), TYPING_DELAY);
    });
    this.search.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' || event.key === 'ArrowDown') {
        event.preventDefault();
        this.table.step(1);
      } else if (event.key === 'Escape') {
        event.preventDefault();
        if (this.search.value) this.#searchFor(this.search.value = '');
        else this.search.blur();
      }
    });
    this.bulk.everything.addEventListener('click', () => this.#selectEverything());
    this.signal.addEventListener('abort', () => clearTimeout(this.#timer));
    listenToKeys({
      step: (by) => this.table.step(by),
      toggle: () => this.table.toggleFocused(),
      all: () => this.table.selectAll(true),
      turn: (by) => this.#turn(by),
      compare: () => { if (!this.bulk.element.hidden && !this.bulk.compare.hidden) this.bulk.compare.click(); },
      search: () => this.search.focus(),
      label: () => { this.label.input.focus(); this.label.input.click(); },
      clear: () => { this.#selection.clear(); this.#showSelection(); },
    }, this.signal);
  }

  /**
   * Replaces the address, so that typing does not add an entry to the browser's history per letter.
   * @param {string} text
   */
  #searchFor(text) {
    clearTimeout(this.#timer);
    if (text === this.query.q || this.signal.aborted) return;
    this.#replaceQuery({ q: text, page: 1 });
  }

  /** @param {Partial<import('./query.js').ListQuery>} change */
  #replaceQuery(change) {
    this.query = { ...this.query, ...change };
    replaceAddress(addressOf(this.query));
    this.#showQuery();
    this.live.refresh();
  }

  /**
   * Labels of jobs that are not filtered by yet.
   * @param {string} text
   * @param {AbortSignal} stop
   */
  async #findLabels(text, stop) {
    const { data } = await api.labels({ q: text, limit: MAX_LABELS }, stop);
    const options = data.map(({ key, value, jobs }) => ({ value: `${key}:${value}`, text: `${key}:${value}`, note: whole(jobs) }))
      .filter(({ value }) => !this.query.labels.includes(value));
    return withRest(options, data.length < MAX_LABELS ? 0 : NaN);
  }

  /**
   * Settings without a column, those in which jobs differ most first.
   * @param {string} text
   * @param {AbortSignal} stop
   */
  async #findSettings(text, stop) {
    if (this.query.columns.length >= MAX_COLUMNS) throw new Error(`A list has at most ${MAX_COLUMNS} more columns. Remove one first: × in its heading.`);
    return (await settingOptions(text, stop)).filter(({ value }) => !this.query.columns.includes(value));
  }

  /** @param {string} pointer */
  #addColumn(pointer) {
    location.hash = addressOf({ ...this.query, columns: [...this.query.columns, pointer] });
  }

  /** @param {string} label */
  #addLabel(label) {
    location.hash = addressOf({ ...this.query, labels: [...this.query.labels, label], page: 1 });
  }

  #showQuery() {
    const { query } = this;
    rememberList(addressOf(query));
    const wanted = query.statuses.join();
    fill(this.nav, FILTERS.map(([name, statuses], index) => h('a', {
      href: addressOf({ ...query, statuses, page: 1 }), 'aria-current': statuses.join() === wanted ? 'true' : null,
    }, name, ' ', this.counts[index])));
    this.labels.hidden = query.labels.length === 0;
    fill(this.labels, query.labels.map((label) => h('a', {
      href: addressOf({ ...query, labels: query.labels.filter((other) => other !== label), page: 1 }), title: 'Remove this filter', 'aria-label': `Remove the filter by label ${label}`,
    }, label, ' ×')));
    const matching = new URLSearchParams([...query.labels.map((label) => ['label', label]), ...(query.q ? [['q', query.q]] : [])]);
    this.best.setAttribute('href', `#/groups${query.labels.length || query.q ? `?${matching}` : ''}`);
    this.table.setQuery(query);
  }

  /** @param {Schemas['Summaries']} page */
  #showPage({ data, total, statuses }) {
    const { page, size } = this.query;
    const last = Math.max(Math.ceil(total / size), 1);
    if (page > last) {
      // So many jobs were deleted that this page no longer exists.
      this.#replaceQuery({ page: last });
      return;
    }
    this.#total = total;
    this.table.show(data);
    if (this.#focused && document.activeElement?.id === 'main') this.table.focus(this.#focused);
    this.#focused = undefined;
    data.forEach((job) => this.#announceChange(job));
    FILTERS.forEach(([, wanted], index) => {
      const jobs = (wanted.length ? wanted : Object.keys(statuses)).reduce((sum, status) => sum + (statuses[status] ?? 0), 0);
      setText(this.counts[index], whole(jobs));
    });
    setText(this.note, total > 0 ? '' : this.#emptyNote());
    this.setTitle(statuses.running > 0 ? `${statuses.running} running · Jobs` : 'Jobs');
    this.#showPager(last);
    this.#showSelection();
  }

  #emptyNote() {
    const { statuses, labels, q } = this.query;
    if (q || labels.length) return 'No job matches.';
    return statuses.length ? 'No job has this status.' : 'No jobs yet. Create the first one with “New job”.';
  }

  /**
   * Answers whether the rows still belong where they are.
   * @param {JobSummary[]} jobs
   */
  #updateRows(jobs) {
    let isInPlace = FIXED_COLUMNS.includes(this.query.sort);
    for (const job of jobs) {
      const before = this.table.job(job.id);
      if (!before) continue;
      if (job.status !== before.status) isInPlace = false;
      this.table.update(job);
      this.#announceChange(job);
    }
    this.bulk.update();
    return isInPlace;
  }

  /** @param {JobSummary} job */
  #announceChange({ id, name, status }) {
    const before = this.#announced.get(id);
    if (before && before !== status) this.announce(`${name}: ${status}`);
    this.#announced.set(id, status);
  }

  /** @param {number} last number of the last page */
  #showPager(last) {
    const { page, size } = this.query;
    const link = (/** @type {number} */ target, /** @type {string} */ text, /** @type {string} */ rel) =>
      (target < 1 || target > last ? h('span', { class: 'button quiet', 'aria-disabled': 'true' }, text)
        : h('a', { class: 'button quiet', href: addressOf({ ...this.query, page: target }), rel }, text));
    const first = (page - 1) * size + 1;
    this.pager.hidden = this.#total <= PAGE_SIZES[0];
    fill(this.pager,
      h('span', {}, `${whole(first)}–${whole(Math.min(first + size - 1, this.#total))} of ${whole(this.#total)}`),
      link(page - 1, '‹ Previous', 'prev'), h('span', {}, `page ${page} of ${last}`), link(page + 1, 'Next ›', 'next'),
      h('span', { class: 'page-sizes' }, 'rows: ', PAGE_SIZES.map((rows) => h('a', {
        href: addressOf({ ...this.query, size: rows, page: 1 }), 'aria-current': rows === size ? 'true' : null,
      }, rows))));
  }

  /** @param {number} by */
  #turn(by) {
    /** @type {HTMLAnchorElement | null} */
    const link = this.pager.hidden ? null : this.pager.querySelector(`a[rel="${by > 0 ? 'next' : 'prev'}"]`);
    if (!link) return false;
    location.hash = link.hash;
    return true;
  }

  #showSelection() {
    this.table.showSelection();
    this.bulk.update();
    const most = Math.min(this.#total, MAX_SELECTED);
    const isWholePage = this.table.all.checked && this.#total > this.table.ids.length && this.#selection.size < most;
    this.bulk.everything.hidden = !isWholePage;
    setText(this.bulk.everything, `Select all ${whole(most)}`);
  }

  /** Selects the jobs of all pages. */
  async #selectEverything() {
    try {
      for (let offset = 0; offset < Math.min(this.#total, MAX_SELECTED); offset += 500) {
        const { data } = await api.summaries({ ...requestOf(this.query), offset, limit: 500 }, this.signal);
        data.forEach((job) => this.#selection.set(job.id, job));
      }
    } catch (error) {
      if (!this.signal.aborted) setText(this.note, error.message);
    }
    this.#showSelection();
  }
}
