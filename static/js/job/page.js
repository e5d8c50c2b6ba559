// One job, live.

import { allEvents, api, paths } from '../api/client.js';
import { learnAboutTokens } from '../ui/commands.js';
import { isStale, setConnection } from '../ui/connection.js';
import { ask, fill, h, setText } from '../ui/dom.js';
import { share } from '../ui/format.js';
import { JobAttempts } from './attempts.js';
import { JobCharts } from './charts.js';
import { JobFiles } from './files.js';
import { JobHeader } from './header.js';
import { JobLog } from './log.js';
import { JobRegions } from './regions.js';
import { JobResult } from './result.js';
import { JobSpec } from './spec.js';
import { isFinal } from '../ui/status.js';
import { follow } from '../api/stream.js';

export async function jobPage({ root, id, signal, setTitle, announce }) {
  fill(root, h('p', { class: 'note', role: 'status' }, 'Loading…'));
  try {
    const [job] = await Promise.all([api.job(id, signal), learnAboutTokens(signal)]);
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
    this.result = new JobResult(job);
    this.charts = new JobCharts(job, signal);
    this.regions = new JobRegions(job, this.charts.ofScales, signal);
    this.attempts = new JobAttempts(job, signal);
    this.log = new JobLog(signal);
    this.files = new JobFiles(signal);
    const parts = [this.header, this.result, this.charts, this.regions, this.attempts, this.log, new JobSpec(job, signal), this.files];
    fill(root, parts.map((part) => [part.element, part === this.header ? this.message : null]));
    this.show();
  }

  /** Reads what there is, then follows what comes: nothing is missed in between. */
  async start() {
    try {
      const [metrics, events] = await Promise.all([
        api.metrics(this.job.id, { maxPoints: 2000 }, this.signal),
        allEvents(this.job.id, this.log.last, this.signal),
        this.findBaseline(),
      ]);
      this.charts.load(metrics.series);
      this.header.evaluated(metrics.series.find(({ name }) => name === 'eval/top1')?.points ?? []);
      events.forEach((event) => this.note(event));
      this.show();
      this.follow(`${this.log.last}-${metrics.last_id}`);
    } catch (error) {
      if (this.signal.aborted) return;
      setText(this.message, error.message);
      setConnection('lost');
      setTimeout(() => { if (!this.signal.aborted) this.start(); }, 3000);
    }
  }

  async findBaseline() {
    const { data } = await api.summaries({ id: this.job.id }, this.signal);
    this.header.compareWith(data[0]?.baseline ?? null);
  }

  follow(after) {
    this.stream?.stop();
    this.stream = follow(paths.jobStream(this.job.id), {
      after,
      on: {
        status: (job) => this.take(job),
        progress: ({ id, ...progress }) => this.take({ ...this.job, progress }),
        metric: (point) => this.measured(point),
        event: (event) => this.note(event),
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

  measured(point) {
    this.charts.add(point);
    if (point.name !== 'eval/top1') return;
    this.header.evaluated([point]);
    this.header.update(this.job);
  }

  note(event) {
    if (event.seq <= this.log.last) return;
    this.log.add(event);
    this.attempts.note(event);
  }

  take(job) {
    const changed = job.status !== this.job.status;
    this.job = job;
    this.show();
    if (!changed) return;
    this.announce(`${job.name}: ${job.status}`);
    // What it is compared with may have come to its end in the meantime.
    this.findBaseline().then(() => this.header.update(this.job), () => {});
  }

  show() {
    this.header.update(this.job);
    this.result.update(this.job);
    this.regions.update(this.job);
    this.attempts.update(this.job);
    this.files.update(this.job);
    this.charts.setStart(this.job);
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
