// The student of a job. The card is there from the start, so that nothing moves when the student arrives.

import { api, paths } from '../api/client.js';
import { costsOf } from '../compare/costs.js';
import { commandLine, curl } from '../ui/commands.js';
import { copyButton, h, setText } from '../ui/dom.js';
import { bytes, count, percent, significant, whole } from '../ui/format.js';
import { section } from '../ui/section.js';
import { isFinal } from '../ui/status.js';

/** @typedef {Schemas['Job']} Job */

/** Times after which the page looks again for a latency, which comes within seconds after the job's end. */
const MEASURING = [3000, 10_000, 30_000];

export class JobResult {
  #top1 = fact('Last top-1', 'after the last epoch');
  #parameters = fact('Parameters');
  #file = fact('File', 'safetensors');
  #latency = fact('Latency');
  #links;
  /** What the message says as long as nothing has just failed. */
  #standing = '';

  /**
   * @param {Job} job
   * @param {AbortSignal} signal
   */
  constructor(job, signal) {
    this.id = job.id;
    this.signal = signal;
    this.message = h('span', { class: 'note', role: 'status' });
    this.hash = h('code', {}, '–');
    this.#links = linksOf(job.id);
    const csv = h('button', { type: 'button', class: 'quiet', onclick: () => this.#saveMetrics(job.id) }, 'Metrics (CSV)');
    const events = h('a', { class: 'button quiet', href: paths.tensorboard(job.id), download: '', title: 'The points of all series so far, as an event file' }, 'TensorBoard');
    // A job that still trains can be chosen too: the new job waits for it.
    const teach = h('a', { class: 'button quiet', href: `#/new?teacher_job=${encodeURIComponent(job.id)}` }, 'Use as teacher');
    this.element = section('Student', { class: 'result' },
      h('dl', { class: 'facts' }, [this.#top1, this.#parameters, this.#file, this.#latency].map(({ element }) => element)),
      h('div', { class: 'actions downloads' }, this.#links.map(({ element }) => element), csv, events, teach, this.message),
      commandLine(curl(paths.student(job.id), '-OJ')),
      h('p', { class: 'hash' }, h('span', {}, 'SHA-256'), this.hash, copyButton(() => this.hash.textContent ?? '')));
    this.update(job);
  }

  /** @param {string} text */
  #say(text) {
    this.#standing = text;
    setText(this.message, text);
  }

  /**
   * The CSV needs an Accept header, which a link cannot send.
   * @param {string} id
   */
  async #saveMetrics(id) {
    try {
      const [{ save }, csv] = await Promise.all([import('../charts/export.js'), api.metricsCsv(id)]);
      save(`${id}-metrics.csv`, 'text/csv', csv);
      setText(this.message, this.#standing);
    } catch (error) {
      setText(this.message, error.message);
    }
  }

  /** @param {Job} job */
  update({ result, status }) {
    for (const { element, href } of this.#links) {
      if (result) element.setAttribute('href', href);
      else element.removeAttribute('href');
    }
    if (!result) {
      this.#say(isFinal(status) ? `This job is ${status}, so it has no student.` : 'Available once the job has succeeded.');
      return;
    }
    const { student, last_top1: last } = result;
    if (this.hash.textContent === student.sha256) return;
    this.#say('');
    setText(this.hash, student.sha256);
    setText(this.#top1.value, percent(last));
    setText(this.#parameters.value, count(student.parameters));
    setText(this.#parameters.note, `${whole(student.parameters)} trained`);
    setText(this.#file.value, bytes(student.size_bytes));
    this.#readLatency(MEASURING);
  }

  /**
   * Reads what the server has measured, and looks again later as long as it may still measure.
   * @param {number[]} waits in milliseconds
   */
  async #readLatency(waits) {
    const job = await api.job(this.id, this.signal).catch(() => null);
    if (this.signal.aborted) return;
    const measured = job?.student_latency;
    const latency = costsOf(job ?? { result: null }, undefined);
    if (measured?.latency) {
      setText(this.#latency.value, `${significant(latency.latency_ms)} ms`);
      setText(this.#latency.note, `one image; 64 take ${significant(latency.latency_64_ms)} ms, with one thread of the server’s CPU`);
      this.#latency.element.title = `${measured.latency.runtime} on ${measured.latency.cpu}`;
    } else if (measured?.failure ?? job?.latency_not_measured) {
      setText(this.#latency.note, 'not measured');
      // A reason is too long for the narrow column, and would move what is below.
      this.#say(`The latency is not measured: ${measured?.failure ?? job?.latency_not_measured}`);
    } else if (waits.length > 0) {
      setText(this.#latency.note, 'not measured yet');
      setTimeout(() => { if (!this.signal.aborted) this.#readLatency(waits.slice(1)); }, waits[0]);
    } else {
      setText(this.#latency.note, 'not measured so far; reload the page to look again');
    }
  }
}

/** @param {string} title */
function fact(title, text = '') {
  const value = h('strong', {}, '–');
  const note = h('small', {}, text);
  return { value, note, element: h('div', {}, h('dt', {}, title), h('dd', {}, value, ' ', note)) };
}

/**
 * Links that get their `href` once there is a student.
 * @param {string} id
 */
function linksOf(id) {
  const link = (/** @type {string} */ label, /** @type {string} */ href, /** @type {string} */ kind, /** @type {string | null} */ download) =>
    ({ href, element: h('a', { class: `button ${kind}`, download }, label) });
  return [
    link('Download student (best)', paths.student(id, 'best'), 'primary', ''),
    link('Student (last)', paths.student(id, 'last'), 'quiet', ''),
    link('Manifest', paths.artifact(id, 'manifest.json'), 'quiet', `${id}-manifest.json`),
    link('What it gets wrong', `#/jobs/${encodeURIComponent(id)}/mistakes`, 'quiet', null),
  ];
}
