// A new job: one specification as a form and as JSON, checked by the server while it is written.

import { api, idempotencyKey } from '../api/client.js';
import { architecturesHelp, checkpointsHelp, datasetsHelp } from './catalogue.js';
import { commandLine, curl, learnAboutTokens } from '../ui/commands.js';
import { ask, copyButton, fill, h } from '../ui/dom.js';
import { Editor } from './editor.js';
import { Verdict } from './estimate.js';
import { prettyJson } from '../ui/format.js';
import { JobForm } from './form.js';
import { missing, preset, presetGroups, teacherFrom, withTeacher } from './presets.js';
import { acceptDrops, uploadForm } from './upload.js';

const DRAFT = 'distillery-draft';
const VIEW = 'distillery-new-view';
/** Typing stops for so long, in milliseconds, before the server is asked. */
const PAUSE = 350;

export async function newPage({ root, query, signal }) {
  fill(root, h('h1', {}, 'New job'), h('p', { class: 'note', role: 'status' }, 'Loading…'));
  const [have, start, document] = await Promise.all([inventory(signal), startingPoint(query, signal), api.description(signal).catch(() => null), learnAboutTokens(signal)]);
  if (!signal.aborted) new NewJob(root, have, start, document, signal).open();
}

/** What the server has. A list that cannot be had is empty: the page works without. */
async function inventory(signal) {
  const list = (answer) => answer.then(({ data }) => data, () => []);
  const [architectures, datasets, checkpoints, workers, jobs] = await Promise.all([
    list(api.architectures(signal)), list(api.datasets(signal)), list(api.checkpoints(signal)), list(api.workers(signal)),
    list(api.possibleTeachers(signal)),
  ]);
  return { architectures, datasets, checkpoints, workers, jobs };
}

/** The specification that the address asks for: that of a job as it was sent, or one with a job's student as the teacher. */
async function startingPoint(query, signal) {
  const id = query.get('from') ?? query.get('teacher_job');
  if (!id) return null;
  try {
    const { spec } = await api.job(id, signal);
    if (query.has('from')) return await api.submitted(id, signal).catch(() => spec);
    return withTeacher({ ...preset('sdd_kd'), dataset: spec.dataset }, { job: id });
  } catch {
    return null;
  }
}

class NewJob {
  #key = null;
  #unchanged = '';
  #spec = {};
  #dryRun = null;
  #timer = null;
  #check = null;
  #view = 'form';

