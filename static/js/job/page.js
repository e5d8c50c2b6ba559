// One job, live.

import { allEvents, api, paths } from '../api/client.js';
import { follow } from '../api/stream.js';
import { learnAboutTokens } from '../ui/commands.js';
import { isStale, setConnection } from '../ui/connection.js';
import { ask, fill, h, setText } from '../ui/dom.js';
import { share } from '../ui/format.js';
import { isFinal } from '../ui/status.js';
import { JobAttempts } from './attempts.js';
import { JobCharts } from './charts.js';
import { JobFiles } from './files.js';
import { JobHeader } from './header.js';
import { JobLog } from './log.js';
import { JobResult } from './result.js';
import { JobSpec } from './spec.js';

/** @import { Action } from '../ui/status.js' */
/** @typedef {Schemas['Job']} Job */

const RETRY_DELAY = 3000;
const MAX_POINTS = 2000;

/** @param {PageContext} context */
export async function jobPage(context) {
  const { root, id = '', signal, setTitle } = context;
  fill(root, h('p', { class: 'note', role: 'status' }, 'Loading…'));
  try {
    const [job] = await Promise.all([api.job(id, signal), learnAboutTokens(signal)]);
    const regions = hasRegions(job) ? await import('./regions.js') : null;
    if (!signal.aborted) new JobView(context, job, regions?.JobRegions).start();
  } catch (error) {
    if (signal.aborted) return;
    setTitle('Job');
    fill(root, h('h1', {}, error.status === 404 ? 'Job not found' : 'This job cannot be shown'),
      h('p', {}, error.message), h('p', {}, h('a', { href: '#/' }, 'All jobs')));
  }
}

/** @param {Job} job */
function hasRegions({ spec }) {
  return (spec.distillation.scales?.length ?? 0) > 1;
}

class JobView {
  /** @type {{ stop: () => void } | null} */
  #stream = null;

  /**
   * @param {PageContext} context
   * @param {Job} job
   * @param {typeof import('./regions.js').JobRegions} [JobRegions] for a method with regions
   */
  constructor({ root, signal, setTitle, announce }, job, JobRegions) {
    this.job = job;
    this.signal = signal;
    this.setTitle = setTitle;
    this.announce = announce;
    this.header = new JobHeader(job, (action) => this.act(action));
    this.message = h('p', { class: 'message-line', role: 'alert' });
    this.result = new JobResult(job);
    this.charts = new JobCharts(job, signal);
    this.regions = JobRegions ? new JobRegions(job, this.charts.ofScales, signal) : null;
    this.attempts = new JobAttempts(job, signal);
    this.log = new JobLog(signal);
    this.files = new JobFiles(signal);
    const parts = [this.result, this.charts, this.regions, this.attempts, this.log, new JobSpec(job, signal), this.files];
    fill(root, this.header.element, this.message, parts.map((part) => part?.element));
    this.show();
  }

  /** Reads what there is, then follows the stream from there, so that nothing is missed in between. */
  async start() {
    try {
      const [metrics, events] = await Promise.all([
        api.metrics(this.job.id, { maxPoints: MAX_POINTS }, this.signal),
        allEvents(this.job.id, this.log.last, this.signal),
        this.findBaseline(),
      ]);
      this.charts.load(metrics.series);
      this.header.addEvaluations(metrics.series.find(({ name }) => name === 'eval/top1')?.points ?? []);
      events.forEach((event) => this.note(event));
      this.show();
      this.follow(`${this.log.last}-${metrics.last_id}`);
    } catch (error) {
      if (this.signal.aborted) return;
      setText(this.message, error.message);
      setConnection('lost');
      setTimeout(() => { if (!this.signal.aborted) this.start(); }, RETRY_DELAY);
    }
  }

  async findBaseline() {
    const { data } = await api.summaries({ id: this.job.id }, this.signal);
    this.header.setBaseline(data[0]?.baseline ?? null);
  }

  /** @param {string} after */
  follow(after) {
    this.#stream?.stop();
    this.#stream = follow(paths.jobStream(this.job.id), {
      after,
      on: {
        status: (job) => this.take(job),
        progress: ({ id: _, ...progress }) => this.take({ ...this.job, progress }),
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

  /** @param {Schemas['Point']} point */
  measured(point) {
    this.charts.add(point);
    if (point.name !== 'eval/top1') return;
    this.header.addEvaluations([point]);
    this.header.update(this.job);
  }

  /** @param {Schemas['Event']} event */
  note(event) {
    if (event.seq <= this.log.last) return;
    this.log.add(event);
    this.attempts.note(event);
  }

  /** @param {Job} job */
  take(job) {
    const hasChanged = job.status !== this.job.status;
    this.job = job;
    this.show();
    if (!hasChanged) return;
    this.announce(`${job.name}: ${job.status}`);
    // A job that it is compared with may have finished in the meantime.
    this.findBaseline().then(() => this.header.update(this.job), () => {});
  }

  show() {
    this.header.update(this.job);
    this.result.update(this.job);
    this.regions?.update(this.job);
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

  /** @param {Action} action */
  async act({ verb, confirm, danger }) {
    if (confirm && !(await ask({ ...confirm, danger }))) return;
    this.header.setBusy(true);
    setText(this.message, '');
    try {
      if (verb === 'delete') {
        await api.remove(this.job.id);
        location.hash = '#/';
        return;
      }
      const wasFinal = isFinal(this.job.status);
      this.take(await api.change(this.job.id, verb));
      // The stream of a final job has ended.
      if (wasFinal) this.start();
    } catch (error) {
      setText(this.message, error.message);
    } finally {
      this.header.setBusy(false);
    }
  }
}
