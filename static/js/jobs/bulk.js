// What is done to several jobs at once: asked first, and told afterwards with what could not be done.

import { api } from '../api/client.js';
import { ask, fill, h, setText } from '../ui/dom.js';
import { ACTIONS } from '../ui/status.js';

/** Requests under way at a time. */
const AT_A_TIME = 6;
/** How long to wait when the server says that they come too fast. */
const BREATH = 1000;
const TOO_MANY = 429;

const WHAT_HAPPENS = {
  cancel: { queued: 'will not start', running: 'stop at their next step', pausing: 'stop at their next step', paused: 'will not go on' },
  delete: { succeeded: 'go, with their students', failed: 'go', cancelled: 'go' },
};
const WORDS = {
  cancel: { title: (jobs) => `Cancel ${jobs}?`, yes: 'Cancel them', no: 'Let them run', done: 'cancelled', after: 'What they have learned so far is not published; retrying goes on from the last checkpoint.' },
  delete: { title: (jobs) => `Delete ${jobs}?`, yes: 'Delete them', no: 'Keep them', done: 'deleted', after: 'Students, metrics and histories are deleted for good.' },
};

const jobsOf = (count) => (count === 1 ? '1 job' : `${count} jobs`);

/** `{able, text}`: the jobs to which it can be done, and what will happen to which. Pure. */
export function plan(verb, jobs) {
  const { from } = ACTIONS.find((action) => action.verb === verb);
  const able = jobs.filter(({ status }) => from.includes(status));
  const counts = new Map();
  for (const { status } of jobs) counts.set(status, (counts.get(status) ?? 0) + 1);
  const parts = [...counts].filter(([status]) => from.includes(status)).map(([status, count]) => `${count} ${status}: ${WHAT_HAPPENS[verb][status]}.`);
  const left = jobs.length - able.length;
  if (left > 0) {
    const statuses = [...counts.keys()].filter((status) => !from.includes(status)).join(', ');
    parts.push(`${jobsOf(left)} (${statuses}) ${left === 1 ? 'stays' : 'stay'} as ${left === 1 ? 'it is' : 'they are'}.`);
  }
  return { able, text: [...parts, WORDS[verb].after].join(' ') };
}

/** Does something to each job, a few at a time; answers `[{job, error}]` of those to which it could not be done. */
export async function toEach(jobs, act, onDone = () => {}, breath = BREATH) {
  const failures = [];
  const waiting = [...jobs];
  const work = async () => {
    for (let job = waiting.shift(); job; job = waiting.shift()) {
      try {
        await act(job);
      } catch (error) {
        if (error.status === TOO_MANY) {
          waiting.push(job);
          await new Promise((resolve) => { setTimeout(resolve, breath); });
          continue;
        }
        failures.push({ job, error });
      }
      onDone();
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, work));
  return failures;
}

/** A bar with the number of selected jobs and what can be done to them. */
export class BulkBar {
  /** `selection`: a Map of jobs by id. `onChange()` after the selection or a job has changed. */
  constructor(selection, onChange) {
    this.selection = selection;
    this.onChange = onChange;
    this.count = h('strong', {});
    this.compare = h('a', { class: 'button quiet' }, 'Compare');
    this.buttons = { cancel: this.#button('cancel', 'Cancel'), delete: this.#button('delete', 'Delete') };
    this.everything = h('button', { type: 'button', class: 'quiet', hidden: true });
    this.clear = h('button', { type: 'button', class: 'quiet', onclick: () => { selection.clear(); onChange(); } }, 'Clear');
    this.element = h('div', { class: 'bulk', role: 'toolbar', 'aria-label': 'Selected jobs', hidden: true },
      this.count, this.everything, this.compare, this.buttons.cancel, this.buttons.delete, this.clear);
    this.report = h('div', { class: 'report', role: 'alert' });
  }

  #button(verb, label) {
    return h('button', { type: 'button', class: 'danger quiet', onclick: () => this.act(verb) }, label);
  }

  update() {
    const jobs = [...this.selection.values()];
    this.element.hidden = jobs.length === 0;
    if (!this.isBusy) setText(this.count, `${jobs.length} selected`);
    this.compare.href = `#/compare?${jobs.map(({ id }) => `job=${encodeURIComponent(id)}`).join('&')}`;
    this.compare.hidden = jobs.length < 2 || jobs.length > 50;
    for (const [verb, button] of Object.entries(this.buttons)) {
      const { able } = plan(verb, jobs);
      button.hidden = able.length === 0;
      fill(button, `${verb === 'cancel' ? 'Cancel' : 'Delete'} ${able.length}`);
    }
  }

  async act(verb) {
    const words = WORDS[verb];
    const { able, text } = plan(verb, [...this.selection.values()]);
    if (!(await ask({ title: words.title(jobsOf(able.length)), detail: text, yes: words.yes, no: words.no, danger: true }))) return;
    this.#busy(true);
    let done = 0;
    const onDone = () => {
      done += 1;
      setText(this.count, `${done} of ${able.length}…`);
    };
    const failures = await toEach(able, (job) => (verb === 'delete' ? api.remove(job.id) : api.change(job.id, verb)), onDone);
    this.#busy(false);
    const failed = new Set(failures.map(({ job }) => job.id));
    // What could not be done stays selected.
    for (const { id } of able) if (!failed.has(id)) this.selection.delete(id);
    this.#tell(words.done, able.length - failures.length, failures);
    this.onChange();
  }

  #busy(isBusy) {
    this.isBusy = isBusy;
    for (const button of Object.values(this.buttons)) button.disabled = isBusy;
  }

  #tell(done, count, failures) {
    const close = h('button', { type: 'button', class: 'quiet', onclick: () => fill(this.report) }, 'Dismiss');
    const isAsked = done === 'cancelled' ? `${jobsOf(count)} asked to stop.` : `${jobsOf(count)} ${done}.`;
    fill(this.report, h('div', { class: failures.length ? 'error-box' : 'ok-box' },
      h('p', {}, isAsked, failures.length ? ` ${jobsOf(failures.length)} could not be ${done}:` : ''),
      failures.length ? h('ul', {}, failures.map(({ job, error }) => h('li', {}, h('a', { href: `#/jobs/${encodeURIComponent(job.id)}` }, job.name), `: ${error.message}`))) : null,
      close));
  }
}
