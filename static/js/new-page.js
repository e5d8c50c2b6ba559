// Posts a job: a JSON editor whose faults show at their fields, with what can be named beside it.

import { api, idempotencyKey } from './api.js';
import { architecturesHelp, checkpointsHelp, datasetsHelp } from './catalogue.js';
import { ask, fill, h } from './dom.js';
import { Editor } from './editor.js';
import { estimate } from './estimate.js';
import { prettyJson } from './format.js';
import { PRESETS, preset, teacherFrom, withTeacher } from './presets.js';
import { uploadForm } from './upload.js';

const DRAFT = 'distillery-draft';

export async function newPage({ root, query, signal }) {
  fill(root, h('h1', {}, 'New job'), h('p', { class: 'note', role: 'status' }, 'Loading…'));
  const [have, start] = await Promise.all([inventory(signal), startingPoint(query, signal)]);
  if (!signal.aborted) new NewJob(root, have, start, signal).open();
}

/** What the server has. A list that cannot be had is empty: the editor works without. */
async function inventory(signal) {
  const list = (answer) => answer.then(({ data }) => data, () => []);
  const [architectures, datasets, checkpoints] = await Promise.all([
    list(api.architectures(signal)), list(api.datasets(signal)), list(api.checkpoints(signal)),
  ]);
  return { architectures, datasets, checkpoints };
}

/** The specification that the address asks for: that of a job, or one with a job's student as the teacher. */
async function startingPoint(query, signal) {
  const id = query.get('from') ?? query.get('teacher_job');
  if (!id) return null;
  try {
    const { spec } = await api.job(id, signal);
    if (query.has('from')) return spec;
    return withTeacher({ ...preset('sdd_kd'), dataset: spec.dataset }, { job: id });
  } catch {
    return null;
  }
}

class NewJob {
  #key = null;
  #unchanged = '';

  constructor(root, have, start, signal) {
    Object.assign(this, { have, start, signal });
    this.check = h('button', { type: 'button', class: 'quiet' }, 'Check');
    this.submit = h('button', { type: 'button', class: 'primary' }, 'Submit');
    this.editor = new Editor({ label: 'Specification (JSON)', actions: [this.check, this.submit], onInput: () => this.changed(), signal });
    this.preset = h('select', { id: 'preset' }, PRESETS.map(({ id, label }) => h('option', { value: id }, label)));
    this.answer = h('div', { class: 'answer', role: 'status' });
    this.checkpoints = checkpointsHelp((checkpoint) => this.useTeacher(checkpoint));
    fill(root,
      h('h1', {}, 'New job'),
      h('div', { class: 'new-layout' },
        h('div', { class: 'new-main' },
          h('div', { class: 'field-row' }, h('label', { for: 'preset' }, 'Start from'), this.preset),
          this.editor.element,
          this.answer),
        h('aside', { class: 'new-side', 'aria-label': 'What can be named' }, this.#help())));
    this.checkpoints.update(have.checkpoints);
    this.preset.addEventListener('change', () => this.choosePreset());
    this.check.addEventListener('click', () => this.send('check'));
    this.submit.addEventListener('click', () => this.send('create'));
  }

  #help() {
    const { architectures, datasets } = this.have;
    return [
      datasetsHelp(datasets),
      this.checkpoints.element,
      h('section', { class: 'card', 'aria-labelledby': 'upload-title' }, h('h2', { id: 'upload-title' }, 'Upload a teacher'),
        uploadForm({ architectures, signal: this.signal, onUploaded: () => this.refreshCheckpoints(), onUse: (checkpoint) => this.useTeacher(checkpoint) })),
      architecturesHelp(architectures),
      h('p', { class: 'note' }, 'Every field with its values: ', h('a', { href: '/docs' }, 'API reference'), '. What is left out takes the published recipe’s value.'),
    ];
  }

  open() {
    const draft = this.start ? null : sessionStorage.getItem(DRAFT);
    this.#unchanged = prettyJson(this.start ?? preset(this.preset.value, this.have));
    this.editor.text = draft ?? this.#unchanged;
  }

  /** Another text is another request; the same one, sent again after a lost answer, is the same job. */
  changed() {
    this.#key = null;
    fill(this.answer);
    if (this.editor.text === this.#unchanged) sessionStorage.removeItem(DRAFT);
    else sessionStorage.setItem(DRAFT, this.editor.text);
  }

  async choosePreset() {
    const isEdited = this.editor.text !== this.#unchanged;
    const question = { title: 'Replace your text?', detail: 'The example takes the place of what you have written.', yes: 'Replace', no: 'Keep mine' };
    if (isEdited && !(await ask(question))) return;
    this.#unchanged = prettyJson(preset(this.preset.value, this.have));
    this.editor.text = this.#unchanged;
  }

  useTeacher(checkpoint) {
    const spec = this.editor.parse();
    if (spec === null) return;
    this.editor.text = prettyJson(withTeacher(spec, teacherFrom(checkpoint)));
  }

  async refreshCheckpoints() {
    try {
      this.have.checkpoints = (await api.checkpoints(this.signal)).data;
      this.checkpoints.update(this.have.checkpoints);
    } catch {
      // The upload's own answer is on show.
    }
  }

  async send(what) {
    if (this.editor.parse() === null) return;
    this.#busy(true);
    fill(this.answer, h('p', { class: 'note' }, what === 'check' ? 'Checking…' : 'Submitting…'));
    try {
      if (what === 'check') {
        fill(this.answer, estimate(await api.check(this.editor.text)));
      } else {
        this.#key ??= idempotencyKey();
        const job = await api.create(this.editor.text, this.#key);
        sessionStorage.removeItem(DRAFT);
        location.hash = `#/jobs/${encodeURIComponent(job.id)}`;
      }
    } catch (error) {
      this.#refused(error);
    } finally {
      this.#busy(false);
    }
  }

  #refused(error) {
    const list = error.errors?.length > 0;
    if (list) this.editor.showFaults(error.errors);
    fill(this.answer, list ? null : h('p', { class: 'error-text' }, error.message));
  }

  #busy(isBusy) {
    this.check.disabled = isBusy;
    this.submit.disabled = isBusy;
  }
}
