// What the server says about a specification: whether the job can run, what it needs, or what is wrong.

import { fill, h, setText } from '../ui/dom.js';
import { bytes, count, duration, isNumber, rate, whole } from '../ui/format.js';
import { scrollBox } from '../ui/section.js';

/** @import { Child } from '../ui/dom.js' */
/** @typedef {Schemas['DryRun']} DryRun */
/** @typedef {DryRun['student']} Network */

export class Verdict {
  /**
   * @param {{ actions: Child, onFault: (fault: Fault) => void }} options `onFault` goes to the place of a fault
   */
  constructor({ actions, onFault }) {
    this.onFault = onFault;
    this.line = h('p', { class: 'verdict-line', role: 'status' });
    this.body = h('div', { class: 'verdict-body' });
    this.element = h('section', { class: 'card verdict', 'aria-label': 'What the server says' }, this.line, h('div', { class: 'actions' }, actions), this.body);
  }

  /**
   * @param {string} state
   * @param {string} text
   * @param {...Child} body
   */
  #show(state, text, ...body) {
    this.element.dataset.state = state;
    setText(this.line, text);
    fill(this.body, body);
  }

  /** Keeps the last verdict, marked as out of date. */
  checking() {
    this.element.dataset.state = 'checking';
  }

  /** @param {Fault[]} faults */
  incomplete(faults) {
    this.#show('incomplete', 'Incomplete', this.#list(faults));
  }

  unreadable() {
    this.#show('faulty', 'This is not valid JSON');
  }

  /** @param {string} message */
  failed(message) {
    this.#show('faulty', message);
  }

  /** @param {Fault[]} faults */
  faulty(faults) {
    this.#show('faulty', faults.length === 1 ? '1 error' : `${faults.length} errors`, this.#list(faults));
  }

  /**
   * @param {DryRun} dryRun
   * @param {Schemas['Worker'][] | null} workers the one with the most memory decides whether the job fits; null if they
   *   could not be read
   */
  fine({ spec, classes, teacher, student, warnings, memory, time, qualification }, workers) {
    const { epochs } = spec.training;
    this.#show('fine', 'This job can run',
      h('p', {}, `${whole(epochs)} ${epochs === 1 ? 'epoch' : 'epochs'}, ${whole(classes)} classes. Needs about ${bytes(memory.total_bytes)} of device memory; ${fit(memory.total_bytes, workers)}`),
      h('p', { class: 'verdict-time' }, time ? timeText(time) : withoutTime(spec)),
      qualification?.qualifies ? h('p', {}, 'The student can qualify.') : null,
      warnings.map((warning) => h('p', { class: 'warning-line' }, warning)),
      scrollBox('Networks', {}, h('table', {},
        h('thead', {}, h('tr', {}, ['', 'Network', 'Parameters', 'MACs', 'Final map'].map((name) => (name ? h('th', { scope: 'col' }, name) : h('td', {}))))),
        h('tbody', {}, teacher ? networkRow('Teacher', teacher) : null, networkRow('Student', student)))),
      teacher ? ratio(teacher, student) : null);
  }

  /** @param {Fault[]} faults */
  #list(faults) {
    return h('ul', { class: 'faults' }, faults.map((fault) => h('li', {}, h('button', { type: 'button', class: 'fault', onclick: () => this.onFault(fault) },
      h('code', {}, fault.pointer || '/'), h('span', { class: 'fault-detail' }, fault.detail)))));
  }
}

/**
 * How long training takes, and what that is computed from.
 * @param {Schemas['Time']} time
 */
function timeText({ seconds, images_per_second: speed, measured_jobs: jobs, device, method }) {
  return [`Training takes ${seconds < 1 ? 'less than a second' : `about ${duration(seconds)}`} on ${device} at ${rate(speed)}, without the wait for a worker. `,
    h('span', { class: 'note' }, `Measured by ${jobs === 1 ? '1 job' : `${whole(jobs)} jobs`}, and computed ${method}.`)];
}

/**
 * The server has no estimate as long as it has measured no job that could be compared.
 * @param {Schemas['JobSpec']} spec
 */
function withoutTime({ training: { devices = 1 } }) {
  return h('span', { class: 'note' }, `No estimate of the time: no recent job on ${devices === 1 ? '1 device' : `${whole(devices)} devices`} of a worker’s kind has been measured.`);
}

/**
 * @param {number} needed bytes
 * @param {Schemas['Worker'][] | null} workers
 */
function fit(needed, workers) {
  if (workers === null) return 'the workers could not be read.';
  const online = workers.filter((worker) => worker.online);
  if (online.length === 0) return 'no worker is running, so the job will wait for one.';
  const known = online.flatMap(({ name, memory_bytes: memory }) => (isNumber(memory) ? [{ name, memory }] : []));
  if (known.length === 0) return 'no worker reports its memory.';
  const largest = known.reduce((best, one) => (one.memory > best.memory ? one : best));
  return `${largest.name} has ${bytes(largest.memory)}${largest.memory < needed ? ', which is too little' : ''}.`;
}

/**
 * @param {Network} teacher
 * @param {Network} student
 */
function ratio(teacher, student) {
  if (teacher.parameters <= student.parameters) return null;
  const times = (/** @type {number} */ all, /** @type {number} */ some) => (all / some).toFixed(1);
  return h('p', { class: 'note' }, `The teacher has ${times(teacher.parameters, student.parameters)} times the parameters of the student and needs ${times(teacher.macs, student.macs)} times its operations.`);
}

/**
 * @param {string} role
 * @param {Network} network
 */
function networkRow(role, { name, parameters, macs, feature_map: map }) {
  const shape = map ? `${map[0]} × ${map[1]}×${map[2]}` : 'none';
  return h('tr', {}, h('th', { scope: 'row' }, role), [name, count(parameters), count(macs), shape].map((text) => h('td', {}, text)));
}
