// A new job: one specification as a form and as JSON, which the server checks while it is written.

import { allCheckpoints, api, idempotencyKey, paths } from '../api/client.js';
import { prettyJson } from '../json/pretty.js';
import { BoundFields } from '../ui/bounds.js';
import { commandLine, curl, learnAboutTokens } from '../ui/commands.js';
import { ask, copyButton, fill, h } from '../ui/dom.js';
import { acceptDrops } from '../ui/drops.js';
import { section } from '../ui/section.js';
import { architecturesHelp, checkpointsHelp, datasetsHelp } from './catalogue.js';
import { Editor } from './editor.js';
import { JobForm } from './form.js';
import { ImageWatch } from './images.js';
import { inventory, startingPoint } from './inventory.js';
import { missing, preset, presetGroups, teacherFrom, withTeacher } from './presets.js';
import { UploadForm } from './upload.js';
import { Verdict } from './verdict.js';

/** @import { Inventory, Start } from './inventory.js' */
/** @import { Spec } from './presets.js' */
/** @typedef {'form' | 'json'} View */
/** @typedef {Schemas['Checkpoint']} Checkpoint */

const DRAFT_KEY = 'distillery-draft';
const VIEW_KEY = 'distillery-new-view';
/** What a student may cost holds for whatever is tried in this tab. */
const BOUNDS_KEY = 'distillery-bounds';
const NO_BOUNDS = 'A constraint is not a number yet: correct or empty it';
/** Milliseconds without typing before the server is asked. */
const CHECK_DELAY = 350;
const POST = ['-X POST', "-H 'content-type: application/json'"];

/** @param {PageContext} context */
export async function newPage({ root, query, signal }) {
  fill(root, h('h1', {}, 'New job'), h('p', { class: 'note', role: 'status' }, 'Loading…'));
  const [have, start, document] = await Promise.all([
    inventory(signal), startingPoint(query, signal), api.description(signal).catch(() => null), learnAboutTokens(signal),
  ]);
  if (!signal.aborted) new NewJob({ root, have, start, document, signal }).open();
}

class NewJob {
  /** @type {string | null} */
  #key = null;
  /** The text without changes by the user. */
  #unchanged = '';
  /** @type {Spec} */
  #spec = {};
  /**
   * The server's last answer about a valid specification.
   * @type {Schemas['DryRun'] | null}
   */
  #dryRun = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {AbortController | null} */
  #check = null;
  /** @type {View} */
  #view = 'form';

