// A job's history: newest first, warnings easy to see.

import { now } from './api.js';
import { h, setText } from './dom.js';
import { clock } from './format.js';

/** Rows kept in the page; all of them can be had from the API. */
const MOST_ROWS = 2000;

export class JobLog {
  #last = 0;
  #warnings = 0;

  constructor() {
    this.list = h('ol', { class: 'log', reversed: true, tabindex: '0', 'aria-label': 'Events, newest first' });
    this.onlyWarnings = h('input', { type: 'checkbox', onchange: (event) => this.list.classList.toggle('only-warnings', event.target.checked) });
    this.count = h('span', {}, 'Warnings only (0)');
    this.element = h('section', { class: 'card', 'aria-labelledby': 'events-title' },
      h('header', { class: 'card-head' }, h('h2', { id: 'events-title' }, 'Events'), h('label', { class: 'check' }, this.onlyWarnings, this.count)),
      this.list);
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
    this.list.prepend(h('li', { 'data-kind': kind },
      h('time', { datetime: time, title: new Date(time).toLocaleString() }, clock(time, now())),
      h('span', { class: 'kind' }, kind),
      h('span', { class: 'message' }, message, attempt > 1 ? h('small', {}, ` attempt ${attempt}`) : null)));
    if (this.list.childElementCount > MOST_ROWS) this.list.lastElementChild.remove();
  }
}
