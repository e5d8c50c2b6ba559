// The list of jobs: searched, sorted and cut into pages by the server, kept up to date, and worked on by keyboard.

import { api } from '../api/client.js';
import { BulkBar } from './bulk.js';
import { Combobox } from '../ui/combobox.js';
import { fill, h, setText } from '../ui/dom.js';
import { whole } from '../ui/format.js';
import { help, listenToKeys } from './keys.js';
import { PAGE_SIZES, addressOf, parseQuery, requestOf } from './query.js';
import { JobsTable } from './table.js';
import { LiveList } from './live-list.js';

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
/** How long a search waits for the next letter. */
const TYPING = 250;
/** Most jobs that are selected at once. */
const MOST_SELECTED = 5000;

/** Shows the list; `update(query)` shows another part of it in place. */
export function jobsPage(context) {
  return new JobsPage(context);
}

class JobsPage {
  #selection = new Map();
  #typing = null;
  #total = null;
  /** The statuses of jobs as they were told last, to announce how they change. */
  #told = new Map();

  constructor({ root, query, signal, setTitle, announce }) {
    Object.assign(this, { signal, setTitle, announce, query: parseQuery(query) });
    this.bulk = new BulkBar(this.#selection, () => { this.#showSelection(); this.live.refresh(); });
    this.table = new JobsTable(this.#selection, () => this.#showSelection());
    this.filters = new Map(FILTERS.map(([name]) => [name, h('span', { class: 'filter-count' })]));
    this.nav = h('nav', { class: 'filters', 'aria-label': 'Filter by status' });
    this.search = h('input', { type: 'search', class: 'search', placeholder: 'Search', 'aria-label': 'Search jobs', 'aria-keyshortcuts': '/', maxlength: 200, value: this.query.q });
    this.label = new Combobox({
      label: 'Filter by label', none: 'No job has such a label.', signal,
      find: (text, stop) => this.#findLabels(text, stop), onPick: (label) => this.#addLabel(label),
    });
    this.labels = h('div', { class: 'filters', hidden: true });
    this.note = h('p', { class: 'note', role: 'status' }, 'Loading…');
    this.pager = h('nav', { class: 'pager', 'aria-label': 'Pages of the list', hidden: true });
    fill(root,
      h('div', { class: 'heading' }, h('h1', {}, 'Jobs'), h('div', { class: 'actions' },
        h('button', { type: 'button', class: 'quiet keys-button', title: 'Keys', 'aria-label': 'Keys', onclick: help }, '?'),
        h('a', { class: 'button primary', href: '#/new' }, 'New job'))),
      h('div', { class: 'list-tools' }, this.nav, this.label.element, this.search), this.labels, this.bulk.report,
      this.table.element, this.note, this.pager, this.bulk.element);
    this.#listen();
    this.#showQuery();
    this.#showSelection();
    this.live = new LiveList({
      request: () => requestOf(this.query),
      has: (id) => this.table.has(id),
      onPage: (answer) => this.#takePage(answer),
      onRows: (jobs) => this.#takeRows(jobs),
      onError: (error) => setText(this.note, error.message),
      signal,
    });
  }

  /** The address has changed. */
  update(parameters) {
    this.query = parseQuery(parameters);
    if (document.activeElement !== this.search) this.search.value = this.query.q;
    this.#showQuery();
    this.live.refresh();
  }

  #listen() {
    this.search.addEventListener('input', () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#searchFor(this.search.value), TYPING);
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
    this.signal.addEventListener('abort', () => clearTimeout(this.#typing));
    listenToKeys({
      step: (by) => this.table.step(by),
      toggle: () => this.table.toggleFocused(),
      all: () => this.table.selectAll(true),
      turn: (by) => this.#turn(by),
      compare: () => !this.bulk.element.hidden && !this.bulk.compare.hidden && this.bulk.compare.click(),
      search: () => this.search.focus(),
      label: () => { this.label.input.focus(); this.label.input.click(); },
      clear: () => { this.#selection.clear(); this.#showSelection(); },
    }, this.signal);
  }

  /** While somebody types, the address follows without an entry of the history for each letter. */
  #searchFor(text) {
    clearTimeout(this.#typing);
    if (text === this.query.q || this.signal.aborted) return;
    this.query = { ...this.query, q: text, page: 1 };
    history.replaceState(null, '', addressOf(this.query));
    this.#showQuery();
    this.live.refresh();
  }

  /** The labels that jobs have and that are not chosen yet. */
  async #findLabels(text, stop) {
    const { data } = await api.labels({ q: text, limit: 100 }, stop);
    return data.map(({ key, value, jobs }) => ({ value: `${key}:${value}`, text: `${key}:${value}`, note: whole(jobs) }))
      .filter(({ value }) => !this.query.labels.includes(value));
  }

  #addLabel(label) {
    location.hash = addressOf({ ...this.query, labels: [...this.query.labels, label], page: 1 });
  }

  #showQuery() {
    const { query } = this;
    const wanted = query.statuses.join();
    fill(this.nav, FILTERS.map(([name, statuses]) => h('a', {
      href: addressOf({ ...query, statuses, page: 1 }), 'aria-current': statuses.join() === wanted ? 'true' : null,
    }, name, ' ', this.filters.get(name))));
    this.labels.hidden = query.labels.length === 0;
    fill(this.labels, query.labels.map((label) => h('a', {
      href: addressOf({ ...query, labels: query.labels.filter((other) => other !== label), page: 1 }), title: 'Remove this filter', 'aria-label': `Remove the filter by label ${label}`,
    }, label, ' ×')));
    this.table.setQuery(query);
  }

  #takePage({ data, total, statuses }) {
    const { page, size } = this.query;
    const last = Math.max(Math.ceil(total / size), 1);
    if (page > last) {
      // Jobs have gone, and this page with them.
      this.query = { ...this.query, page: last };
      history.replaceState(null, '', addressOf(this.query));
      this.#showQuery();
      this.live.refresh();
      return;
    }
    this.#total = total;
    this.table.show(data);
    data.forEach((job) => this.#tell(job));
    for (const [name, wanted] of FILTERS) {
      const count = (wanted.length ? wanted : Object.keys(statuses)).reduce((sum, status) => sum + (statuses[status] ?? 0), 0);
      setText(this.filters.get(name), whole(count));
    }
    setText(this.note, total > 0 ? '' : this.#emptyNote());
    this.setTitle(statuses.running > 0 ? `${statuses.running} running · Jobs` : 'Jobs');
    this.#showPager(last);
    this.#showSelection();
  }

  #emptyNote() {
    const { statuses, labels, q } = this.query;
    if (q || labels.length) return 'No job matches.';
    return statuses.length ? 'No job has this status.' : 'No jobs yet. Post the first one with “New job”.';
  }

  /** Whether the rows still belong where they are. */
  #takeRows(jobs) {
    let isRight = true;
    for (const job of jobs) {
      if (!this.table.has(job.id)) continue;
      if (job.status !== this.table.job(job.id).status) isRight = false;
      this.table.update(job);
      this.#tell(job);
    }
    this.bulk.update();
    return isRight && ['created', 'name', 'method', 'pair'].includes(this.query.sort);
  }

  #tell({ id, name, status }) {
    const before = this.#told.get(id);
    if (before && before !== status) this.announce(`${name}: ${status}`);
    this.#told.set(id, status);
  }

