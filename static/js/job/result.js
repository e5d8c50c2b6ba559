// Where the student is. The card has its place and size from the beginning: nothing moves when the student is there.

import { api, paths } from '../api/client.js';
import { commandLine, curl } from '../ui/commands.js';
import { copyButton, h, setText } from '../ui/dom.js';
import { bytes, count, percent, whole } from '../ui/format.js';
import { isFinal } from '../ui/status.js';

export class JobResult {
  #facts = new Map();
  #links;

  constructor(job) {
    this.message = h('span', { class: 'note', role: 'status' });
    this.hash = h('code', {}, '–');
    this.element = h('section', { class: 'card result', 'aria-labelledby': 'result-title' },
      h('h2', { id: 'result-title' }, 'The student'),
      h('dl', { class: 'facts' }, this.#fact('last', 'Last top-1', 'after the last epoch'), this.#fact('parameters', 'Parameters'), this.#fact('file', 'File', 'safetensors')),
      this.#downloads(job.id),
      commandLine(curl(paths.student(job.id), '-OJ')),
      h('p', { class: 'hash' }, h('span', {}, 'SHA-256'), this.hash, copyButton(() => this.hash.textContent)));
    this.update(job);
  }

  #fact(name, title, text = '') {
    const value = h('strong', {}, '–');
    const note = h('small', {}, text);
    this.#facts.set(name, { value, note });
    return h('div', {}, h('dt', {}, title), h('dd', {}, value, ' ', note));
  }

  #downloads(id) {
    const csv = h('button', { type: 'button', class: 'quiet', onclick: () => this.#saveMetrics(id) }, 'Metrics (CSV)');
    const link = (label, href, more) => ({ href, element: h('a', { class: 'button quiet', ...more }, label) });
    this.#links = [
      link('Download student (best)', paths.student(id, 'best'), { class: 'button primary', download: '' }),
      link('Student (last)', paths.student(id, 'last'), { download: '' }),
      link('Manifest', paths.artifact(id, 'manifest.json'), { download: `${id}-manifest.json` }),
    ];
    // A job that still trains can be the teacher of one that waits for it.
    const teach = h('a', { class: 'button quiet', href: `#/new?teacher_job=${encodeURIComponent(id)}` }, 'Use as a teacher');
    return h('div', { class: 'actions downloads' }, this.#links.map(({ element }) => element), csv, teach, this.message);
  }

  async #saveMetrics(id) {
    try {
      saveBlob(await api.metricsCsv(id), `${id}-metrics.csv`);
      setText(this.message, '');
    } catch (error) {
      setText(this.message, error.message);
    }
  }

  update({ result, status }) {
    for (const { element, href } of this.#links) {
      if (result) element.setAttribute('href', href);
      else element.removeAttribute('href');
    }
    if (!result) setText(this.message, isFinal(status) ? `This job is ${status}: it has no student.` : 'Published when the job has succeeded.');
    else if (this.hash.textContent !== result.student.sha256) this.#show(result);
  }

  #show({ last_top1: last, student }) {
    setText(this.message, '');
    setText(this.hash, student.sha256);
    setText(this.#facts.get('last').value, percent(last));
    setText(this.#facts.get('parameters').value, count(student.parameters));
    setText(this.#facts.get('parameters').note, `${whole(student.parameters)} trained`);
    setText(this.#facts.get('file').value, bytes(student.size_bytes));
  }
}

/** The metrics' CSV needs an Accept header, which a link cannot send. */
function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
