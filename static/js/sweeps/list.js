// All sweeps, newest first.

import { followChanges } from '../api/changes.js';
import { api, now } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { setAnswered, setConnection } from '../ui/connection.js';
import { ageElement, fill, h, refill, setText, statusBadge } from '../ui/dom.js';
import { age } from '../ui/format.js';
import { scrollBox } from '../ui/section.js';
import { jobsText, strategyText } from './data.js';

/** @typedef {Schemas['Sweep']} Sweep */

const INTERVAL = 3000;
const COLUMNS = ['Name', 'Status', 'Strategy', 'Combinations', 'Jobs', 'Created'];

/** @param {PageContext} context */
export function sweepsPage({ root, signal }) {
  const note = h('p', { class: 'note', role: 'status' }, 'Loading…');
  const table = scrollBox('Sweeps, table', { class: 'table-scroll' });
  const card = h('section', { class: 'card', 'aria-label': 'Sweeps', hidden: true }, table);
  const start = h('a', { class: 'button primary', href: '#/sweeps/new' }, 'New sweep');
  fill(root, h('div', { class: 'heading' }, h('h1', {}, 'Sweeps'), h('div', { class: 'actions' }, start)), note, h('div', { class: 'compare sweep' }, card));
  let shown = '';
  const poller = new Poller({
    interval: INTERVAL, signal,
    request: async (stop) => {
      const { data, has_more: hasMore } = await api.sweeps(null, stop);
      setAnswered(true);
      card.hidden = data.length === 0;
      const none = 'There is no sweep yet. Start one with “New sweep”, or with “Sweep” beside the specification of a job.';
      setText(note, data.length === 0 ? none : hasMore ? `The newest ${data.length} sweeps; the API lists all.` : '');
      // Jobs change all the time, and a list that stays the same is left alone.
      if (JSON.stringify(data) === shown) return;
      shown = JSON.stringify(data);
      refill(table, h('table', {}, h('thead', {}, h('tr', {}, COLUMNS.map((name) => h('th', { scope: 'col' }, name)))), h('tbody', {}, data.map(row))));
    },
    onError: (error) => {
      setText(note, error.message);
      setAnswered(false);
    },
  });
  poller.now();
  followChanges({ onChange: () => poller.soon(), onState: setConnection, signal });
}

/** @param {Sweep} sweep */
function row(sweep) {
  const badge = statusBadge();
  badge.update(sweep.status);
  return h('tr', {},
    h('th', { scope: 'row' }, h('a', { href: `#/sweeps/${encodeURIComponent(sweep.id)}` }, sweep.name)),
    h('td', {}, badge.element),
    h('td', {}, strategyText(sweep.strategy)),
    h('td', {}, sweep.seeds > 1 ? `${sweep.combinations} × ${sweep.seeds} seeds` : String(sweep.combinations)),
    h('td', {}, jobsText(sweep.jobs, sweep.strategy)),
    h('td', {}, ageElement(sweep.created_at, (time) => age(time, now()))));
}
