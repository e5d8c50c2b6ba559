// One job as a row of the list.

import { now } from '../api/client.js';
import { sparkline } from '../charts/sparkline.js';
import { ageElement, h, progressBar, setText, statusBadge } from '../ui/dom.js';
import { NO_BASELINE, comparedWith, duration, isNumber, pairOf, percent, points, rate, share, shortAge, shortWaiting, waitingText } from '../ui/format.js';
import { isFinal } from '../ui/status.js';
import { gainSign, isWithin, shortValue } from '../ui/settings.js';

/** @typedef {Schemas['JobSummary']} JobSummary */
/** @import { Child } from '../ui/dom.js' */

/** Longest setting in a tool tip, in characters. */
const LONGEST_TITLE = 1000;

export class JobRow {
  /**
   * @param {JobSummary} job
   * @param {(isSelected: boolean) => void} onSelect
   * @param {string[]} columns JSON pointers of settings that have a cell
   */
  constructor(job, onSelect, columns) {
    this.job = job;
    this.settings = columns.map((pointer) => ({ pointer, value: h('span', { class: 'setting' }) }));
    this.box = h('input', { type: 'checkbox', 'aria-label': `Select ${job.name}`, onchange: () => { onSelect(this.box.checked); } });
    this.badge = statusBadge();
    this.link = h('a', { href: `#/jobs/${encodeURIComponent(job.id)}`, title: job.name }, job.name);
    this.bar = progressBar('Progress');
    this.share = h('span', { class: 'share' });
    this.spark = sparkline();
    this.best = h('span', { class: 'figure' });
    this.gain = h('span', { class: 'figure gain' });
    this.rest = h('span', { class: 'rest' });
    this.worker = h('span', {});
    const cell = (/** @type {string} */ label, /** @type {Child} */ child) => h('td', { role: 'cell', 'data-label': label }, child);
    this.element = h('tr', { role: 'row', 'data-id': job.id },
      cell('Select', this.box),
      cell('Status', this.badge.element),
      h('th', { role: 'rowheader', scope: 'row', 'data-label': 'Name' }, h('div', { class: 'name-cell' }, this.link, labelLinks(job))),
      cell('Method', h('span', { class: 'method' }, job.method)),
      cell('Teacher → student', h('span', { title: `${pairOf(job)} on ${job.dataset ?? '–'}` }, pairOf(job))),
      cell('Progress', h('div', { class: 'progress-cell' }, this.bar.element, this.share)),
      cell('Top-1 curve', this.spark.element),
      cell('Best top-1', this.best),
      cell('Gain', this.gain),
      cell('ETA', this.rest),
      cell('Worker', this.worker),
      cell('Age', ageElement(job.created_at, (time) => shortAge(time, now()))),
      this.settings.map(({ pointer, value }) => cell(pointer, value)));
    this.update(job);
  }

  /** @param {boolean} isSelected */
  setSelected(isSelected) {
    this.box.checked = isSelected;
    this.element.classList.toggle('selected', isSelected);
  }

  /** @param {JobSummary} job */
  update(job) {
    this.job = job;
    const { progress, status } = job;
    this.badge.update(status);
    const fraction = status === 'succeeded' ? 1 : progress?.fraction;
    this.bar.update(fraction);
    this.bar.element.dataset.status = status;
    this.element.dataset.final = String(isFinal(status));
    setText(this.share, isNumber(fraction) ? share(fraction) : '');
    this.spark.update(job.curve, isFinal(status) ? null : progress?.steps);
    setText(this.best, isNumber(job.best_top1) ? percent(job.best_top1) : '');
    this.best.title = bestTitle(job);
    this.#showGain(job);
    this.#showRest(job);
    for (const { pointer, value } of this.settings) {
      const setting = job.settings?.[pointer];
      const isThere = setting !== null && setting !== undefined;
      setText(value, isThere ? shortValue(setting) : '–');
      value.title = isThere ? shortValue(setting, LONGEST_TITLE) : '';
    }
    setText(this.worker, job.worker ?? '');
    this.worker.title = job.worker ?? '';
  }

  /** @param {JobSummary} job */
  #showGain({ gain, baseline, method }) {
    setText(this.gain, isNumber(gain) ? points(gain) : '');
    this.gain.dataset.sign = isNumber(gain) ? String(gainSign(gain, baseline?.deviation)) : '';
    if (baseline) this.gain.title = `${comparedWith(baseline)}${isWithin(gain, baseline.deviation) ? ' The difference lies within the deviation.' : ''}`;
    else this.gain.title = method === 'none' ? 'Plain training has no baseline.' : NO_BASELINE;
  }

  /**
   * The time left, what it waits for, the time taken, or the error.
   * @param {JobSummary} job
   */
  #showRest({ status, progress, error, waiting, ran_seconds: ran }) {
    const running = status === 'running' ? progress : null;
    this.rest.classList.toggle('live-figure', Boolean(running));
    this.rest.dataset.kind = status === 'failed' ? 'error' : running ? 'eta' : 'took';
    if (running) {
      setText(this.rest, duration(running.eta_seconds));
      this.rest.title = `${duration(running.eta_seconds)} left · ${rate(running.images_per_second)}`;
      return;
    }
    if (waiting) {
      setText(this.rest, shortWaiting(waiting));
      this.rest.title = waitingText(waiting);
      return;
    }
    const took = isFinal(status) && isNumber(ran) ? `took ${duration(ran)}` : '';
    setText(this.rest, status === 'failed' && error ? error : took);
    this.rest.title = took;
  }
}

/** @param {JobSummary} job */
function labelLinks({ labels }) {
  const names = Object.entries(labels).map(([key, value]) => `${key}:${value}`);
  return h('span', { class: 'labels' }, names.map((label) => h('a', {
    class: 'label', href: `#/?${new URLSearchParams({ label })}`, title: `Jobs with the label ${label}`, tabindex: '-1',
  }, label)));
}

/** @param {JobSummary} job */
function bestTitle({ best_top1: best, teacher_top1: teacher, status }) {
  if (!isNumber(best)) return isFinal(status) ? 'Not evaluated.' : 'Not evaluated yet.';
  const what = isFinal(status) ? 'Best top-1' : 'Best top-1 so far';
  return `${what}: ${percent(best)}${isNumber(teacher) ? `; teacher: ${percent(teacher)}` : ''}`;
}
