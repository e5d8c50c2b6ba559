// One job, live.

import { allEvents, api, paths } from './api.js';
import { isStale, setConnection } from './connection.js';
import { ask, copyButton, fill, h, setText } from './dom.js';
import { prettyJson, share } from './format.js';
import { JobCharts } from './job-charts.js';
import { JobHeader } from './job-header.js';
import { JobLog } from './job-log.js';
import { JobRegions } from './job-regions.js';
import { JobResult } from './job-result.js';
import { isFinal } from './status.js';
import { follow } from './stream.js';

export async function jobPage({ root, id, signal, setTitle, announce }) {
  fill(root, h('p', { class: 'note', role: 'status' }, 'Loading…'));
  try {
    const job = await api.job(id, signal);
    if (!signal.aborted) new JobView(root, job, signal, setTitle, announce).start();
  } catch (error) {
    if (signal.aborted) return;
    setTitle('Job');
    fill(root, h('h1', {}, error.status === 404 ? 'There is no such job' : 'This job cannot be shown'),
      h('p', {}, error.message), h('p', {}, h('a', { href: '#/' }, 'All jobs')));
  }
}

class JobView {
  constructor(root, job, signal, setTitle, announce) {
    Object.assign(this, { job, signal, setTitle, announce });
    this.header = new JobHeader(job, (action) => this.act(action));
    this.message = h('p', { class: 'message-line', role: 'alert' });
    this.result = new JobResult(signal);
    this.charts = new JobCharts(job.spec, signal);
    this.regions = new JobRegions(signal);
    this.log = new JobLog();
    fill(root, this.header.element, this.message, this.result.element, this.charts.element, this.regions.element, this.log.element, specification(job));
    this.show();
  }

  /** Reads what there is, then follows what comes: nothing is missed in between. */
  async start() {
    try {
      const [metrics, events] = await Promise.all([
        api.metrics(this.job.id, { maxPoints: 2000 }, this.signal),
        allEvents(this.job.id, this.log.last, this.signal),
      ]);
      this.charts.load(metrics.series);
      events.forEach((event) => this.log.add(event));
      this.follow(`${this.log.last}-${metrics.last_id}`);
    } catch (error) {
      if (this.signal.aborted) return;
      setText(this.message, error.message);
      setConnection('lost');
      setTimeout(() => { if (!this.signal.aborted) this.start(); }, 3000);
    }
  }

  follow(after) {
    this.stream?.stop();
    this.stream = follow(paths.jobStream(this.job.id), {
      after,
      on: {
        status: (job) => this.take(job),
        progress: ({ id, ...progress }) => this.take({ ...this.job, progress }),
        metric: (point) => this.charts.add(point),
        event: (event) => this.log.add(event),
      },
      onState: (state) => {
        setConnection(state);
        if (state === 'live') setText(this.message, '');
        this.retitle();
      },
      isOver: () => isFinal(this.job.status),
      signal: this.signal,
    });
  }

  take(job) {
    const changed = job.status !== this.job.status;
    this.job = job;
    this.show();
    if (changed) this.announce(`${job.name}: ${job.status}`);
  }

  show() {
    this.header.update(this.job);
    this.result.update(this.job);
    this.regions.update(this.job);
    this.charts.setTeacher(this.job.result?.teacher_top1 ?? this.job.teacher?.top1);
    this.retitle();
  }

  retitle() {
    const { status, progress, name } = this.job;
    const state = status === 'running' && progress ? share(progress.fraction) : status;
    this.setTitle(`${isStale() ? 'offline · ' : ''}${state} · ${name}`);
  }

  async act({ verb, confirm, danger }) {
    if (confirm && !(await ask({ ...confirm, danger }))) return;
    this.header.busy(true);
    setText(this.message, '');
    try {
      if (verb === 'delete') {
        await api.remove(this.job.id);
        location.hash = '#/';
        return;
      }
      const wasOver = isFinal(this.job.status);
      this.take(await api.change(this.job.id, verb));
      if (wasOver) this.start();
    } catch (error) {
      setText(this.message, error.message);
    } finally {
      this.header.busy(false);
    }
  }
}

function specification(job) {
  const text = prettyJson(job.spec);
  return h('details', { class: 'card spec' },
    h('summary', {}, h('h2', {}, 'Specification'), h('span', { class: 'note' }, 'with every default filled in')),
    h('div', { class: 'actions' }, copyButton(() => text), h('a', { class: 'button quiet', href: `#/new?from=${encodeURIComponent(job.id)}` }, 'Post again with changes')),
    h('pre', { tabindex: '0', 'aria-label': 'Specification' }, text));
}
