// The table of workers, each row updated in place.

import { now } from '../api/client.js';
import { h, progressBar, setText } from '../ui/dom.js';
import { age, bytes, duration, isNumber, share } from '../ui/format.js';

/** @import { Child } from '../ui/dom.js' */
/** @import { Maybe } from '../ui/format.js' */
/** @typedef {Schemas['Worker']} Worker */
/** @typedef {Schemas['JobSummary']} JobSummary */

const COLUMNS = ['Name', 'Device', 'Processors', 'Memory', 'Busy in the last hour', 'Job', 'Last heartbeat', 'Started', 'Version'];

export class WorkersTable {
  /** @type {Map<string, WorkerRow>} */
  #rows = new Map();

  constructor() {
    this.body = h('tbody', { role: 'rowgroup' });
    this.element = h('div', { class: 'table-frame' }, h('table', { class: 'workers', role: 'table' },
      h('caption', { class: 'visually-hidden' }, 'Workers'),
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, COLUMNS.map((name) => h('th', { role: 'columnheader', scope: 'col' }, name)))),
      this.body));
  }

  /**
   * @param {Worker[]} workers
   * @param {Map<string, JobSummary>} jobs by id
   */
  show(workers, jobs) {
    const present = new Set(workers.map(({ id }) => id));
    for (const [id, row] of this.#rows) {
      if (present.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
    workers.forEach((worker, place) => {
      const row = this.#rows.get(worker.id) ?? new WorkerRow(worker);
      this.#rows.set(worker.id, row);
      row.update(worker, jobs.get(worker.job ?? ''));
      if (this.body.children[place] !== row.element) this.body.insertBefore(row.element, this.body.children[place] ?? null);
    });
  }
}

/** A bar with its figures below it; hidden while they are unknown. */
class Gauge {
  /** @param {string} label */
  constructor(label) {
    this.bar = progressBar(label);
    this.text = h('span', { class: 'note' });
    this.element = h('span', { class: 'gauge', hidden: true }, this.bar.element, this.text);
  }

  /**
   * @param {Maybe} fraction
   * @param {string} text
   * @param {string} [title]
   */
  update(fraction, text, title = '') {
    this.element.hidden = !text;
    this.bar.update(fraction);
    setText(this.text, text);
    this.element.title = title;
  }
}

class WorkerRow {
  /** @param {Worker} worker */
  constructor(worker) {
    const cell = (/** @type {string} */ label, /** @type {...Child} */ ...children) => h('td', { role: 'cell', 'data-label': label }, children);
    this.gpu = new Gauge('GPU');
    this.cpu = new Gauge('Processors of the machine');
    this.memory = new Gauge('Memory of the machine');
    this.busy = progressBar('Busy in the last hour');
    this.busyShare = h('span', { class: 'share' });
    this.job = h('a', {});
    this.idle = h('span', { class: 'note' }, 'idle');
    this.progress = h('span', { class: 'note live-figure' });
    this.others = h('span', { class: 'note' });
    this.stopped = h('span', { class: 'doubtful', hidden: true });
    this.heartbeat = h('time', {});
    this.started = h('time', { datetime: worker.started_at, title: new Date(worker.started_at).toLocaleString() });
    this.element = h('tr', { role: 'row', 'data-id': worker.id },
      h('th', { role: 'rowheader', scope: 'row', 'data-label': 'Name' }, worker.name),
      cell('Device', worker.device, this.gpu.element),
      cell('Processors', this.cpu.element),
      cell('Memory', this.memory.element),
      cell('Busy in the last hour', h('div', { class: 'progress-cell' }, this.busy.element, this.busyShare)),
      cell('Job', h('span', { class: 'worker-job' }, this.job, this.idle, this.progress, this.others, this.stopped)),
      cell('Last heartbeat', this.heartbeat),
      cell('Started', this.started),
      cell('Version', worker.version));
  }

  /**
   * @param {Worker} worker
   * @param {JobSummary | undefined} job the oldest that it holds
   */
  update(worker, job) {
    this.#showUsage(worker);
    this.#showJob(worker, job);
    this.busy.update(worker.busy_share);
    setText(this.busyShare, share(worker.busy_share));
    this.heartbeat.dateTime = worker.heartbeat_at;
    this.heartbeat.title = new Date(worker.heartbeat_at).toLocaleString();
    this.heartbeat.className = worker.online ? '' : 'doubtful';
    setText(this.heartbeat, `${age(worker.heartbeat_at, now())}${worker.online ? '' : ' – silent'}`);
    setText(this.started, age(worker.started_at, now()));
  }

  /**
   * @param {Worker} worker
   * @param {JobSummary | undefined} job
   */
  #showJob({ job: id, jobs, waits_for: reserved, stopped_because: because, datasets, dataset_cache_bytes: room }, job) {
    const hasNone = datasets && Object.keys(datasets).length === 0 && !room;
    const lacks = hasNone ? 'it has no data set in its --datasets-dir, and fetches none' : null;
    const reason = because ?? lacks;
    this.stopped.hidden = !reason;
    setText(this.stopped, reason ? `takes no jobs: ${reason}` : '');
    this.job.hidden = !id;
    this.idle.hidden = Boolean(id) || Boolean(reason);
    if (id) this.job.href = `#/jobs/${encodeURIComponent(id)}`;
    setText(this.job, id ? job?.name || id : '');
    const others = jobs.length - 1;
    setText(this.others, others > 0 ? `and ${others} more` : reserved ? 'reserving devices for a larger job' : '');
    const progress = job?.progress;
    setText(this.progress, progress ? `${share(progress.fraction)} · ${duration(progress.eta_seconds)} left` : '');
  }

  /**
   * The load of the whole machine, not only that of the worker.
   * @param {Worker} worker
   */
  #showUsage({ usage }) {
    const { cpu_share: cpu, memory_used_bytes: used, memory_total_bytes: total, gpu } = usage ?? {};
    this.cpu.update(cpu, isNumber(cpu) ? `${share(cpu)} busy` : '', 'All processors of the machine since the last heartbeat');
    if (isNumber(used) && isNumber(total)) this.memory.update(used / total, `${bytes(used)} of ${bytes(total)}`, 'In use by all processes of the machine');
    else this.memory.update(null, '');
    if (!gpu) {
      this.gpu.update(null, '');
      return;
    }
    const busy = isNumber(gpu.busy_share) ? `${share(gpu.busy_share)} busy · ` : '';
    this.gpu.update(gpu.memory_used_bytes / gpu.memory_total_bytes, `${busy}${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_total_bytes)}`, gpu.name);
  }
}
