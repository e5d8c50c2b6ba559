// Cancels or deletes several jobs: says first what will happen, and afterwards what failed.

import { api } from '../api/client.js';
import { ask, fill, h, setText } from '../ui/dom.js';
import { ACTIONS } from '../ui/status.js';

/** @typedef {Schemas['JobSummary']} JobSummary */
/** @typedef {'cancel' | 'delete'} BulkVerb */

const MAX_REQUESTS = 6;
/** Milliseconds to wait after the server has limited the rate of requests. */
const RATE_LIMIT_DELAY = 1000;
const TOO_MANY_REQUESTS = 429;
/** The page that compares jobs shows at most as many. */
const MAX_COMPARED = 50;

/** @type {Record<BulkVerb, Record<string, string>>} */
const EFFECTS = {
  cancel: { queued: 'will not start', running: 'stop after the current step', pausing: 'stop after the current step', paused: 'will not resume' },
  delete: { succeeded: 'deleted with their students', failed: 'deleted', cancelled: 'deleted' },
};
/** @type {Record<BulkVerb, { label: string, no: string, done: string, note: string }>} */
const WORDS = {
  cancel: {
    label: 'Cancel', no: 'Let them run', done: 'cancelled', note: 'No students are published. A retry continues from the last checkpoint.',
  },
  delete: {
    label: 'Delete', no: 'Keep them', done: 'deleted', note: 'This permanently deletes students, metrics and histories.',
  },
};

const jobsOf = (/** @type {number} */ count) => (count === 1 ? '1 job' : `${count} jobs`);

/**
 * The jobs that allow an action, and what it will do to which. Pure.
 * @template {Pick<JobSummary, 'status'> & Partial<Pick<JobSummary, 'students' | 'unfinished_students'>>} Job
 * @param {BulkVerb} verb
 * @param {Job[]} jobs
 */
export function plan(verb, jobs) {
  const from = ACTIONS.find((action) => action.verb === verb)?.from ?? [];
  const able = jobs.filter(({ status }) => from.includes(status));
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const { status } of jobs) counts.set(status, (counts.get(status) ?? 0) + 1);
  const parts = [...counts].filter(([status]) => from.includes(status)).map(([status, count]) => `${count} ${status}: ${EFFECTS[verb][status]}.`);
  const left = jobs.length - able.length;
  if (left > 0) {
    const statuses = [...counts.keys()].filter((status) => !from.includes(status)).join(', ');
    parts.push(`${jobsOf(left)} (${statuses}) ${left === 1 ? 'stays' : 'stay'} unchanged.`);
  }
  const taught = verb === 'delete' ? taughtBy(able) : [];
  return { able, text: [...parts, WORDS[verb].note, ...taught].join(' ') };
}

/**
 * What becomes of the jobs that these jobs' students teach.
 * @param {Partial<Pick<JobSummary, 'students' | 'unfinished_students'>>[]} jobs
 */
function taughtBy(jobs) {
  const students = jobs.reduce((sum, job) => sum + (job.students ?? 0), 0);
  if (students === 0) return [];
  const needed = jobs.filter((job) => job.unfinished_students).length;
  return [
    `Their students are the teachers of ${jobsOf(students)}, whose retry or clone will not find its teacher.`,
    ...(needed ? [`${jobsOf(needed)} cannot be deleted yet: ${needed === 1 ? 'an unfinished job needs its' : 'unfinished jobs need their'} student as a teacher.`] : []),
  ];
}

/**
 * Acts on each job, a few at a time, and answers which failed. Waits whenever the server limits the rate of requests.
 * @template Job
 * @param {Job[]} jobs
 * @param {(job: Job) => Promise<unknown>} act
 * @param {() => void} [onDone] after each job
 */
export async function toEach(jobs, act, onDone = () => {}, delay = RATE_LIMIT_DELAY) {
  /** @type {{ job: Job, error: Error }[]} */
  const failures = [];
  const waiting = [...jobs];
  const work = async () => {
    for (let job = waiting.shift(); job; job = waiting.shift()) {
      try {
        await act(job);
      } catch (error) {
        if (error.status === TOO_MANY_REQUESTS) {
          waiting.push(job);
          await new Promise((resolve) => { setTimeout(resolve, delay); });
          continue;
        }
        failures.push({ job, error });
      }
      onDone();
    }
  };
  await Promise.all(Array.from({ length: MAX_REQUESTS }, work));
  return failures;
}