  constructor(root, have, start, document, signal) {
    Object.assign(this, { have, start, signal });
    this.submit = h('button', { type: 'button', class: 'primary', onclick: () => this.send() }, 'Submit');
    this.verdict = new Verdict({ actions: [this.submit], onFault: (fault) => this.#goTo(fault) });
    this.editor = new Editor({ label: 'Specification (JSON)', onInput: () => this.typed(), signal });
    // A server that does not describe itself still takes JSON.
    this.form = document ? new JobForm(document, have, (spec) => this.change(spec)) : null;
    const asked = start ? h('option', { value: '' }, 'the job that was asked for') : null;
    this.preset = h('select', { id: 'preset' }, asked, presetGroups().map(({ label, presets }) =>
      h('optgroup', { label }, presets.map((one) => h('option', { value: one.id }, one.label)))));
    this.sent = h('div', { class: 'sent' });
    this.checkpoints = checkpointsHelp((checkpoint) => this.useTeacher(checkpoint));
    this.#lay(root);
    this.checkpoints.update(have.checkpoints);
    this.preset.addEventListener('change', () => this.choosePreset());
    signal.addEventListener('abort', () => {
      clearTimeout(this.#timer);
      this.#check?.abort();
    });
  }

  #lay(root) {
    const views = [['form', 'Form'], ['json', 'JSON']].map(([view, label]) => h('label', {},
      h('input', { type: 'radio', name: 'view', value: view, disabled: view === 'form' && !this.form, onchange: () => this.turn(view) }), label));
    this.views = views;
    const upload = uploadForm({
      architectures: this.have.architectures, signal: this.signal,
      onUploaded: (checkpoint) => this.uploaded(checkpoint), onUse: (checkpoint) => this.useTeacher(checkpoint),
    });
    acceptDrops(root, upload, this.signal);
    this.layout = h('div', { class: 'new-layout' },
      h('div', { class: 'new-main' },
        h('div', { class: 'field-row' }, h('label', { for: 'preset' }, 'Start from'), this.preset),
        this.form?.element, this.editor.element),
      h('aside', { class: 'new-side', 'aria-label': 'Check, send, and what can be named' },
        this.verdict.element,
        h('details', { class: 'card help' }, h('summary', {}, h('h2', {}, 'What will be sent')), this.sent),
        this.checkpoints.element,
        h('section', { class: 'card', 'aria-labelledby': 'upload-title' }, h('h2', { id: 'upload-title' }, 'Upload a teacher'), upload.element),
        datasetsHelp(this.have.datasets), architecturesHelp(this.have.architectures),
        h('p', { class: 'note' }, 'Every field with its values: ', h('a', { href: '/docs' }, 'API reference'), '. What is left empty takes the published recipe’s value.')));
    fill(root,
      h('div', { class: 'heading' }, h('h1', {}, 'New job'), h('fieldset', { class: 'segments' }, h('legend', {}, 'View'), views)),
      this.layout);
  }

  open() {
    const draft = this.start ? null : sessionStorage.getItem(DRAFT);
    const begin = this.start ?? preset(this.preset.value, this.have);
    this.#unchanged = prettyJson(begin);
    this.editor.text = draft ?? this.#unchanged;
    const view = this.form ? localStorage.getItem(VIEW) ?? 'form' : 'json';
    this.turn(view === 'json' || this.editor.peek() === null ? 'json' : 'form');
    this.changed();
  }

  /** Shows the same specification in the other way. */
  turn(view) {
    const spec = this.editor.peek();
    if (view === 'form' && spec === null) {
      // A form cannot show what is no document.
      this.editor.parse();
      view = 'json';
    }
    this.#view = view;
    this.layout.dataset.view = view;
    localStorage.setItem(VIEW, view);
    for (const label of this.views) label.firstElementChild.checked = label.firstElementChild.value === view;
    if (this.form) this.form.element.hidden = view !== 'form';
    this.editor.element.hidden = view !== 'json';
    this.#spec = spec ?? this.#spec;
    if (view === 'form') this.form.show(this.#spec, this.#dryRun);
  }

  /** From the form. */
  change(spec) {
    this.#spec = spec;
    this.editor.replace(prettyJson(spec));
    this.form.show(spec, this.#dryRun);
    this.changed();
  }

  /** From the editor. */
  typed() {
    const spec = this.editor.peek();
    if (spec !== null) this.#spec = spec;
    this.changed();
  }

  /** Another text is another request; the same one, sent again after a lost answer, is the same job. */
  changed() {
    this.#key = null;
    const { text } = this.editor;
    if (text === this.#unchanged) sessionStorage.removeItem(DRAFT);
    else sessionStorage.setItem(DRAFT, text);
    this.#check?.abort();
    clearTimeout(this.#timer);
    this.verdict.checking();
    this.#timer = setTimeout(() => this.look(), PAUSE);
  }

  /** Asks the server, which stores nothing. */
  async look() {
    const spec = this.editor.peek();
    if (spec === null) {
      this.verdict.unreadable();
      return;
    }
    this.#showSent();
    const left = missing(spec);
    if (left.length > 0) {
      this.#showFaults(left);
      this.verdict.incomplete(left);
      await this.#lookAtRest(spec, left);
      return;
    }
    this.#check = new AbortController();
    const { signal } = this.#check;
    try {
      const dryRun = await api.check(this.editor.text, signal);
      if (signal.aborted) return;
      this.#dryRun = dryRun;
      this.#showFaults([]);
      this.verdict.fine(dryRun, this.have.workers);
      if (this.#view === 'form') this.form.show(this.#spec, dryRun);
    } catch (error) {
      if (!signal.aborted) this.#refused(error);
    }
  }

  /** Without a teacher there is no answer yet, but to the same job with none: it tells the defaults of the training. */
  async #lookAtRest({ teacher, distillation, ...rest }, left) {
    if (left.some(({ pointer }) => !pointer.startsWith('/teacher'))) return;
    this.#check = new AbortController();
    const { signal } = this.#check;
    try {
      const dryRun = await api.check(JSON.stringify({ ...rest, distillation: { method: 'none' } }), signal);
      if (signal.aborted || this.#view !== 'form') return;
      this.form.show(this.#spec, dryRun);
    } catch {
      // Its faults are told once there is a teacher.
    }
  }

  #showSent() {
    const text = prettyJson(this.#spec);
    const command = `${curl('/v1/jobs', '-X POST', "-H 'content-type: application/json'", '-d @-')} <<'JSON'\n${text}\nJSON`;
    fill(this.sent, commandLine(curl('/v1/jobs', '-X POST', "-H 'content-type: application/json'", '-d @job.json')),
      h('div', { class: 'actions' }, copyButton(() => command, 'Copy with the JSON'), copyButton(() => text, 'Copy job.json')),
      h('pre', { tabindex: '0', 'aria-label': 'Body' }, text));
  }

  /** Faults at their fields, in the view that is open. */
  #showFaults(faults, focus = false) {
    if (this.form) this.form.showFaults(faults);
    this.editor.showFaults(faults, focus && this.#view === 'json');
    if (focus && this.#view === 'form') this.form.goToFault();
  }

  #goTo({ pointer }) {
    if (this.#view === 'json') this.editor.goToPointer(pointer);
    else this.form.goToFault(pointer);
  }

  #refused(error, focus = false) {
    if (error.errors?.length) {
      this.#showFaults(error.errors, focus);
      this.verdict.faulty(error.errors);
    } else {
      this.verdict.failed(error.message);
    }
  }

  async choosePreset() {
    const isEdited = this.editor.text !== this.#unchanged;
    const question = { title: 'Replace your job?', detail: 'The example takes the place of what you have written.', yes: 'Replace', no: 'Keep mine' };
    if (!this.preset.value || (isEdited && !(await ask(question)))) return;
    this.#load(preset(this.preset.value, this.have));
    this.#unchanged = this.editor.text;
    sessionStorage.removeItem(DRAFT);
  }

  #load(spec) {
    this.#spec = spec;
    this.editor.text = prettyJson(spec);
    if (this.#view === 'form') this.form.show(spec, this.#dryRun);
  }

  useTeacher(checkpoint) {
    const spec = this.editor.parse();
    if (spec !== null) this.#load(withTeacher(spec, teacherFrom(checkpoint)));
  }

  /** A teacher that fits is used at once where none is chosen. */
  async uploaded(checkpoint) {
    try {
      this.have.checkpoints = (await api.checkpoints(this.signal)).data;
      this.checkpoints.update(this.have.checkpoints);
      this.form?.teacher.refresh();
    } catch {
      // The upload's own answer is on show.
    }
    const spec = this.editor.peek();
    if (checkpoint.fits.length && spec && missing(spec).some(({ pointer }) => pointer.startsWith('/teacher'))) this.useTeacher(checkpoint);
  }

  async send() {
    const spec = this.editor.parse();
    if (spec === null) return;
    const left = missing(spec);
    if (left.length > 0) {
      this.#showFaults(left, true);
      return;
    }
    this.submit.disabled = true;
    try {
      this.#key ??= idempotencyKey();
      const job = await api.create(this.editor.text, this.#key);
      sessionStorage.removeItem(DRAFT);
      location.hash = `#/jobs/${encodeURIComponent(job.id)}`;
    } catch (error) {
      this.#refused(error, true);
    } finally {
      this.submit.disabled = false;
    }
  }
}
