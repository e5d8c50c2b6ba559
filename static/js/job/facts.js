// The list of facts at the top of a job's page.

import { now } from '../api/client.js';
import { ageElement, fill, h, setText } from '../ui/dom.js';
import { age, attemptsText, pairOf, pairing } from '../ui/format.js';

/** @import { Child } from '../ui/dom.js' */
/** @typedef {Schemas['Job']} Job */

const NOT_COUNTED = 'Attempts do not count that were stopped, that the worker’s machine could not run, that saved a new checkpoint before they failed, or that came before the last retry.';
const showAge = (/** @type {string} */ time) => age(time, now());

export class JobFacts {
  #attempt = h('dd', {});
  #worker = h('dd', {});
  #started = h('dd', {});
  #startedAt = '';

  /** @param {Job} job */
  constructor(job) {
    const dd = (/** @type {Child} */ value) => h('dd', {}, value);
    const fact = (/** @type {string} */ name, /** @type {HTMLElement} */ value) => h('div', {}, h('dt', {}, name), value);
    const { distillation: { method, scales }, dataset } = job.spec;
    const labels = Object.entries(job.labels);
    this.element = h('dl', { class: 'facts' },
      fact('Method', dd([method, (scales?.length ?? 0) > 1 ? h('small', {}, ` scales ${scales?.join(', ')}`) : null])),
      fact('Teacher → student', dd(networks(job))),
      fact('Data set', dd(dataset.name ?? '–')),
      fact('Attempt', this.#attempt), fact('Worker', this.#worker),
      fact('Created', dd(ageElement(job.created_at, showAge))),
      fact('Started', this.#started),
      job.priority ? fact('Priority', dd(String(job.priority).replace('-', '−'))) : null,
      labels.length ? fact('Labels', dd(labels.map(([key, value]) => h('span', { class: 'label' }, `${key}: ${value}`)))) : null);
  }

  /** @param {Job} job */
  update(job) {
    const { worker, started_at: started } = job;
    const attempts = attemptsText(job);
    setText(this.#attempt, attempts);
    this.#attempt.title = attempts.includes('not counting') ? NOT_COUNTED : '';
    setText(this.#worker, worker ?? '–');
    if (!started) setText(this.#started, '–');
    else if (started !== this.#startedAt) fill(this.#started, ageElement(started, showAge));
    this.#startedAt = started ?? '';
  }
}

/**
 * The pair of networks; a teacher that comes from a job is a link to it.
 * @param {Job} shown
 * @returns {Child}
 */
function networks(shown) {
  const { teacher, student } = pairing(shown);
  const job = shown.spec.teacher?.job;
  if (!job) return pairOf({ teacher, student });
  return [h('a', { href: `#/jobs/${encodeURIComponent(job)}` }, teacher), ` → ${student}`];
}
