// The top of a job's page: what it is, how far it is, how well it does, and what can be done with it.

import { now, paths } from '../api/client.js';
import { appendPoints } from '../charts/series.js';
import { commandLine, curl } from '../ui/commands.js';
import { copyButton, fill, h, progressBar, setText, statusBadge } from '../ui/dom.js';
import { NO_BASELINE, clock, comparedWith, duration, isNumber, percent, points, rate, share, waitingText, whole } from '../ui/format.js';
import { listAddress } from '../ui/places.js';
import { gainSign, isWithin } from '../ui/settings.js';
import { ACTIONS, isFinal } from '../ui/status.js';
import { JobFacts } from './facts.js';

/** @import { Point } from '../charts/series.js' */
/** @import { Action } from '../ui/status.js' */
/** @import { Maybe } from '../ui/format.js' */
/** @typedef {Schemas['Job']} Job */

/** @type {Record<Schemas['ErrorClass'], string>} */
const REMEDIES = {
  user: 'The specification, the checkpoint or the data must change first; the job is not retried.',
  oom: 'Use a smaller batch_size, or a worker with more memory.',
  numeric: 'A loss was not finite. Try a lower learning rate or float32 precision.',
  worker_lost: 'The worker or its trainer disappeared.',
  storage: 'Files could not be read or written.',
  machine: 'The worker’s machine could not run the job; another machine may.',
  internal: 'This is an error of the server; see its log.',
};

/** Statuses in which a worker holds the job. */
const HELD = ['running', 'pausing', 'cancelling'];

export class JobHeader {
  /** @type {Map<string, { value: HTMLElement, note: HTMLElement, element: HTMLElement }>} */
  #tiles = new Map();
  #shownError = '';
  /** @type {Point[]} */
  #evaluations = [];
  /** @type {Schemas['JobSummary'] | null} */
  #summary = null;
  /**
   * For how many seconds workers have held the job, and when that was known.
   * @type {{ seconds: number, at: number } | null}
   */
  #ran = null;

  /**
   * @param {Job} job
   * @param {(action: Action) => void} onAction
   */
  constructor(job, onAction) {
    this.onAction = onAction;
    this.id = job.id;
    this.badge = statusBadge();
    this.buttons = h('div', { class: 'actions' });
    this.commands = h('div', { class: 'popover-body' });
    this.bar = progressBar('Progress');
    this.share = h('strong', { class: 'share' });
    this.where = h('span', {});
    this.speed = h('span', { class: 'live-figure' });
    this.error = h('div', { class: 'error-box', role: 'alert', hidden: true });
    this.facts = new JobFacts(job);
    this.element = h('div', { class: 'job-head' },
      h('p', { class: 'crumb' }, h('a', { href: listAddress() }, 'Jobs'), ' / ',
        job.sweep ? [h('a', { href: `#/sweeps/${encodeURIComponent(job.sweep)}` }, 'Sweep'), ' / '] : null, h('code', {}, job.id), copyButton(() => job.id)),
      h('div', { class: 'heading' }, h('div', { class: 'title-row' }, h('h1', {}, job.name), this.badge.element),
        h('div', { class: 'actions' }, this.buttons, popover('curl', this.commands))),
      this.error,
      h('section', { class: 'card progress-card', 'aria-label': 'Progress' },
        this.bar.element, h('p', { class: 'progress-line' }, this.share, this.where, this.speed), this.#tileList(job)),
      this.facts.element);
    this.update(job);
  }

  /**
   * The most wanted figures. All are there from the start, so that nothing moves.
   * @param {Job} job
   */
  #tileList(job) {
    const tile = (/** @type {string} */ name, /** @type {string} */ title) => {
      const value = h('dd', {}, '–');
      const note = h('dd', { class: 'note' });
      const element = h('div', {}, h('dt', {}, title), value, note);
      this.#tiles.set(name, { value, note, element });
      return element;
    };
    const hasTeacher = job.spec.distillation.method !== 'none';
    return h('dl', { class: 'tiles' }, tile('latest', 'Top-1 now'), tile('best', 'Best top-1'),
      hasTeacher ? [tile('teacher', 'Teacher top-1'), tile('gain', 'Gain')] : null, tile('left', 'Time left'), tile('took', 'Time taken'));
  }

