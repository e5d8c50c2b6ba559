// What the server makes of a specification, for people: whether it can run, what it takes, what is wrong.

import { fill, h, setText } from '../ui/dom.js';
import { bytes, count, whole } from '../ui/format.js';

/** The box beside the form. Its first line says in a word where things stand. */
export class Verdict {
  /** `actions` stand below the first line; `onFault(fault)` goes to where it is. */
  constructor({ actions, onFault }) {
    this.onFault = onFault;
    this.line = h('p', { class: 'verdict-line', role: 'status' });
    this.body = h('div', { class: 'verdict-body' });
    this.element = h('section', { class: 'card verdict', 'aria-label': 'What the server says' }, this.line, h('div', { class: 'actions' }, actions), this.body);
  }

  #say(state, text, ...body) {
    this.element.dataset.state = state;
    setText(this.line, text);
    fill(this.body, body);
  }

  /** Keeps what it shows, which is about the last text, looking old. */
  checking() {
    this.element.dataset.state = 'checking';
  }

  incomplete(faults) {
    this.#say('incomplete', 'Not complete yet', this.#list(faults));
  }

  unreadable() {
    this.#say('faulty', 'This is not JSON yet');
  }

  failed(message) {
    this.#say('faulty', message);
  }

  faulty(faults) {
    this.#say('faulty', faults.length === 1 ? 'One fault' : `${faults.length} faults`, this.#list(faults));
  }

  /** `workers` are those that there are: the largest decides whether the job fits. */
  fine({ spec, classes, teacher, student, warnings, memory }, workers) {
    this.#say('fine', 'This can run',
      h('p', {}, `${whole(spec.training.epochs)} ${spec.training.epochs === 1 ? 'epoch' : 'epochs'} on ${whole(classes)} classes. About ${bytes(memory.total_bytes)} of device memory; ${fit(memory.total_bytes, workers)}`),
      warnings.map((warning) => h('p', { class: 'warning-line' }, warning)),
      h('div', { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': 'Networks' }, h('table', {},
        h('thead', {}, h('tr', {}, ['', 'Architecture', 'Parameters', 'MACs', 'Final map'].map((name) => (name ? h('th', { scope: 'col' }, name) : h('td', {}))))),
        h('tbody', {}, teacher ? network('Teacher', teacher) : null, network('Student', student)))),
      smaller(teacher, student));
  }

  #list(faults) {
    return h('ul', { class: 'faults' }, faults.map((fault) => h('li', {}, h('button', { type: 'button', class: 'fault', onclick: () => this.onFault(fault) },
      h('code', {}, fault.pointer || '/'), h('span', { class: 'fault-detail' }, fault.detail)))));
  }
}

function fit(needed, workers) {
  const largest = workers.filter(({ memory_bytes: memory }) => Number.isFinite(memory)).sort((a, b) => b.memory_bytes - a.memory_bytes)[0];
  if (!workers.length) return 'there is no worker now, so it will wait for one.';
  if (!largest) return 'no worker tells its memory.';
  return `${largest.name} has ${bytes(largest.memory_bytes)}${largest.memory_bytes < needed ? ': too little' : ''}.`;
}

function smaller(teacher, student) {
  if (!teacher || teacher.parameters <= student.parameters) return null;
  const times = (all, some) => (all / some).toFixed(1);
  return h('p', { class: 'note' }, `The teacher has ${times(teacher.parameters, student.parameters)} times the student’s parameters and takes ${times(teacher.macs, student.macs)} times its operations.`);
}

function network(role, { architecture, parameters, macs, feature_map: [channels, height, width] }) {
  return h('tr', {}, h('th', { scope: 'row' }, role),
    [architecture, count(parameters), count(macs), `${channels} × ${height}×${width}`].map((text) => h('td', {}, text)));
}
