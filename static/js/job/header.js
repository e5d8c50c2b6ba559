// The top of a job's page: what it is, where it is, how it does, what can be done.

import { now, paths } from '../api/client.js';
import { commandLine, curl } from '../ui/commands.js';
import { ageElement, copyButton, fill, h, progressBar, setText, statusBadge } from '../ui/dom.js';
import { age, clock, comparedWith, duration, pairing, percent, points, rate, share, whole } from '../ui/format.js';
import { appendPoints } from '../charts/series.js';
import { ACTIONS, isFinal } from '../ui/status.js';

const REMEDIES = {
  user: 'The specification, the checkpoint or the data cannot work as they are; it is not tried again.',
  oom: 'There was not enough memory. Use a smaller batch_size, or a worker with more memory.',
  numeric: 'A loss was not finite. A lower learning rate or float32 precision may help.',
  worker_lost: 'The worker or its trainer went away.',
  storage: 'Files could not be read or written.',
  internal: 'A fault of the server; its log knows more.',
};

export class JobHeader {
  #facts = new Map();
  #tiles = new Map();
  #shown = '';
  #evaluations = [];
  #baseline = null;

  /** `onAction(action)` is called with an entry of ACTIONS. */
  constructor(job, onAction) {
    this.onAction = onAction;
    this.id = job.id;
    this.badge = statusBadge();
    this.title = h('h1', {}, job.name);
    this.buttons = h('div', { class: 'actions' });
    this.commands = h('div', { class: 'popover-body' });
    this.actions = h('div', { class: 'actions' }, this.buttons,
      popover('curl', this.commands));
    this.bar = progressBar('Progress');
    this.share = h('strong', { class: 'share' });
    this.where = h('span', {});
    this.speed = h('span', { class: 'live-figure' });
    this.error = h('div', { class: 'error-box', role: 'alert', hidden: true });
    this.element = h('div', { class: 'job-head' },
      h('p', { class: 'crumb' }, h('a', { href: '#/' }, 'Jobs'), ' / ', h('code', {}, job.id), copyButton(() => job.id)),
      h('div', { class: 'heading' }, h('div', { class: 'title-row' }, this.title, this.badge.element), this.actions),
      this.error,
      h('section', { class: 'card progress-card', 'aria-label': 'Progress' },
        this.bar.element, h('p', { class: 'progress-line' }, this.share, this.where, this.speed), this.#tileList(job)),
      this.#factList(job));
    this.update(job);
  }

  /** The figures that somebody who looks in wants to see; each has its place from the beginning. */
  #tileList(job) {
    const tile = (name, title) => {
      const value = h('dd', {}, '–');
      const note = h('dd', { class: 'note' });
      this.#tiles.set(name, { value, note });
      return h('div', {}, h('dt', {}, title), value, note);
    };
    const hasTeacher = job.spec.distillation.method !== 'none';
    return h('dl', { class: 'tiles' }, tile('latest', 'Top-1 now'), tile('best', 'Best top-1'),
      hasTeacher ? tile('teacher', 'Teacher top-1') : null, hasTeacher ? tile('gain', 'Gain') : null, tile('left', 'Time left'), tile('took', 'Took'));
  }

  #factList(job) {
    const { teacher, student } = pairing(job.spec);
    const teacherJob = job.spec.teacher?.job;
    const fact = (name, ...value) => {
      const element = h('dd', {}, value);
      this.#facts.set(name, element);
      return h('div', {}, h('dt', {}, name), element);
    };
    const { method, scales = [] } = job.spec.distillation;
    const labels = Object.entries(job.labels ?? {});
    return h('dl', { class: 'facts' },
      fact('Method', method, scales.length > 1 ? h('small', {}, ` scales ${scales.join(', ')}`) : null),
      fact('Teacher → student', teacherJob ? [h('a', { href: `#/jobs/${encodeURIComponent(teacherJob)}` }, teacher), ` → ${student}`] : teacher ? `${teacher} → ${student}` : student),
      fact('Data set', job.spec.dataset.name ?? '–'),
      fact('Attempt'), fact('Worker'),
      fact('Created', ageElement(job.created_at, (time) => age(time, now()))),
      fact('Started'),
      job.priority ? fact('Priority', String(job.priority).replace('-', '−')) : null,
      labels.length ? fact('Labels', labels.map(([key, value]) => h('span', { class: 'label' }, `${key}: ${value}`))) : null);
  }

