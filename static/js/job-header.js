// The top of a job's page: what it is, where it is, what can be done.

import { now } from './api.js';
import { ageElement, copyButton, fill, h, progressBar, setText, statusBadge } from './dom.js';
import { age, duration, pairing, rate, share, whole } from './format.js';
import { ACTIONS, isFinal } from './status.js';

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
  #shown = '';

  /** `onAction(action)` is called with an entry of ACTIONS. */
  constructor(job, onAction) {
    this.onAction = onAction;
    this.badge = statusBadge();
    this.title = h('h1', {}, job.name);
    this.actions = h('div', { class: 'actions' });
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
        this.bar.element, h('p', { class: 'progress-line' }, this.share, this.where, this.speed)),
      this.#factList(job));
    this.update(job);
  }

  #factList(job) {
    const { teacher, student } = pairing(job.spec);
    const teacherJob = job.spec.teacher?.job;
    const fact = (name, ...value) => {
      const element = h('dd', {}, value);
      this.#facts.set(name, element);
      return h('div', {}, h('dt', {}, name), element);
    };
    const labels = Object.entries(job.labels ?? {});
    return h('dl', { class: 'facts' },
      fact('Method', job.spec.distillation.method),
      fact('Teacher → student', teacherJob ? [h('a', { href: `#/jobs/${encodeURIComponent(teacherJob)}` }, teacher), ` → ${student}`] : teacher ? `${teacher} → ${student}` : student),
      fact('Data set', job.spec.dataset.name ?? '–'),
      fact('Attempt'), fact('Worker'),
      fact('Created', ageElement(job.created_at, (time) => age(time, now()))),
      fact('Started'), fact('Took'),
      job.priority ? fact('Priority', String(job.priority)) : null,
      labels.length ? fact('Labels', labels.map(([key, value]) => h('span', { class: 'label' }, `${key}: ${value}`))) : null);
  }

  update(job) {
    this.badge.update(job.status);
    this.bar.element.dataset.status = job.status;
    const { progress, status } = job;
    const fraction = status === 'succeeded' ? 1 : progress?.fraction;
    this.bar.update(fraction);
    setText(this.share, Number.isFinite(fraction) ? share(fraction) : '');
    setText(this.where, progress ? `epoch ${progress.epoch} of ${progress.epochs} · step ${whole(progress.step)} of ${whole(progress.steps)}` : waiting(status));
    setText(this.speed, status === 'running' && progress ? `${rate(progress.images_per_second)} · ${duration(progress.eta_seconds)} left` : '');
    setText(this.#facts.get('Attempt'), job.attempt ? `${job.attempt} of ${job.max_attempts}` : 'not started');
    setText(this.#facts.get('Worker'), job.worker ?? '–');
    this.#setTime('Started', job.started_at);
    const end = job.finished_at ? Date.parse(job.finished_at) : now();
    setText(this.#facts.get('Took'), job.started_at ? duration((end - Date.parse(job.started_at)) / 1000) : '–');
    this.#showError(job);
    this.#showActions(status);
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
    if (this.actions.dataset.status === status) return;
    this.actions.dataset.status = status;
    const buttons = ACTIONS.filter(({ from }) => from.includes(status)).map((action) =>
      h('button', { type: 'button', class: action.danger ? 'danger quiet' : 'quiet', onclick: () => this.onAction(action) }, action.label));
    fill(this.actions, buttons);
  }

  busy(isBusy) {
    for (const button of this.actions.querySelectorAll('button')) button.disabled = isBusy;
  }
}

function waiting(status) {
  if (status === 'queued') return 'waits for a worker';
  if (status === 'running') return 'reads the data and builds the networks';
  return 'no training step was made';
}
