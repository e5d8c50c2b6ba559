// What a job has written, and how to use it.

import { api, paths } from '../api/client.js';
import { curl, commandLine } from '../ui/commands.js';
import { copyButton, fill, h } from '../ui/dom.js';
import { bytes } from '../ui/format.js';
import { snippet } from './snippets.js';

const MEANINGS = {
  'student.safetensors': 'the student of the best evaluation',
  'student-last.safetensors': 'the student after the last epoch',
  'manifest.json': 'specification, hashes, versions, attempts and accuracies: what it takes to repeat the run',
  'metrics.ndjson': 'every point that the trainer measured',
  'regions.json': 'what the regions have to tell',
  'before-last-epoch.safetensors': 'the state from which `distillery verify` repeats the last epoch',
};

export class JobFiles {
  #shown = false;

  constructor(signal) {
    this.signal = signal;
    this.element = h('section', { class: 'card', 'aria-labelledby': 'files-title', hidden: true });
  }

  async update(job) {
    if (!job.result || this.#shown) return;
    this.#shown = true;
    const { architecture } = job.spec.student;
    const file = `${architecture}-${job.id}.safetensors`;
    const [artifacts, python] = await Promise.allSettled([api.artifacts(job.id, this.signal), snippet(architecture, file, this.signal)]);
    if (this.signal.aborted) return;
    fill(this.element, h('h2', { id: 'files-title' }, 'Files'),
      artifacts.value ? table(job.id, artifacts.value.data) : h('p', { class: 'error-text' }, artifacts.reason.message),
      h('h3', {}, 'Load it in PyTorch'),
      h('p', { class: 'note' }, h('code', {}, 'pip install torch safetensors'), '; the keys are PyTorch’s, so strict loading takes them as they are.'),
      commandLine(curl(paths.student(job.id), '-OJ')),
      python.value ? program(python.value) : h('p', { class: 'error-text' }, python.reason.message));
    this.element.hidden = false;
  }
}

function table(id, artifacts) {
  return h('div', { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': 'Table of files' }, h('table', { class: 'plain-table files' },
    h('thead', {}, h('tr', {}, ['Name', 'Size', 'SHA-256', ''].map((name) => h('th', { scope: 'col' }, name || h('span', { class: 'visually-hidden' }, 'By hand'))))),
    h('tbody', {}, artifacts.map(({ name, size_bytes: size, sha256 }) => h('tr', {},
      h('th', { scope: 'row' }, h('a', { href: paths.artifact(id, name), download: `${id}-${name}` }, name), h('div', { class: 'note' }, MEANINGS[name] ?? '')),
      h('td', { class: 'number', title: `${size.toLocaleString('en-US')} bytes` }, bytes(size)),
      h('td', {}, h('code', { title: sha256 }, `${sha256.slice(0, 12)}…`), copyButton(() => sha256)),
      h('td', {}, copyButton(() => curl(paths.artifact(id, name), '-OJ'), 'Copy curl')))))));
}

function program(text) {
  return h('div', { class: 'program' }, copyButton(() => text), h('pre', { tabindex: '0', 'aria-label': 'Python' }, text));
}