  /**
   * @param {object} options
   * @param {HTMLElement} options.root
   * @param {Inventory} options.have
   * @param {Start} options.start
   * @param {any} options.document the OpenAPI document; null leaves only JSON
   * @param {AbortSignal} options.signal
   */
  constructor({ root, have, start, document, signal }) {
    this.have = have;
    this.start = start.spec;
    // Each starting point has a draft of its own: looking at a clone leaves the others alone.
    this.draftKey = `${DRAFT_KEY}?${start.origin}`;
    this.note = h('p', { class: 'note draft-note', role: 'status' }, start.problem);
    this.unread = h('p', { class: 'message-line', role: 'status' });
    this.#showUnread();
    this.signal = signal;
    this.submit = h('button', { type: 'button', class: 'primary', onclick: () => this.send() }, 'Submit');
    this.verdict = new Verdict({ actions: [this.submit], onFault: (fault) => this.#goTo(fault) });
    this.bounds = new BoundFields({ event: 'input', onChange: () => this.changed() });
    this.bounds.typed = JSON.parse(sessionStorage.getItem(BOUNDS_KEY) ?? '{}');
    this.editor = new Editor({ label: 'Specification (JSON)', onInput: () => this.typed(), signal });
    this.images = new ImageWatch(() => this.#checkAgain(), signal);
    this.form = document ? new JobForm(document, have, (spec) => this.change(spec), signal) : null;
    const asked = this.start ? h('option', { value: '' }, start.label ?? 'the selected job') : null;
    this.preset = h('select', { id: 'preset', onchange: () => this.choosePreset() }, asked, presetGroups().map(({ label, presets }) =>
      h('optgroup', { label }, presets.map((one) => h('option', { value: one.id }, one.label)))));
    this.sent = h('div', { class: 'sent' });
    this.checkpoints = checkpointsHelp({ onTeacher: (checkpoint) => this.useTeacher(checkpoint), onStudent: (checkpoint) => this.useStudent(checkpoint) });
    this.checkpoints.update(have);
    this.views = this.#viewButtons();
    this.layout = this.#layOut(root);
    signal.addEventListener('abort', () => {
      clearTimeout(this.#timer);
      this.#check?.abort();
    });
  }

  #showUnread() {
    fill(this.unread, [...this.have.unread].map(([name, problem]) => `The ${name} could not be read; reload the page to choose among them. ${problem} `));
  }

  #viewButtons() {
    const button = (/** @type {View} */ view) => h('input', {
      type: 'radio', name: 'view', value: view, disabled: view === 'form' && !this.form, onchange: () => this.turn(view),
    });
    return { form: button('form'), json: button('json') };
  }

  /** @param {HTMLElement} root */
  #layOut(root) {
    const { have, signal } = this;
    const upload = new UploadForm({
      architectures: have.architectures, signal,
      onUploaded: (checkpoint) => this.uploaded(checkpoint),
      onTeacher: (checkpoint) => this.useTeacher(checkpoint), onStudent: (checkpoint) => this.useStudent(checkpoint),
    });
    acceptDrops(root, upload, signal);
    const layout = h('div', { class: 'new-layout' },
      h('div', { class: 'new-main' },
        h('div', { class: 'field-row' }, h('label', { for: 'preset' }, 'Start from'), this.preset),
        this.form?.element, this.editor.element),
      h('aside', { class: 'new-side', 'aria-label': 'Check, submit, and what is available' },
        this.verdict.element,
        section('Constraints', {}, h('p', { class: 'note' }, 'The student is judged before it is trained. One that does not qualify is warned of, and trained all the same.'), this.bounds.element),
        h('details', { class: 'card help' }, h('summary', {}, h('h2', {}, 'Request')), this.sent),
        this.checkpoints.element,
        section('Upload a network', {}, upload.element),
        datasetsHelp(have), architecturesHelp(have.architectures),
        h('p', { class: 'note' }, 'The ', h('a', { href: '/docs' }, 'API reference'), ' describes every field. Fields left empty take the values of the published recipe.')));
    fill(root,
      h('div', { class: 'heading' }, h('h1', {}, 'New job'), h('fieldset', { class: 'segments' }, h('legend', {}, 'View'),
        h('label', {}, this.views.form, 'Form'), h('label', {}, this.views.json, 'JSON'))),
      this.note, this.unread, layout);
    return layout;
  }

  open() {
    const draft = sessionStorage.getItem(this.draftKey);
    this.#unchanged = prettyJson(this.start ?? preset(this.preset.value, this.have));
    this.editor.text = draft ?? this.#unchanged;
    if (draft) {
      const restart = h('button', { type: 'button', class: 'quiet small', onclick: () => this.#restart() }, 'Discard the draft');
      fill(this.note, this.note.textContent ?? '', ' This is your draft, which was not submitted. ', restart);
    }
    const isJson = !this.form || localStorage.getItem(VIEW_KEY) === 'json' || this.editor.peek() === null;
    this.turn(isJson ? 'json' : 'form');
    this.changed();
  }

  /**
   * Shows the specification in the other view.
   * @param {View} wanted
   */
  turn(wanted) {
    const spec = this.editor.peek();
    // The form cannot show invalid JSON: stay at the text and show the error.
    const view = spec === null ? 'json' : wanted;
    if (view !== wanted) this.editor.parse();
    this.#view = view;
    this.layout.dataset.view = view;
    localStorage.setItem(VIEW_KEY, view);
    this.views[view].checked = true;
    if (this.form) this.form.element.hidden = view !== 'form';
    this.editor.element.hidden = view !== 'json';
    this.#spec = spec ?? this.#spec;
    this.#showForm();
  }

  #showForm() {
    if (this.#view === 'form') this.form?.show(this.#spec, this.#dryRun);
  }

  /**
   * Takes a change from the form.
   * @param {Spec} spec
   */
  change(spec) {
    this.#spec = spec;
    this.editor.replace(prettyJson(spec));
    this.#showForm();
    this.changed();
  }

  /** Takes a change from the editor. */
  typed() {
    const spec = this.editor.peek();
    if (spec !== null) this.#spec = spec;
    this.changed();
  }

  changed() {
    // A changed text is another job. The same text, sent again because the answer was lost, is the same job.
    this.#key = null;
    sessionStorage.setItem(BOUNDS_KEY, JSON.stringify(this.bounds.typed));
    const { text } = this.editor;
    if (text === this.#unchanged) sessionStorage.removeItem(this.draftKey);
    else sessionStorage.setItem(this.draftKey, text);
    this.#check?.abort();
    clearTimeout(this.#timer);
    this.verdict.checking();
    this.#timer = setTimeout(() => this.check(), CHECK_DELAY);
  }

  /** Faults of text in the form that cannot be read. In the JSON it is an error like others, which the server finds. */
  get #unreadable() {
    return this.#view === 'form' ? this.form?.unreadable ?? [] : [];
  }

  async check() {
    const spec = this.editor.peek();
    if (spec === null) {
      this.verdict.unreadable();
      return;
    }
    this.#showRequest();
    const left = missing(spec);
    const unreadable = this.#unreadable;
    if (unreadable.length > 0) {
      this.#showFaults([...unreadable, ...left]);
      this.verdict.faulty([...unreadable, ...left]);
      return;
    }
    if (left.length > 0) {
      this.#showFaults(left);
      this.verdict.incomplete(left);
      await this.#checkWithoutTeacher(spec, left);
      return;
    }
    const { bounds } = this.bounds;
    if (bounds === null) {
      this.verdict.failed(NO_BOUNDS);
      return;
    }
    this.#check = new AbortController();
    const { signal } = this.#check;
    try {
      const [dryRun, workers] = await Promise.all([api.check(this.editor.text, bounds, signal), api.workers(signal).catch(() => null)]);
      if (signal.aborted) return;
      this.#dryRun = dryRun;
      this.#showFaults([]);
      this.verdict.fine(dryRun, workers?.data ?? null);
      this.#showForm();
      this.images.follow(dryRun.spec.dataset.name);
    } catch (error) {
      if (!signal.aborted) this.#refused(error);
    }
  }

  /** Checks what was found to be fine, because more is known of its images. */
  #checkAgain() {
    if (this.verdict.element.dataset.state !== 'fine') return;
    this.#check?.abort();
    this.check();
  }

  /**
   * Shows the defaults of a job that lacks only its teacher: those of the same job with the method `none`.
   * @param {Spec} spec
   * @param {Fault[]} left
   */
  async #checkWithoutTeacher({ teacher: _, distillation: __, ...rest }, left) {
    if (left.some(({ pointer }) => !pointer.startsWith('/teacher'))) return;
    this.#check = new AbortController();
    const { signal } = this.#check;
    try {
      const dryRun = await api.check(JSON.stringify({ ...rest, distillation: { method: 'none' } }), {}, signal);
      if (!signal.aborted && this.#view === 'form') this.form?.show(this.#spec, dryRun);
    } catch {
      // Its faults are shown once there is a teacher.
    }
  }

  #showRequest() {
    const text = prettyJson(this.#spec);
    const path = paths.newJob(this.bounds.bounds ?? {});
    const command = `${curl(path, ...POST, '-d @-')} <<'JSON'\n${text}\nJSON`;
    fill(this.sent, commandLine(curl(path, ...POST, '-d @job.json')),
      h('div', { class: 'actions' }, copyButton(() => command, 'Copy with the JSON'), copyButton(() => text, 'Copy job.json')),
      h('pre', { tabindex: '0', 'aria-label': 'Body' }, text));
  }

  /**
   * Shows faults at their fields, in both views.
   * @param {Fault[]} faults
   */
  #showFaults(faults, focus = false) {
    this.form?.showFaults(faults);
    this.editor.showFaults(faults, focus && this.#view === 'json');
    if (focus && this.#view === 'form') this.form?.goToFault();
  }

  /** @param {Fault} fault */
  #goTo({ pointer }) {
    if (this.#view === 'json') this.editor.goToPointer(pointer);
    else this.form?.goToFault(pointer);
  }

  /** @param {import('../api/client.js').ApiError} error */
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
    const question = { title: 'Replace your job?', detail: 'The example replaces what you have written.', yes: 'Replace', no: 'Keep mine' };
    if (!this.preset.value || (isEdited && !(await ask(question)))) return;
    this.#load(preset(this.preset.value, this.have));
    this.#unchanged = this.editor.text;
    sessionStorage.removeItem(this.draftKey);
    fill(this.note);
  }

  #restart() {
    fill(this.note);
    this.#load(JSON.parse(this.#unchanged));
  }

  /** @param {Spec} spec */
  #load(spec) {
    this.#spec = spec;
    this.editor.text = prettyJson(spec);
    this.#showForm();
  }

  /** @param {Checkpoint} checkpoint */
  useTeacher(checkpoint) {
    const spec = this.editor.parse();
    if (spec !== null) this.#load(withTeacher(spec, teacherFrom(checkpoint)));
  }

  /** @param {Checkpoint} network an exported one */
  useStudent(network) {
    const spec = this.editor.parse();
    if (spec !== null) this.#load({ ...spec, student: { checkpoint: network.id } });
  }

  /**
   * Chooses the new checkpoint as the teacher if it can be one and there is no teacher yet.
   * @param {Checkpoint} checkpoint
   */
  async uploaded(checkpoint) {
    try {
      Object.assign(this.have, await allCheckpoints(this.signal));
      this.have.unread.delete('checkpoints');
      this.#showUnread();
      this.checkpoints.update(this.have);
    } catch {
      // The upload form shows the new checkpoint in any case.
    }
    const spec = this.editor.peek();
    const lacksTeacher = spec && missing(spec).some(({ pointer }) => pointer.startsWith('/teacher'));
    if ((checkpoint.fits.length || checkpoint.network) && lacksTeacher) this.useTeacher(checkpoint);
    else if (this.#view === 'form') this.#showForm();
  }

  async send() {
    const spec = this.editor.parse();
    if (spec === null) return;
    const left = [...this.#unreadable, ...missing(spec)];
    if (left.length > 0) {
      this.#showFaults(left, true);
      return;
    }
    const { bounds } = this.bounds;
    if (bounds === null) {
      this.verdict.failed(NO_BOUNDS);
      return;
    }
    this.submit.disabled = true;
    try {
      this.#key ??= idempotencyKey();
      const job = await api.create(this.editor.text, bounds, this.#key);
      sessionStorage.removeItem(this.draftKey);
      location.hash = `#/jobs/${encodeURIComponent(job.id)}`;
    } catch (error) {
      this.#refused(error, true);
    } finally {
      this.submit.disabled = false;
    }
  }
}
