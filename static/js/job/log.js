// The events of a job as a log: newest last, followed like `tail -f`, searchable.

import { now } from '../api/client.js';
import { fill, h, setText } from '../ui/dom.js';
import { clock, whole } from '../ui/format.js';

/** Rows kept on the page; the API has all events. */
const MAX_ROWS = 2000;
/** Pixels from the end of the list within which it counts as scrolled to the end. */
const END_MARGIN = 24;

export class JobLog {
  #last = 0;
  #warnings = 0;
  #dropped = 0;
  #words = '';
  /** @type {number | null} */
  #frame = null;

  /** @param {AbortSignal} signal */
  constructor(signal) {
    this.list = h('ol', { class: 'log', tabindex: '0', 'aria-label': 'Events, oldest first' });
    this.onlyWarnings = h('input', { type: 'checkbox', onchange: () => {
      this.list.classList.toggle('only-warnings', this.onlyWarnings.checked);
      this.#follow();
    } });
    this.count = h('span', {}, 'Warnings only (0)');
    this.search = h('input', { type: 'search', id: 'log-search', placeholder: 'Search', 'aria-label': 'Search the events', oninput: () => this.#filter() });
    this.found = h('span', { class: 'note found', role: 'status' });
    this.older = h('p', { class: 'note', hidden: true });
    this.following = h('input', { type: 'checkbox', checked: true, onchange: () => this.#follow() });
    this.element = h('section', { class: 'card', 'aria-labelledby': 'events-title' },
      h('header', { class: 'card-head' }, h('h2', { id: 'events-title' }, 'Events'),
        h('div', { class: 'actions' }, this.found, this.search, h('label', { class: 'check' }, this.onlyWarnings, this.count),
          h('label', { class: 'check' }, this.following, 'Follow'))),
      this.older, this.list);
    // Scrolling up stops following, so that the reader can stay there.
    this.list.addEventListener('scroll', () => {
      const { scrollTop, scrollHeight, clientHeight } = this.list;
      this.following.checked = scrollHeight - clientHeight - scrollTop < END_MARGIN;
    }, { passive: true });
    signal.addEventListener('abort', () => { if (this.#frame !== null) cancelAnimationFrame(this.#frame); });
  }

  /** The number of the newest event. */
  get last() {
    return this.#last;
  }

  /** @param {Schemas['Event']} event */
  add({ seq, time, kind, message, attempt }) {
    if (seq <= this.#last) return;
    this.#last = seq;
    if (kind === 'warning') this.#warnings += 1;
    setText(this.count, `Warnings only (${this.#warnings})`);
    const text = h('span', {}, message);
    const row = h('li', { 'data-kind': kind },
      h('time', { datetime: time, title: new Date(time).toLocaleString() }, clock(time, now())),
      h('span', { class: 'kind' }, kind),
      h('span', { class: 'message' }, text, (attempt ?? 1) > 1 ? h('small', {}, ` attempt ${attempt}`) : null));
    this.#match(row);
    this.list.append(row);
    if (this.list.childElementCount > MAX_ROWS) this.#dropOldest();
    this.#follow();
  }

  #dropOldest() {
    const [oldest] = this.list.children;
    if (oldest instanceof HTMLElement && oldest.dataset.kind === 'warning') this.#warnings -= 1;
    oldest.remove();
    this.#dropped += 1;
    setText(this.count, `Warnings only (${this.#warnings})`);
    setText(this.older, `${this.#dropped === 1 ? '1 older event is' : `${whole(this.#dropped)} older events are`} not shown: GET /v1/jobs/{id}/events has all.`);
    this.older.hidden = false;
  }

  #follow() {
    if (!this.following.checked) return;
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.list.scrollTop = this.list.scrollHeight;
    });
  }

  #filter() {
    this.#words = this.search.value.trim().toLowerCase();
    const rows = this.list.querySelectorAll('li');
    let found = 0;
    for (const row of rows) if (this.#match(row)) found += 1;
    setText(this.found, this.#words ? `${found} of ${rows.length}` : '');
    this.#follow();
  }

  /**
   * Hides a row that does not match the search, and marks the match in one that does.
   * @param {HTMLElement} row
   */
  #match(row) {
    const message = row.querySelector('.message > span');
    if (!message) return false;
    const text = message.textContent ?? '';
    const at = this.#words ? text.toLowerCase().indexOf(this.#words) : -1;
    const isKind = this.#words !== '' && row.dataset.kind?.includes(this.#words);
    row.hidden = this.#words !== '' && at < 0 && !isKind;
    if (at >= 0) {
      const end = at + this.#words.length;
      fill(message, text.slice(0, at), h('mark', {}, text.slice(at, end)), text.slice(end));
    } else if (message.childElementCount > 0) {
      fill(message, text);
    }
    return !row.hidden;
  }
}
