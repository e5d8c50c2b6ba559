// Who trains, what waits, what is stored: asked every few seconds, since no stream tells of these.

import { api, now } from '../api/client.js';
import { setConnection } from '../ui/connection.js';
import { fill, h, progressBar, setText } from '../ui/dom.js';
import { age, bytes, duration, rate, share, whole } from '../ui/format.js';

const EVERY = 5000;
const COLUMNS = ['Name', 'Device', 'Processors', 'Memory', 'Busy in the last hour', 'Job', 'Last heartbeat', 'Started', 'Version'];

export function workersPage({ root, signal, setTitle }) {
  const table = new WorkersTable();
  const tiles = new Tiles();
  const note = h('p', { class: 'note', role: 'status' }, 'Loading…');
  fill(root, h('h1', {}, 'Workers and system'), tiles.element, table.element, note);

  async function look() {
    try {
      const [{ data }, system] = await Promise.all([api.workers(signal), api.system(signal)]);
      const held = data.map(({ job }) => job).filter(Boolean).slice(0, 100);
      const jobs = held.length ? (await api.summaries({ id: held, limit: 100 }, signal)).data : [];
      table.show(data, new Map(jobs.map((job) => [job.id, job])));
      tiles.show(system, data);
      setText(note, data.length ? '' : 'No worker is running: queued jobs wait. Start one with “distillery worker”.');
      setTitle(data.length ? `${data.filter(({ job }) => job).length} of ${data.length} busy · Workers` : 'Workers');
      setConnection('live');
    } catch (error) {
      if (signal.aborted) return;
      setText(note, error.message);
      setConnection('lost');
    }
    if (!signal.aborted) setTimeout(look, EVERY);
  }
  look();
}

/** Numbers in groups; the groups and their names never change, so nothing moves. */
class Tiles {
  #values = new Map();

  constructor() {
    this.element = h('div', { class: 'system' },
      this.#group('Queue', ['Ready', 'Longest wait', 'Wait for a teacher', 'Tried again later', 'Paused']),
      this.#group('At work', ['Jobs held', 'Images per second', 'Workers busy']),
      this.#group('Last 24 hours', ['Attempts begun', 'Succeeded', 'Failed', 'Median wait', '95 % waited less than']),
      this.#group('Storage', ['Students and reports', 'Resume states', 'Uploaded checkpoints', 'Database', 'Free']));
  }

  #group(title, names) {
    return h('section', { class: 'card', 'aria-label': title }, h('h2', {}, title), h('dl', { class: 'figures' }, names.map((name) => {
      const value = h('dd', {}, '–');
      this.#values.set(name, value);
      return h('div', {}, h('dt', {}, name), value);
    })));
  }

  #set(name, text, title = '') {
    setText(this.#values.get(name), text);
    this.#values.get(name).title = title;
  }

  show({ queue, last_day: day, storage }, workers) {
    this.#set('Ready', whole(queue.ready), 'Queued jobs that a worker could take now');
    this.#set('Longest wait', duration(queue.longest_wait_seconds));
    this.#set('Wait for a teacher', whole(queue.waiting_for_teacher));
    this.#set('Tried again later', whole(queue.backing_off));
    this.#set('Paused', whole(queue.paused));
    this.#set('Jobs held', whole(queue.held));
    this.#set('Images per second', queue.held ? rate(queue.images_per_second).replace(' images/s', '') : '–');
    const online = workers.filter((worker) => worker.online);
    this.#set('Workers busy', `${online.filter(({ job }) => job).length} of ${online.length}`);
    const failures = Object.entries(day.ended).filter(([outcome]) => !['succeeded', 'stopped'].includes(outcome));
    this.#set('Attempts begun', whole(day.begun));
    this.#set('Succeeded', whole(day.ended.succeeded ?? 0));
    this.#set('Failed', whole(failures.reduce((sum, [, count]) => sum + count, 0)), failures.map(([outcome, count]) => `${outcome}: ${count}`).join(', '));
    this.#set('Median wait', seconds(day.median_wait_seconds));
    this.#set('95 % waited less than', seconds(day.p95_wait_seconds));
    this.#set('Students and reports', bytes(storage.artifacts_bytes), `${whole(storage.artifacts)} files`);
    this.#set('Resume states', bytes(storage.states_bytes), `${whole(storage.states)} jobs that have not succeeded can go on from theirs`);
    const limit = storage.checkpoints_limit_bytes;
    this.#set('Uploaded checkpoints', `${bytes(storage.checkpoints_bytes)}${Number.isFinite(limit) ? ` of ${bytes(limit)}` : ''}`, `${whole(storage.checkpoints)} uploads`);
    this.#set('Database', bytes(storage.database_bytes));
    this.#set('Free', Number.isFinite(storage.free_bytes) ? bytes(storage.free_bytes) : '–', storage.free_bytes === null ? 'Object storage does not say.' : 'Where the files are stored');
  }
}

