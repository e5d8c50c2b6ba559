// A new sweep as JSON: it starts from a job, and the server checks it while it is typed.

import { ApiError, api, idempotencyKey, paths } from '../api/client.js';
import { prettyJson } from '../json/pretty.js';
import { Editor } from '../new/editor.js';
import { BoundFields, sweepAddress } from '../ui/bounds.js';
import { commandLine, curl, learnAboutTokens } from '../ui/commands.js';
import { fill, h, setText } from '../ui/dom.js';
import { bytes, duration, isNumber, share, whole } from '../ui/format.js';
import { section } from '../ui/section.js';

/** @import { TypedBounds } from '../ui/bounds.js' */
/** @typedef {{ text: string, typed: TypedBounds }} Draft the document, and the constraints as they were typed */

/** Milliseconds to wait for the next letter before the server checks. */
const TYPING_DELAY = 400;
const POST = ['-X POST', "-H 'content-type: application/json'"];
const EXAMPLE = { student: { architecture: 'resnet8' }, dataset: { name: 'digits' }, distillation: { method: 'none' }, training: { epochs: 8 } };

/**
 * What was typed and not started, by the job that it began from, until the tab is reloaded.
 * @type {Map<string, Draft>}
 */
const drafts = new Map();

/**
 * @param {PageContext} context
 * @returns {PageView}
 */
export function newSweepPage(context) {
  return new NewSweepPage(context);
}

class NewSweepPage {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {AbortController | null} */
  #pending = null;
  /** The request that the key is for: repeated, it creates no second sweep. */
  #keyFor = '';
  #key = '';
  /** The job that this begins from; empty for the example. */
  #job = '';
  /**
   * What the page itself wrote.
   * @type {Draft}
   */
  #given = { text: '', typed: {} };

