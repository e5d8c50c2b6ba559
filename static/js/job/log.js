// A job's history as a log: the newest last, followed like `tail -f`, and searched.

import { now } from '../api/client.js';
import { fill, h, setText } from '../ui/dom.js';
import { clock } from '../ui/format.js';

/** Rows kept in the page; all of them can be had from the API. */
const MOST_ROWS = 2000;
/** So near to the end, in pixels, the reader is at it. */
const AT_END = 24;

export class JobLog {
  #last = 0;
  #warnings = 0;
  #words = '';
  #frame = null;

  constructor(signal) {
    this.list = h('ol', { class: 'log', tabindex: '0', 'aria-label': 'Events, oldest first' });
    this.onlyWarnings = h('input', { type: 'checkbox', onchange: (event) => {
      this.list.classList.toggle('only-warnings', event.target.checked);
      this.#toEnd();
    } });
    this.count = h('span', {}, 'Warnings only (0)');
    this.search = h('input', { type: 'search', id: 'log-search', placeholder: 'Search', 'aria-label': 'Search the events', oninput: () => this.#filter() });
    this.found = h('span', { class: 'note found', role: 'status' });
    this.following = h('input', { type: 'checkbox', checked: true, onchange: () => this.#toEnd() });
    this.element = h('section', { class: 'card', 'aria-labelledby': 'events-title' },
      h('header', { class: 'card-head' }, h('h2', { id: 'events-title' }, 'Events'),
        h('div', { class: 'actions' }, this.found, this.search, h('label', { class: 'check' }, this.onlyWarnings, this.count),
          h('label', { class: 'check' }, this.following, 'Follow'))),
      this.list);
    // Whoever scrolls up reads, and wants to stay there.
    this.list.addEventListener('scroll', () => {
      const { scrollTop, scrollHeight, clientHeight } = this.list;
      this.following.checked = scrollHeight - clientHeight - scrollTop < AT_END;
    }, { passive: true });
    signal.addEventListener('abort', () => cancelAnimationFrame(this.#frame));
  }

  /** The number of the newest entry. */
  get last() {
    return this.#last;
  }

  add({ seq, time, kind, message, attempt }) {
    if (seq <= this.#last) return;
    this.#last = seq;
    if (kind === 'warning') this.#warnings += 1;
    setText(this.count, `Warnings only (${this.#warnings})`);
    const row = h('li', { 'data-kind': kind },
      h('time', { datetime: time, title: new Date(time).toLocaleString() }, clock(time, now())),
      h('span', { class: 'kind' }, kind),
      h('span', { class: 'message' }, h('span', {}, message), attempt > 1 ? h('small', {}, ` attempt ${attempt}`) : null));
    this.#match(row);
    this.list.append(row);
    if (this.list.childElementCount > MOST_ROWS) this.list.firstElementChild.remove();
    this.#toEnd();
  }

  #toEnd() {
    if (!this.following.checked) return;
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.list.scrollTop = this.list.scrollHeight;
    });
  }

  #filter() {
    this.#words = this.search.value.trim().toLowerCase();
    let found = 0;
    for (const row of this.list.children) if (this.#match(row)) found += 1;
    setText(this.found, this.#words ? `${found} of ${this.list.childElementCount}` : '');
    this.#toEnd();
  }

  /** Hides a row without what is searched for, and marks where it stands in the others. */
  #match(row) {
    const message = row.querySelector('.message > span');
    const text = message.textContent;
    const at = this.#words ? text.toLowerCase().indexOf(this.#words) : -1;
    const isKind = this.#words !== '' && row.dataset.kind.includes(this.#words);
    row.hidden = this.#words !== '' && at < 0 && !isKind;
    if (at < 0) setText(message, text);
    if (at < 0 && message.childElementCount) fill(message, text);
    if (at >= 0) {
      const end = at + this.#words.length;
      fill(message, text.slice(0, at), h('mark', {}, text.slice(at, end)), text.slice(end));
    }
    return !row.hidden;
  }
}
