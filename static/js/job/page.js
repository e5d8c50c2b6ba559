// One job, live.

import { followChanges } from '../api/changes.js';
import { allEvents, api } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { learnAboutTokens } from '../ui/commands.js';
import { isStale, setAnswered, setConnection } from '../ui/connection.js';
import { ask, fill, h, setText } from '../ui/dom.js';
import { share } from '../ui/format.js';
import { listAddress } from '../ui/places.js';
import { isFinal, taughtText } from '../ui/status.js';
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
/** Least milliseconds between two requests for what is new. */
const INTERVAL = 500;
const SUMMARY_INTERVAL = 4000;
const MAX_POINTS = 2000;

/** @param {PageContext} context */
export async function jobPage(context) {
  const { root, id = '', signal, setTitle } = context;
  fill(root, h('p', { class: 'note', role: 'status' }, 'Loading…'));
  try {
    const [job, summary] = await Promise.all([api.job(id, signal), summaryOf(id, signal).catch(() => null), learnAboutTokens(signal)]);
    const regions = hasRegions(job) ? await import('./regions.js') : null;
    if (!signal.aborted) new JobView(context, job, summary, regions?.JobRegions).start();
  } catch (error) {
    if (signal.aborted) return;
    setTitle('Job');
    fill(root, h('h1', {}, error.status === 404 ? 'Job not found' : 'This job cannot be shown'),
      h('p', {}, error.message), h('p', {}, h('a', { href: '#/' }, 'All jobs')));
  }
}

/**
 * What the list shows of a job.
 * @param {string} id
 * @param {AbortSignal} signal
 */
async function summaryOf(id, signal) {
  const { data: [summary] } = await api.summaries({ id }, signal);
  return summary ?? null;
}

/** @param {Job} job */
function hasRegions({ spec }) {
  return (spec.distillation.scales?.length ?? 0) > 1;
}

class JobView {
  /** The position in the job's history up to which the page shows it. */
  #position = '';

  /**
   * @param {PageContext} context
   * @param {Job} job
   * @param {Schemas['JobSummary'] | null} summary
   * @param {typeof import('./regions.js').JobRegions} [JobRegions] for a method with regions
   */
  constructor({ root, signal, setTitle, announce }, job, summary, JobRegions) {
    this.job = job;
    this.signal = signal;
    this.setTitle = setTitle;
    this.announce = announce;
    /** @type {ConnectionState} */
    this.connection = 'connecting';
    this.header = new JobHeader(job, (action) => this.act(action));
    this.header.setSummary(summary);
    this.message = h('p', { class: 'message-line', role: 'alert' });
    this.result = new JobResult(job, signal);
    this.charts = new JobCharts(job, signal);
    this.regions = JobRegions ? new JobRegions(job, this.charts.ofScales, signal) : null;
    this.attempts = new JobAttempts(job, signal);
    this.log = new JobLog(signal);
    this.files = new JobFiles(signal);
    this.poller = new Poller({
      interval: INTERVAL, signal, request: (stop) => this.#readUpdates(stop),
      onError: (error) => this.#failed(error),
    });
    // The page's own requests already show that the connection is lost.
    this.summary = new Poller({ interval: SUMMARY_INTERVAL, signal, request: (stop) => this.#readSummary(stop), onError: () => {} });
    const parts = [this.result, this.charts, this.regions, this.attempts, this.log, new JobSpec(job, signal), this.files];
    fill(root, this.header.element, this.message, parts.map((part) => part?.element));
    this.show();
  }

  /** Reads what there is, then follows the changes from there, so that nothing is missed in between. */
  async start() {
    try {
      const [metrics, events] = await Promise.all([
        api.metrics(this.job.id, { maxPoints: MAX_POINTS }, this.signal),
        allEvents(this.job.id, this.log.last, this.signal),
      ]);
      this.charts.load(metrics.series);
      this.header.addEvaluations(metrics.series.find(({ name }) => name === 'eval/top1')?.points ?? []);
      events.forEach((event) => this.note(event));
      this.show();
      this.#position = `${this.log.last}-${metrics.last_id}`;
      this.#follow();
    } catch (error) {
      if (this.signal.aborted) return;
      setText(this.message, error.message);
      setConnection('lost');
      setTimeout(() => { if (!this.signal.aborted) this.start(); }, RETRY_DELAY);
    }
  }

  /** @param {AbortSignal} stop */
  async #readSummary(stop) {
    this.header.setSummary(await summaryOf(this.job.id, stop));
    this.header.update(this.job);
  }

  #follow() {
    followChanges({
      signal: this.signal,
      onChange: (ids) => {
        if (!ids || ids.includes(this.job.id)) this.poller.soon();
        // What is ahead of a queued job are other jobs.
        if (this.job.status === 'queued') this.summary.soon();
      },
      onState: (state) => {
        this.connection = state;
        this.#showConnection();
      },
    });
  }

  /** @param {AbortSignal} stop */
  async #readUpdates(stop) {
    const { job, events, points, next, has_more: hasMore } = await api.updates(this.job.id, this.#position, stop);
    this.#position = next;
    events.forEach((event) => this.note(event));
    points.forEach((point) => this.measured(point));
    setText(this.message, '');
    setAnswered(true);
    this.take(job);
    if (hasMore) this.poller.soon();
  }

  /** @param {Error & { status?: number }} error */
  #failed(error) {
    const isGone = error.status === 404;
    setText(this.message, isGone ? 'This job was deleted. The page shows its last state.' : error.message);
    setAnswered(isGone);
    if (isGone) this.poller.stop();
    this.retitle();
  }

  /** The state of a job that has ended is final. */
  #showConnection() {
    setConnection(this.connection === 'live' && isFinal(this.job.status) ? 'ended' : this.connection);
    this.retitle();
  }

  /** @param {Schemas['Point']} point */
  measured(point) {
    this.charts.add(point);
    if (point.name === 'eval/top1') this.header.addEvaluations([point]);
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
    this.#showConnection();
    if (!hasChanged) return;
    this.announce(`${job.name}: ${job.status}`);
    // A job that it is compared with may have finished in the meantime.
    this.summary.now();
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
    try {
      const taught = verb === 'delete' ? await this.#taught() : '';
      if (confirm && !(await ask({ ...confirm, detail: `${confirm.detail}${taught}`, danger }))) return;
    } catch (error) {
      setText(this.message, error.message);
      return;
    }
    this.header.setBusy(true);
    setText(this.message, '');
    try {
      if (verb === 'delete') {
        await api.remove(this.job.id);
        location.hash = listAddress();
        return;
      }
      this.take(await api.change(this.job.id, verb));
    } catch (error) {
      setText(this.message, error.message);
    } finally {
      this.header.setBusy(false);
    }
  }

  /** What becomes of the jobs that the student teaches. */
  async #taught() {
    const summary = await summaryOf(this.job.id, this.signal);
    return summary ? taughtText(summary) : '';
  }
}