/** Short waits with a decimal: 0.034 s is not "0 s". */
function seconds(value) {
  return Number.isFinite(value) && value < 10 ? `${value.toFixed(value < 1 ? 3 : 1)} s` : duration(value);
}

class WorkersTable {
  #rows = new Map();

  constructor() {
    this.body = h('tbody', { role: 'rowgroup' });
    this.element = h('div', { class: 'table-frame' }, h('table', { class: 'workers', role: 'table' },
      h('caption', { class: 'visually-hidden' }, 'Workers'),
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, COLUMNS.map((name) => h('th', { role: 'columnheader', scope: 'col' }, name)))),
      this.body));
  }

  show(workers, jobs) {
    const there = new Set(workers.map(({ id }) => id));
    for (const [id, row] of this.#rows) {
      if (there.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
    workers.forEach((worker, place) => {
      const row = this.#rows.get(worker.id) ?? new WorkerRow(worker);
      this.#rows.set(worker.id, row);
      row.update(worker, jobs.get(worker.job));
      if (this.body.children[place] !== row.element) this.body.insertBefore(row.element, this.body.children[place] ?? null);
    });
  }
}

/** A bar with its figures below it; nothing where nothing is known. */
class Gauge {
  constructor(label) {
    this.bar = progressBar(label);
    this.text = h('span', { class: 'note' });
    this.element = h('span', { class: 'gauge', hidden: true }, this.bar.element, this.text);
  }

  update(fraction, text, title = '') {
    this.element.hidden = !text;
    this.bar.update(fraction);
    setText(this.text, text);
    this.element.title = title;
  }
}

class WorkerRow {
  constructor(worker) {
    const cell = (label, ...children) => h('td', { role: 'cell', 'data-label': label }, children);
    this.gpu = new Gauge('GPU');
    this.cpu = new Gauge('Processors of the machine');
    this.memory = new Gauge('Memory of the machine');
    this.busy = progressBar('Busy in the last hour');
    this.busyShare = h('span', { class: 'share' });
    this.job = h('a', {});
    this.idle = h('span', { class: 'note' }, 'idle');
    this.jobProgress = h('span', { class: 'note live-figure' });
    this.others = h('span', { class: 'note' });
    this.heartbeat = h('time', {});
    this.started = h('time', { datetime: worker.started_at, title: new Date(worker.started_at).toLocaleString() });
    this.element = h('tr', { role: 'row', 'data-id': worker.id },
      h('th', { role: 'rowheader', scope: 'row', 'data-label': 'Name' }, worker.name),
      cell('Device', worker.device, this.gpu.element),
      cell('Processors', this.cpu.element),
      cell('Memory', this.memory.element),
      cell('Busy in the last hour', h('div', { class: 'progress-cell' }, this.busy.element, this.busyShare)),
      cell('Job', h('span', { class: 'worker-job' }, this.job, this.idle, this.jobProgress, this.others)),
      cell('Last heartbeat', this.heartbeat),
      cell('Started', this.started),
      cell('Version', worker.version));
  }

  update(worker, job) {
    this.#showUsage(worker);
    this.busy.update(worker.busy_share);
    setText(this.busyShare, share(worker.busy_share));
    this.job.hidden = !worker.job;
    this.idle.hidden = Boolean(worker.job);
    if (worker.job) this.job.href = `#/jobs/${encodeURIComponent(worker.job)}`;
    setText(this.job, worker.job ? job?.name || worker.job : '');
    const others = worker.jobs.length - 1;
    setText(this.others, others > 0 ? `and ${others} more` : worker.waits_for ? 'keeps devices free for a larger job' : '');
    const { progress } = job ?? {};
    setText(this.jobProgress, progress ? `${share(progress.fraction)} · ${duration(progress.eta_seconds)} left` : '');
    this.heartbeat.dateTime = worker.heartbeat_at;
    this.heartbeat.title = new Date(worker.heartbeat_at).toLocaleString();
    this.heartbeat.className = worker.online ? '' : 'doubtful';
    setText(this.heartbeat, `${age(worker.heartbeat_at, now())}${worker.online ? '' : ' – silent'}`);
    setText(this.started, age(worker.started_at, now()));
  }
  /** What the machine has to do, whoever gave it to it. */
  #showUsage({ usage }) {
    const { cpu_share: cpu, memory_used_bytes: used, memory_total_bytes: total, gpu } = usage ?? {};
    this.cpu.update(cpu, Number.isFinite(cpu) ? `${share(cpu)} busy` : '', 'All processors of the machine since the last heartbeat');
    this.memory.update(used / total, Number.isFinite(used) ? `${bytes(used)} of ${bytes(total)}` : '', 'Of the machine, in use by all its processes');
    const busy = Number.isFinite(gpu?.busy_share) ? `${share(gpu.busy_share)} busy · ` : '';
    this.gpu.update(gpu && gpu.memory_used_bytes / gpu.memory_total_bytes, gpu ? `${busy}${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_total_bytes)}` : '', gpu?.name);
  }
}
