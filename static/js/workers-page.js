// Who trains: asked every few seconds, since no stream tells of workers.

import { api, now } from './api.js';
import { setConnection } from './connection.js';
import { fill, h, setText } from './dom.js';
import { age, bytes } from './format.js';

const EVERY = 5000;

export function workersPage({ root, signal }) {
  const body = h('tbody', { role: 'rowgroup' });
  const note = h('p', { class: 'note', role: 'status' }, 'Loading…');
  const columns = ['Name', 'Device', 'Memory', 'Job', 'Last heartbeat'];
  fill(root, h('h1', {}, 'Workers'),
    h('div', { class: 'table-frame' }, h('table', { class: 'workers', role: 'table' },
      h('caption', { class: 'visually-hidden' }, 'Workers'),
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, columns.map((name) => h('th', { role: 'columnheader', scope: 'col' }, name)))),
      body)), note);

  async function look() {
    try {
      const { data } = await api.workers(signal);
      fill(body, data.map(row));
      setText(note, data.length ? '' : 'No worker is running: queued jobs wait. Start one with “distillery worker”.');
      setConnection('live');
    } catch (error) {
      if (signal.aborted) return;
      setConnection('lost');
    }
    if (!signal.aborted) setTimeout(look, EVERY);
  }
  look();
}

function row(worker) {
  const cell = (label, ...children) => h('td', { role: 'cell', 'data-label': label }, children);
  const heartbeat = h('time', { class: worker.online ? null : 'doubtful', datetime: worker.heartbeat_at, title: new Date(worker.heartbeat_at).toLocaleString() },
    age(worker.heartbeat_at, now()), worker.online ? '' : ' – silent');
  return h('tr', { role: 'row' },
    h('th', { role: 'rowheader', scope: 'row', 'data-label': 'Name' }, worker.name),
    cell('Device', worker.device),
    cell('Memory', Number.isFinite(worker.memory_bytes) ? bytes(worker.memory_bytes) : '–'),
    cell('Job', worker.job ? h('a', { href: `#/jobs/${encodeURIComponent(worker.job)}` }, worker.job) : 'idle'),
    cell('Last heartbeat', heartbeat));
}
