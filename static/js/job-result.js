// What a job came to, and where the student is.

import { api, paths } from './api.js';
import { commandLine, curl } from './commands.js';
import { copyButton, fill, h, setText } from './dom.js';
import { bytes, count, percent } from './format.js';

export class JobResult {
  #shown = null;

  constructor(signal) {
    this.signal = signal;
    this.element = h('section', { class: 'card result', 'aria-labelledby': 'result-title', hidden: true });
  }

  update(job) {
    this.element.hidden = !job.result;
    const key = JSON.stringify(job.result);
    if (!job.result || key === this.#shown) return;
    this.#shown = key;
    const { result } = job;
    fill(this.element,
      h('h2', { id: 'result-title' }, 'The student'),
      h('dl', { class: 'tiles' },
        tile('Last top-1', percent(result.last_top1), 'after the last epoch'),
        tile('Parameters', count(result.student.parameters), `${result.student.parameters.toLocaleString('en-US')} trained`),
        tile('File', bytes(result.student.size_bytes), 'safetensors')),
      this.#downloads(job),
      commandLine(curl(paths.student(job.id), '-OJ')),
      h('p', { class: 'hash' }, h('span', {}, 'SHA-256'), h('code', {}, result.student.sha256), copyButton(() => result.student.sha256)));
  }

  #downloads(job) {
    const message = h('span', { class: 'note', role: 'status' });
    const csv = h('button', { type: 'button', class: 'quiet' }, 'Metrics (CSV)');
    csv.addEventListener('click', async () => {
      try {
        saveBlob(await api.metricsCsv(job.id), `${job.id}-metrics.csv`);
        setText(message, '');
      } catch (error) {
        setText(message, error.message);
      }
    });
    return h('div', { class: 'actions downloads' },
      h('a', { class: 'button primary', href: paths.student(job.id, 'best'), download: '' }, 'Download student (best)'),
      h('a', { class: 'button quiet', href: paths.student(job.id, 'last'), download: '' }, 'Student (last)'),
      h('a', { class: 'button quiet', href: paths.artifact(job.id, 'manifest.json'), download: `${job.id}-manifest.json` }, 'Manifest'),
      csv,
      h('a', { class: 'button quiet', href: `#/new?teacher_job=${encodeURIComponent(job.id)}` }, 'Use as a teacher'),
      message);
  }
}

function tile(name, value, note) {
  return h('div', {}, h('dt', {}, name), h('dd', {}, value), h('dd', { class: 'note' }, note));
}

/** The metrics' CSV needs an Accept header, which a link cannot send. */
export function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