/** A bar with the number of selected jobs and what can be done to them. */
export class BulkBar {
  #isBusy = false;

  /**
   * @param {Map<string, JobSummary>} selection by id
   * @param {() => void} onChange after the selection or a job has changed
   */
  constructor(selection, onChange) {
    this.selection = selection;
    this.onChange = onChange;
    this.count = h('strong', {});
    this.compare = h('a', { class: 'button quiet' }, 'Compare');
    this.buttons = { cancel: this.#button('cancel'), delete: this.#button('delete') };
    this.everything = h('button', { type: 'button', class: 'quiet', hidden: true });
    this.clear = h('button', { type: 'button', class: 'quiet', onclick: () => { selection.clear(); onChange(); } }, 'Clear');
    this.element = h('div', { class: 'bulk', role: 'toolbar', 'aria-label': 'Selected jobs', hidden: true },
      this.count, this.everything, this.compare, this.buttons.cancel, this.buttons.delete, this.clear);
    this.report = h('div', { class: 'report', role: 'alert' });
  }

  /** @param {BulkVerb} verb */
  #button(verb) {
    return h('button', { type: 'button', class: 'danger quiet', onclick: () => this.#act(verb) }, WORDS[verb].label);
  }

  update() {
    const jobs = [...this.selection.values()];
    this.element.hidden = jobs.length === 0;
    if (!this.#isBusy) setText(this.count, `${jobs.length} selected`);
    const isTooMany = jobs.length > MAX_COMPARED;
    setText(this.compare, isTooMany ? `Compare (at most ${MAX_COMPARED})` : 'Compare');
    if (isTooMany) this.compare.removeAttribute('href');
    else this.compare.href = `#/compare?${jobs.map(({ id }) => `job=${encodeURIComponent(id)}`).join('&')}`;
    this.compare.ariaDisabled = isTooMany ? 'true' : null;
    this.compare.hidden = jobs.length < 2;
    for (const verb of /** @type {BulkVerb[]} */ (['cancel', 'delete'])) {
      const { able } = plan(verb, jobs);
      this.buttons[verb].hidden = able.length === 0;
      setText(this.buttons[verb], `${WORDS[verb].label} ${able.length}`);
    }
  }

  /** @param {BulkVerb} verb */
  async #act(verb) {
    const { label, no } = WORDS[verb];
    const { able, text } = plan(verb, [...this.selection.values()]);
    if (!(await ask({ title: `${label} ${jobsOf(able.length)}?`, detail: text, yes: `${label} them`, no, danger: true }))) return;
    this.#setBusy(true);
    let done = 0;
    const onDone = () => {
      done += 1;
      setText(this.count, `${done} of ${able.length}…`);
    };
    const failures = await toEach(able, ({ id }) => (verb === 'delete' ? api.remove(id) : api.change(id, verb)), onDone);
    this.#setBusy(false);
    const failed = new Set(failures.map(({ job }) => job.id));
    // Failed jobs stay selected.
    for (const { id } of able) if (!failed.has(id)) this.selection.delete(id);
    this.#showReport(verb, able.length - failures.length, failures);
    this.onChange();
  }

  /** @param {boolean} isBusy */
  #setBusy(isBusy) {
    this.#isBusy = isBusy;
    for (const button of Object.values(this.buttons)) button.disabled = isBusy;
  }

  /**
   * @param {BulkVerb} verb
   * @param {number} count of jobs that it worked for
   * @param {{ job: JobSummary, error: Error }[]} failures
   */
  #showReport(verb, count, failures) {
    const { done } = WORDS[verb];
    const close = h('button', { type: 'button', class: 'quiet', onclick: () => fill(this.report) }, 'Dismiss');
    // A running job is cancelled once its worker has stopped it.
    const success = verb === 'cancel' ? `${jobsOf(count)} asked to stop.` : `${jobsOf(count)} ${done}.`;
    fill(this.report, h('div', { class: failures.length ? 'error-box' : 'ok-box' },
      h('p', {}, success, failures.length ? ` ${jobsOf(failures.length)} could not be ${done}:` : ''),
      failures.length ? h('ul', {}, failures.map(({ job, error }) => h('li', {}, h('a', { href: `#/jobs/${encodeURIComponent(job.id)}` }, job.name), `: ${error.message}`))) : null,
      close));
  }
}