  #showPager(last) {
    const { page, size } = this.query;
    const to = (target, text, rel) => (target < 1 || target > last ? h('span', { class: 'button quiet', 'aria-disabled': 'true' }, text)
      : h('a', { class: 'button quiet', href: addressOf({ ...this.query, page: target }), rel }, text));
    const first = (page - 1) * size + 1;
    this.pager.hidden = this.#total <= PAGE_SIZES[0];
    fill(this.pager,
      h('span', {}, `${whole(first)}–${whole(Math.min(first + size - 1, this.#total))} of ${whole(this.#total)}`),
      to(page - 1, '‹ Previous', 'prev'), h('span', {}, `page ${page} of ${last}`), to(page + 1, 'Next ›', 'next'),
      h('span', { class: 'page-sizes' }, 'rows: ', PAGE_SIZES.map((rows) => h('a', {
        href: addressOf({ ...this.query, size: rows, page: 1 }), 'aria-current': rows === size ? 'true' : null,
      }, rows))));
  }

  #turn(by) {
    const link = this.pager.hidden ? null : this.pager.querySelector(`a[rel="${by > 0 ? 'next' : 'prev'}"]`);
    if (!link) return false;
    location.hash = link.hash;
    return true;
  }

  #showSelection() {
    this.table.showSelection();
    this.bulk.update();
    const isWholePage = this.table.all.checked && this.#total > this.table.ids.length && this.#selection.size < Math.min(this.#total, MOST_SELECTED);
    this.bulk.everything.hidden = !isWholePage;
    setText(this.bulk.everything, `Select all ${whole(Math.min(this.#total ?? 0, MOST_SELECTED))}`);
  }

  /** All jobs of the list, whichever page they are on. */
  async #selectEverything() {
    try {
      for (let offset = 0; offset < Math.min(this.#total, MOST_SELECTED); offset += 500) {
        const { data } = await api.summaries({ ...requestOf(this.query), offset, limit: 500 }, this.signal);
        data.forEach((job) => this.#selection.set(job.id, job));
      }
    } catch (error) {
      if (!this.signal.aborted) setText(this.note, error.message);
    }
    this.#showSelection();
  }
}