  /** @param {PageContext} context */
  constructor({ root, query, signal, memory }) {
    this.signal = signal;
    this.bounds = new BoundFields({ event: 'input', onChange: () => this.#typed() });
    this.editor = new Editor({ label: 'Sweep (JSON)', onInput: () => this.#typed(), signal });
    this.verdict = h('p', { role: 'status', class: 'verdict-line' });
    this.warnings = h('ul', { class: 'sweep-notes' });
    this.command = h('div', {});
    this.start = h('button', { type: 'button', class: 'primary', disabled: true, onclick: () => this.#create() }, 'Start the sweep');
    fill(root,
      h('p', { class: 'crumb' }, h('a', { href: '#/sweeps' }, 'Sweeps')),
      h('div', { class: 'heading' }, h('h1', {}, 'New sweep'), h('div', { class: 'actions' }, this.start)),
      h('p', { class: 'note' }, 'The axes are JSON pointers into the job, each with its values. Every combination is trained with that many seeds; the strategy is grid, random or halving.'),
      section('Constraints', {}, h('p', { class: 'note' }, 'Networks are judged before they are trained. A student that does not qualify gets a warning, and is trained all the same.'), this.bounds.element),
      section('Check', {}, this.verdict, this.warnings), this.editor.element, section('By curl', {}, this.command));
    signal.addEventListener('abort', () => {
      clearTimeout(this.#timer);
      this.#pending?.abort();
    });
    learnAboutTokens(signal).then(() => this.#showCommand());
    const left = /** @type {Draft | undefined} */ (memory);
    if (left) {
      this.#job = query.get('job') ?? '';
      const draft = drafts.get(this.#job);
      // What was started, or left as it was given, does not become a draft; nor does it replace a later one.
      if (draft === undefined) this.#given = left;
      this.#put(draft ?? left);
    } else {
      this.update(query);
    }
  }

  /** @param {URLSearchParams} query */
  async update(query) {
    const job = query.get('job') ?? '';
    this.#job = job;
    const draft = drafts.get(job);
    if (draft !== undefined) {
      this.#put(draft);
      return;
    }
    try {
      const base = job ? await api.submitted(job, this.signal) : EXAMPLE;
      // Who typed before it came keeps that.
      if (this.signal.aborted || this.#job !== job || drafts.has(job)) return;
      this.#given = { text: prettyJson(firstSweep(base)), typed: {} };
      this.#put(this.#given);
    } catch (error) {
      if (!this.signal.aborted) setText(this.verdict, error.message);
    }
  }

  remember() {
    return this.#draft;
  }

  /** @returns {Draft} */
  get #draft() {
    return { text: this.editor.text, typed: this.bounds.typed };
  }

  /** @param {Draft} draft */
  #put({ text, typed }) {
    this.bounds.typed = typed;
    this.editor.text = text;
  }

  /** The request, with the document in a file. */
  #showCommand() {
    fill(this.command, commandLine(curl(paths.newSweep(this.bounds.bounds ?? {}), ...POST, '-d @sweep.json')));
  }

  #typed() {
    this.#showCommand();
    const draft = this.#draft;
    if (draft.text === '' || JSON.stringify(draft) === JSON.stringify(this.#given)) drafts.delete(this.#job);
    else drafts.set(this.#job, draft);
    clearTimeout(this.#timer);
    this.#pending?.abort();
    this.start.disabled = true;
    fill(this.warnings);
    setText(this.verdict, 'Checking…');
    this.#timer = setTimeout(() => this.#check(), TYPING_DELAY);
  }

  async #check() {
    const { bounds } = this.bounds;
    if (this.editor.peek() === null || bounds === null) {
      setText(this.verdict, bounds === null ? 'A constraint is not a number yet.' : 'This is not JSON yet.');
      return;
    }
    // Each network takes a while, but only once.
    if (isNumber(bounds.latency_ms) || isNumber(bounds.latency_64_ms)) setText(this.verdict, 'Checking, and measuring the networks…');
    this.#pending = new AbortController();
    const { signal } = this.#pending;
    try {
      const dryRun = await api.checkSweep(this.editor.text, bounds, signal);
      setText(this.verdict, estimateText(dryRun));
      fill(this.warnings, dryRun.warnings.map((warning) => h('li', {}, warning)));
      this.start.disabled = false;
    } catch (error) {
      if (!signal.aborted) this.#showError(error);
    }
  }

  /** @param {Error} error */
  #showError(error) {
    const faults = error instanceof ApiError ? error.errors : [];
    setText(this.verdict, faults.length ? 'The sweep cannot be started yet.' : error.message);
    this.editor.showFaults(faults);
  }

  async #create() {
    const body = this.editor.text;
    const { bounds } = this.bounds;
    if (bounds === null) return;
    const asked = JSON.stringify([body, bounds]);
    if (asked !== this.#keyFor) [this.#keyFor, this.#key] = [asked, idempotencyKey()];
    this.start.disabled = true;
    try {
      const { id } = await api.createSweep(body, bounds, this.#key);
      drafts.delete(this.#job);
      if (!this.signal.aborted) location.hash = sweepAddress(id, bounds);
    } catch (error) {
      this.#showError(error);
      this.start.disabled = false;
    }
  }
}

/**
 * A first sweep of a job.
 * @param {any} base
 */
export function firstSweep(base) {
  const { name = 'sweep', ...job } = base;
  const rate = job.training?.optimizer?.learning_rate ?? 0.05;
  const axes = job.teacher ? { '/distillation/temperature': [2, 4, 8] } : { '/training/optimizer/learning_rate': [rate, Number((rate / 3).toPrecision(2))] };
  return { name: String(name).slice(0, 120), base: job, axes, seeds: 3, strategy: { type: 'grid' } };
}

/**
 * What a dry run says in one line.
 * @param {Schemas['SweepDryRun']} dryRun
 */
export function estimateText({ jobs, seeds, combinations, trained_part: part, device_hours: hours, device, memory }) {
  const epochs = part < 1 ? `${share(part)} of their epochs are trained` : '';
  const time = isNumber(hours) ? `about ${duration(hours * 3600)} on one ${device}` : 'no estimate of the time before a job has been measured';
  return [`${whole(jobs)} jobs: ${combinations.length} combinations × ${seeds} ${seeds === 1 ? 'seed' : 'seeds'}`, epochs, time, `about ${bytes(memory.total_bytes)} of memory`, qualifiedText(combinations)]
    .filter(Boolean).join(' · ');
}

/**
 * How many combinations have a student that can keep the constraints; empty without constraints.
 * @param {Schemas['CombinationEstimate'][]} combinations
 */
function qualifiedText(combinations) {
  const judged = combinations.flatMap(({ qualification }) => qualification ?? []);
  if (judged.length === 0) return '';
  const unknown = judged.filter(({ qualifies }) => (qualifies ?? null) === null).length;
  const can = `${judged.filter(({ qualifies }) => qualifies).length} of ${judged.length} students can qualify`;
  return unknown ? `${can}, and ${unknown} may` : can;
}

