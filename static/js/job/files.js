// The artifacts of a job, and how to use its student.

import { api, paths } from '../api/client.js';
import { commandLine, curl } from '../ui/commands.js';
import { copyButton, fill, h } from '../ui/dom.js';
import { bytes, whole } from '../ui/format.js';
import { scrollBox } from '../ui/section.js';
import { exportsTable } from './exports.js';
import { ownSnippet, snippet } from './snippets.js';

/** @type {Record<string, string>} */
const MEANINGS = {
  'student.safetensors': 'the student with the best evaluation',
  'student-last.safetensors': 'the student after the last epoch',
  'manifest.json': 'what is needed to repeat the run: specification, hashes, versions, attempts and accuracies',
  'metrics.ndjson': 'every measured point',
  'regions.json': 'where and how the teacher’s regions disagree with its prediction',
  'classes.json': 'recall, precision and F1 of the best student by class',
  'predictions.json': 'what the best student and its teacher get wrong, counted',
  'predictions.safetensors': 'their predictions image by image, with pictures of some images',
  'before-last-epoch.safetensors': 'the state from which `distillery verify` repeats the last epoch',
};

export class JobFiles {
  #isLoaded = false;

  /** @param {AbortSignal} signal */
  constructor(signal) {
    this.signal = signal;
    this.element = h('section', { class: 'card', 'aria-labelledby': 'files-title', hidden: true });
  }

  /** @param {Schemas['Job']} job */
  async update(job) {
    if (!job.result || this.#isLoaded) return;
    this.#isLoaded = true;
    const { architecture } = job.spec.student;
    const file = `${architecture ?? 'student'}-${job.id}.safetensors`;
    const program = architecture ? snippet(architecture, file, this.signal) : Promise.resolve(ownSnippet(file));
    const [artifacts, python] = await Promise.allSettled([api.artifacts(job.id, this.signal), program]);
    if (this.signal.aborted) return;
    fill(this.element, h('h2', { id: 'files-title' }, 'Files'),
      artifacts.status === 'fulfilled' ? table(job.id, artifacts.value.data) : failure(artifacts.reason),
      h('h3', {}, 'In other formats'),
      exportsTable(job.id, !architecture, this.signal),
      h('h3', {}, 'Load it in PyTorch'),
      h('p', { class: 'note' }, h('code', {}, 'pip install torch safetensors'), '; the keys are those of PyTorch, so strict loading works.'),
      commandLine(curl(paths.student(job.id), '-OJ')),
      python.status === 'fulfilled' ? programBox(python.value) : failure(python.reason));
    this.element.hidden = false;
  }
}

const failure = (/** @type {Error} */ error) => h('p', { class: 'error-text' }, error.message);

/**
 * @param {string} id
 * @param {Schemas['Artifact'][]} artifacts
 */
function table(id, artifacts) {
  const heads = ['Name', 'Size', 'SHA-256', h('span', { class: 'visually-hidden' }, 'Command')];
  return scrollBox('Table of files', {}, h('table', { class: 'plain-table files' },
    h('thead', {}, h('tr', {}, heads.map((head) => h('th', { scope: 'col' }, head)))),
    h('tbody', {}, artifacts.map(({ name, size_bytes: size, sha256 }) => h('tr', {},
      h('th', { scope: 'row' }, h('a', { href: paths.artifact(id, name), download: `${id}-${name}` }, name), h('div', { class: 'note' }, MEANINGS[name])),
      h('td', { class: 'number', title: `${whole(size)} bytes` }, bytes(size)),
      h('td', {}, h('code', { title: sha256 }, `${sha256.slice(0, 12)}…`), copyButton(() => sha256)),
      h('td', {}, copyButton(() => curl(paths.artifact(id, name), '-OJ'), 'Copy curl')))))));
}

/** @param {string} text */
function programBox(text) {
  return h('div', { class: 'program' }, copyButton(() => text), h('pre', { tabindex: '0', 'aria-label': 'Python' }, text));
}