  update(job) {
    this.badge.update(job.status);
    this.bar.element.dataset.status = job.status;
    const { progress, status } = job;
    const fraction = status === 'succeeded' ? 1 : progress?.fraction;
    this.bar.update(fraction);
    setText(this.share, Number.isFinite(fraction) ? share(fraction) : '');
    setText(this.where, progress ? `epoch ${progress.epoch} of ${progress.epochs} · step ${whole(progress.step)} of ${whole(progress.steps)}` : waiting(job));
    const isMoving = status === 'running' && progress;
    setText(this.speed, isMoving ? `${rate(progress.images_per_second)} · ${duration(progress.eta_seconds)} left` : '');
    this.#tile('left', isMoving ? duration(progress.eta_seconds) : '–', isMoving ? `until about ${clock(now() + progress.eta_seconds * 1000, now())}` : '');
    setText(this.#facts.get('Attempt'), job.attempt ? `${job.attempt} of ${job.max_attempts}` : 'not started');
    setText(this.#facts.get('Worker'), job.worker ?? '–');
    this.#setTime('Started', job.started_at);
    const end = job.finished_at ? Date.parse(job.finished_at) : now();
    this.#tile('took', job.started_at ? duration((end - Date.parse(job.started_at)) / 1000) : '–', job.started_at && job.finished_at ? `until ${clock(job.finished_at, now())}` : '');
    this.#showAccuracy(job);
    this.#showError(job);
    this.#showActions(status);
  }

  /** Points of `eval/top1`, oldest first; those that a resumed attempt repeats replace what was. */
  evaluated(points) {
    this.#evaluations = appendPoints(this.#evaluations, points);
  }

  /** What the accuracy is compared with, as `GET /v1/summaries` says it; null for nothing. */
  compareWith(baseline) {
    this.#baseline = baseline;
  }

  #showGain(best) {
    const baseline = this.#baseline;
    const gain = best && baseline ? best.value - baseline.top1 : NaN;
    const title = baseline ? comparedWith(baseline) : 'No job of a simpler method has succeeded with the same teacher, student, data set and training.';
    this.#tile('gain', points(gain), baseline ? `over ${baseline.method}, ${percent(baseline.top1)}` : 'no baseline yet', title);
    const { value } = this.#tiles.get('gain') ?? {};
    if (value) value.dataset.sign = Number.isFinite(gain) ? String(Math.sign(Math.round(gain * 100))) : '';
  }

  #showAccuracy({ result, teacher }) {
    const latest = this.#evaluations.at(-1);
    const top = this.#evaluations.reduce((best, point) => (best && best.value >= point.value ? best : point), undefined);
    const best = result ? { value: result.best_top1, epoch: result.best_epoch } : top;
    const at = (point) => (point ? `epoch ${Math.round(point.epoch)}` : '');
    const known = result?.teacher_top1 ?? teacher?.top1;
    this.#tile('latest', percent(latest?.value ?? result?.last_top1), at(latest));
    this.#tile('best', percent(best?.value), at(best));
    this.#tile('teacher', percent(known), best && Number.isFinite(known) ? `student ${points(best.value - known)} points` : '');
    this.#showGain(best);
  }

  #tile(name, value, note, title = '') {
    const tile = this.#tiles.get(name);
    if (!tile) return;
    tile.value.parentElement.title = title;
    setText(tile.value, value);
    setText(tile.note, note);
  }

  #setTime(name, time) {
    const element = this.#facts.get(name);
    if (!time) setText(element, '–');
    else if (element.firstElementChild?.dateTime !== time) fill(element, ageElement(time, (at) => age(at, now())));
  }

  #showError({ error, status, attempt }) {
    this.error.hidden = !error;
    const key = JSON.stringify([error, isFinal(status)]);
    if (!error || key === this.#shown) return;
    this.#shown = key;
    const title = isFinal(status) ? 'Failed' : `Attempt ${attempt} failed`;
    fill(this.error,
      h('p', {}, h('strong', {}, `${title}: `), h('code', { class: 'error-class' }, error.class)),
      h('p', { class: 'error-message' }, error.message),
      h('p', { class: 'note' }, REMEDIES[error.class] ?? ''));
  }

  #showActions(status) {
    if (this.buttons.dataset.status === status) return;
    this.buttons.dataset.status = status;
    const allowed = ACTIONS.filter(({ from }) => from.includes(status));
    fill(this.buttons, allowed.map((action) =>
      h('button', { type: 'button', class: action.danger ? 'danger quiet' : 'quiet', onclick: () => this.onAction(action) }, action.label)));
    const line = (label, command) => [h('p', { class: 'note' }, label), commandLine(command)];
    fill(this.commands,
      line('Look', curl(paths.job(this.id))),
      isFinal(status) ? null : line('Watch', curl(paths.jobStream(this.id), '-N')),
      allowed.map(({ verb, label }) => line(label, verb === 'delete' ? curl(paths.job(this.id), '-X DELETE') : curl(paths.job(this.id, `/${verb}`), '-X POST'))));
  }

  busy(isBusy) {
    for (const button of this.buttons.querySelectorAll('button')) button.disabled = isBusy;
  }
}

/** A panel that opens over the page and closes by Escape, or when the focus goes elsewhere. */
function popover(label, body) {
  const summary = h('summary', { class: 'button quiet' }, label);
  const details = h('details', { class: 'popover' }, summary, body);
  details.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !details.open) return;
    details.open = false;
    summary.focus();
  });
  details.addEventListener('focusout', ({ relatedTarget }) => {
    if (relatedTarget && !details.contains(relatedTarget)) details.open = false;
  });
  return details;
}

function waiting({ status, attempt, spec }) {
  if (status === 'queued') return spec.teacher?.job && !attempt ? 'waits for a worker, once its teacher’s job has succeeded' : 'waits for a worker';
  if (status === 'running') return 'reads the data and builds the networks';
  return 'no training step was made';
}