  /** @param {Job} job */
  update(job) {
    const { progress, status } = job;
    this.badge.update(status);
    this.bar.element.dataset.status = status;
    const fraction = status === 'succeeded' ? 1 : progress?.fraction;
    this.bar.update(fraction);
    setText(this.share, isNumber(fraction) ? share(fraction) : '');
    const reached = progress ? `epoch ${progress.epoch} of ${progress.epochs} · step ${whole(progress.step)} of ${whole(progress.steps)}` : null;
    const waits = status === 'queued' ? (this.#summary?.waiting ? waitingText(this.#summary.waiting) : 'waits in the queue') : null;
    setText(this.where, [reached, waits].filter(Boolean).join(' · ') || withoutProgress(job));
    this.#showTimes(job);
    this.#showAccuracy(job);
    this.#showError(job);
    this.#showActions(status);
    this.facts.update(job);
  }

  /**
   * Takes points of `eval/top1`, oldest first. A resumed attempt replaces the points that it repeats.
   * @param {Parameters<typeof appendPoints>[1]} added
   */
  addEvaluations(added) {
    this.#evaluations = appendPoints(this.#evaluations, added);
  }

  /**
   * What the list knows of the job: what it is compared with, what it waits for and how long it ran.
   * @param {Schemas['JobSummary'] | null} summary
   */
  setSummary(summary) {
    this.#summary = summary;
    this.#ran = isNumber(summary?.ran_seconds) ? { seconds: summary.ran_seconds, at: now() } : null;
  }

  /** @param {Job} job */
  #showTimes({ progress, status, started_at: started, finished_at: finished }) {
    const running = status === 'running' ? progress : null;
    setText(this.speed, running ? `${rate(running.images_per_second)} · ${duration(running.eta_seconds)} left` : '');
    if (running && isNumber(running.eta_seconds)) {
      this.#setTile('left', duration(running.eta_seconds), `until about ${clock(now() + running.eta_seconds * 1000, now())}`);
    } else {
      this.#setTile('left', '–', '');
    }
    // Only while a worker holds the job does its time go on.
    if (this.#ran && HELD.includes(status)) this.#ran = { seconds: this.#ran.seconds + (now() - this.#ran.at) / 1000, at: now() };
    this.#setTile('took', duration(this.#ran?.seconds), started && finished ? `until ${clock(finished, now())}` : '');
  }

  /** @param {Job} job */
  #showAccuracy({ result, teacher }) {
    const latest = this.#evaluations.at(-1);
    const top = this.#evaluations.reduce((/** @type {Point | undefined} */ best, point) => (best && best.value >= point.value ? best : point), undefined);
    const best = result ? { value: result.best_top1, epoch: result.best_epoch } : top;
    const at = (/** @type {{ epoch: number } | undefined} */ point) => (point ? `epoch ${Math.round(point.epoch)}` : '');
    const teacherTop1 = result?.teacher_top1 ?? teacher?.top1;
    this.#setTile('latest', percent(latest?.value ?? result?.last_top1), at(latest));
    this.#setTile('best', percent(best?.value), at(best));
    this.#setTile('teacher', percent(teacherTop1), best && isNumber(teacherTop1) ? `student ${points(best.value - teacherTop1)} points` : '');
    this.#showGain(best?.value);
  }

  /** @param {Maybe} best */
  #showGain(best) {
    const tile = this.#tiles.get('gain');
    if (!tile) return;
    const baseline = this.#summary?.baseline;
    const gain = isNumber(best) && baseline ? best - baseline.top1 : null;
    this.#setTile('gain', points(gain), baseline ? `over ${baseline.method}, ${percent(baseline.top1)}` : 'no baseline yet');
    const within = isWithin(gain, baseline?.deviation) ? ' The difference lies within the deviation.' : '';
    tile.element.title = baseline ? `${comparedWith(baseline)}${within}` : NO_BASELINE;
    tile.value.dataset.sign = gain === null ? '' : String(gainSign(gain, baseline?.deviation));
  }

  /**
   * @param {string} name
   * @param {string} value
   * @param {string} note
   */
  #setTile(name, value, note) {
    const tile = this.#tiles.get(name);
    if (!tile) return;
    setText(tile.value, value);
    setText(tile.note, note);
  }

  /** @param {Job} job */
  #showError({ error, status, attempt }) {
    this.error.hidden = !error;
    const key = JSON.stringify([error, attempt, isFinal(status)]);
    if (!error || key === this.#shownError) return;
    this.#shownError = key;
    fill(this.error,
      h('p', {}, h('strong', {}, isFinal(status) ? 'Failed: ' : `Attempt ${attempt} failed: `), h('code', { class: 'error-class' }, error.class)),
      h('p', { class: 'error-message' }, error.message),
      h('p', { class: 'note' }, REMEDIES[error.class]));
  }

  /** @param {Job['status']} status */
  #showActions(status) {
    if (this.buttons.dataset.status === status) return;
    this.buttons.dataset.status = status;
    const allowed = ACTIONS.filter(({ from }) => from.includes(status));
    fill(this.buttons, allowed.map((action) =>
      h('button', { type: 'button', class: action.danger ? 'danger quiet' : 'quiet', onclick: () => this.onAction(action) }, action.label)));
    const line = (/** @type {string} */ label, /** @type {string} */ command) => [h('p', { class: 'note' }, label), commandLine(command)];
    fill(this.commands,
      line('Show', curl(paths.job(this.id))),
      isFinal(status) ? null : line('Follow', curl(paths.jobStream(this.id), '-N')),
      allowed.map(({ verb, label }) => line(label, verb === 'delete' ? curl(paths.job(this.id), '-X DELETE') : curl(paths.job(this.id, `/${verb}`), '-X POST'))));
  }

  /** @param {boolean} isBusy */
  setBusy(isBusy) {
    for (const button of this.buttons.querySelectorAll('button')) button.disabled = isBusy;
  }
}

/**
 * A panel over the page. Escape closes it, and so does moving the focus elsewhere.
 * @param {string} label
 * @param {HTMLElement} body
 */
function popover(label, body) {
  const summary = h('summary', { class: 'button quiet' }, label);
  const details = h('details', { class: 'popover' }, summary, body);
  details.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !details.open) return;
    details.open = false;
    summary.focus();
  });
  details.addEventListener('focusout', ({ relatedTarget }) => {
    if (relatedTarget instanceof Node && !details.contains(relatedTarget)) details.open = false;
  });
  return details;
}

/**
 * What a job without progress is doing, unless it is queued.
 * @param {Job} job
 */
function withoutProgress({ status }) {
  if (status === 'running') return 'reading data and building networks';
  // Progress is reported every now and then: steps before the first report are not known.
  return isFinal(status) ? 'it ended before it reported any progress' : 'it has not reported any progress';
}
