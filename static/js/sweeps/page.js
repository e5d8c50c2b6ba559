// A sweep: its combinations with mean and deviation over seeds, their curves, the comparison at each rung, and its
// actions.

import { followChanges } from '../api/changes.js';
import { api, paths } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { curveFields, zoomFields } from '../charts/controls.js';
import { fileName, save } from '../charts/export.js';
import { OverlayChart } from '../charts/overlay.js';
import { ChartView } from '../charts/view.js';
import { ParallelCoordinates } from '../groups/parallel.js';
import { BoundFields, parseBounds, sweepAddress } from '../ui/bounds.js';
import { commandLine, curl, learnAboutTokens } from '../ui/commands.js';
import { setAnswered, setConnection } from '../ui/connection.js';
import { ask, copyButton, fill, h, progressBar, setText, statusBadge } from '../ui/dom.js';
import { isNumber, share, whole } from '../ui/format.js';
import { scrollBox, section } from '../ui/section.js';
import { CombinationsTable } from './combinations.js';
import { isWaiting, qualifyingText, sweepCosts } from './costs.js';
import { costText, curveLines, doneShare, droppedCount, epochsText, jobsText, leftOutText, rungLines, strategyText } from './data.js';
import { SWEEP_ACTIONS } from './status.js';

/** @import { Costs } from '../compare/costs.js' */
/** @import { SweepCosts } from './costs.js' */
/** @import { SweepAction } from './status.js' */
/** @typedef {Schemas['SweepDetails']} SweepDetails */

const INTERVAL = 3000;
/** Milliseconds between two questions for what students cost, of which there may be a thousand. */
const COSTS_INTERVAL = 10_000;
/** Rows of the table before more are asked for: a sweep has up to 500 combinations with a thousand jobs. */
const ROWS = 100;
/** Most students of a sweep. */
const MAX_STUDENTS = 1000;
/** Most jobs of the best combinations to compare: a comparison has at most 50. */
const MAX_COMPARED = 12;

/**
 * @param {PageContext} context
 * @returns {PageView}
 */
export function sweepPage(context) {
  const page = new SweepPage(context);
  page.start();
  return page;
}

class SweepPage {
  #view = new ChartView();
  #status = '';
  /** @type {Set<string>} */
  #jobs = new Set();
  /** @type {SweepDetails | null} */
  sweep = null;
  /** @type {SweepCosts} */
  #costs = { students: new Map(), isBounded: false, reason: '' };
  /** Number of jobs that had succeeded when the costs were asked for; -1 before. */
  #succeeded = -1;
  #rows = ROWS;
  /** @type {Costs} */
  #bounds;

  /** @param {PageContext} context */
  constructor({ root, id = '', query, signal, setTitle, announce }) {
    this.id = id;
    this.setTitle = setTitle;
    this.announce = announce;
    this.note = h('p', { class: 'note', role: 'status' }, 'Loading…');
    this.name = h('h1', {});
    this.badge = statusBadge();
    this.buttons = h('div', { class: 'actions' });
    this.bar = progressBar('Progress');
    this.share = h('strong', { class: 'share' });
    this.where = h('span', {});
    this.warnings = h('ul', { class: 'sweep-notes' });
    this.warningCard = section('Warnings', {}, this.warnings);
    this.failure = h('p', { class: 'sweep-failure' });
    this.failureCard = section('Failures', {}, this.failure);
    this.bounds = new BoundFields({ event: 'change', onChange: () => this.#bound() });
    this.#bounds = parseBounds(query);
    this.bounds.show(this.#bounds);
    this.qualifying = h('p', { class: 'note', role: 'status' });
    this.combinations = new CombinationsTable();
    this.table = scrollBox('Combinations, table', { class: 'table-scroll' }, this.combinations.element);
    this.more = h('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => this.#showAll() });
    this.curves = new OverlayChart('eval/top1', { view: this.#view, signal });
    this.rungs = new OverlayChart('top-1 by rung', { view: this.#view, signal });
    this.leftOut = h('p', { class: 'note left-out' });
    this.parallel = new ParallelCoordinates(signal);
    this.commands = h('div', {});
    this.compare = h('a', { class: 'button quiet' }, 'Compare the best');
    this.body = this.#layOut();
    this.body.hidden = true;
    fill(root, this.note, this.body);
    this.poller = new Poller({
      interval: INTERVAL, signal,
      request: async (stop) => {
        this.show(await api.sweep(id, stop));
        setText(this.note, '');
        setAnswered(true);
      },
      onError: (error) => {
        setText(this.note, error.message);
        setAnswered(false);
      },
    });
    this.costsPoller = new Poller({
      interval: COSTS_INTERVAL, signal,
      request: async (stop) => {
        this.#succeeded = this.sweep?.jobs.succeeded ?? 0;
        this.#costs = sweepCosts(await api.pareto({ sweep: id, limit: MAX_STUDENTS, ...this.#bounds }, stop));
        setText(this.qualifying, qualifyingText(this.#costs));
        this.#showTable();
        if (isWaiting(this.#costs)) this.costsPoller.soon();
      },
      onError: (error) => setText(this.qualifying, `What the students cost is not known: ${error.message}`),
    });
    this.signal = signal;
  }

  /**
   * The address has other bounds.
   * @param {URLSearchParams} query
   */
  update(query) {
    this.#bounds = parseBounds(query);
    this.bounds.show(this.#bounds);
    this.#showCommands();
    this.costsPoller.now();
  }

  #bound() {
    const { bounds } = this.bounds;
    if (bounds) location.hash = sweepAddress(this.id, bounds);
  }

  start() {
    const { signal } = this;
    this.poller.now();
    learnAboutTokens(signal).then(() => this.#showCommands());
    const onChange = (/** @type {string[] | null} */ ids) => {
      if (!ids || ids.some((job) => this.#jobs.has(job))) this.poller.soon();
    };
    followChanges({ onChange, onState: setConnection, signal });
  }

  #layOut() {
    const csv = h('button', { type: 'button', class: 'quiet copy', title: 'Download the table', onclick: () => this.#saveCsv() }, 'CSV');
    return h('div', { class: 'compare sweep' },
      h('div', { class: 'job-head' },
        h('p', { class: 'crumb' }, h('a', { href: '#/sweeps' }, 'Sweeps'), ' / ', h('code', {}, this.id), copyButton(() => this.id)),
        h('div', { class: 'heading' }, h('div', { class: 'title-row' }, this.name, this.badge.element), this.buttons),
        h('section', { class: 'card progress-card', 'aria-label': 'Progress' },
          this.bar.element, h('p', { class: 'progress-line' }, this.share, this.where))),
      this.failureCard,
      this.warningCard,
      section('Combinations', { actions: h('div', { class: 'actions' }, this.compare, csv) }, this.bounds.element, this.qualifying, this.table, this.more),
      h('div', { class: 'compare-tools' }, curveFields(this.#view), zoomFields(this.#view), this.leftOut),
      h('section', { class: 'charts', 'aria-label': 'Curves' }, this.curves.element, this.rungs.element),
      this.parallel.element, section('By curl', {}, this.commands));
  }

  #showCommands() {
    fill(this.commands, commandLine(curl(paths.sweep(this.id))), commandLine(curl(paths.pareto({ sweep: this.id, limit: MAX_STUDENTS, ...this.#bounds }))));
  }

  /** @param {SweepDetails} sweep */
  show(sweep) {
    const { results } = sweep;
    const pointers = sweep.axes.map(({ pointer }) => pointer);
    this.sweep = sweep;
    this.#jobs = new Set(results.flatMap(({ jobs }) => jobs.map((job) => job.id)));
    this.body.hidden = false;
    setText(this.name, sweep.name);
    this.badge.update(sweep.status);
    const done = doneShare(results);
    this.bar.update(done);
    setText(this.share, share(done));
    const next = sweep.next_rung ? ` · compared next after ${epochsText(sweep.next_rung)}` : '';
    const jobs = jobsText(sweep.jobs, sweep.strategy, droppedCount(results, sweep.strategy));
    setText(this.where, ` ${jobs} · ${strategyText(sweep.strategy)}${next} · ${costText(results)} of device time`);
    this.warningCard.hidden = sweep.warnings.length === 0;
    fill(this.warnings, sweep.warnings.map((warning) => h('li', {}, warning)));
    this.#showFailure(sweep);
    this.#showTable();
    if (this.#succeeded < 0) this.costsPoller.now();
    else if ((sweep.jobs.succeeded ?? 0) !== this.#succeeded) this.costsPoller.soon();
    const leftOut = leftOutText(results.length);
    setText(this.leftOut, leftOut);
    this.leftOut.hidden = !leftOut;
    this.curves.show(curveLines(pointers, results), 'epoch');
    const rungs = rungLines(pointers, results);
    this.rungs.element.hidden = rungs.length === 0;
    this.rungs.show(rungs, 'epoch');
    const evaluated = results.filter(({ top1 }) => isNumber(top1));
    this.parallel.show(pointers, evaluated.map(({ settings, top1, n }) => ({ values: pointers.map((pointer) => settings[pointer] ?? null), top1: top1 ?? 0, n })));
    const best = results.flatMap(({ jobs }) => jobs.map((job) => job.id)).slice(0, MAX_COMPARED);
    this.compare.href = `#/compare?${best.map((job) => `job=${encodeURIComponent(job)}`).join('&')}&seeds=1`;
    this.#showStatus(sweep);
  }

  /** The best combinations, or all. */
  #showTable() {
    if (!this.sweep) return;
    const { axes, results, strategy } = this.sweep;
    const rows = results.slice(0, this.#rows);
    this.more.hidden = rows.length === results.length;
    setText(this.more, `Show all ${whole(results.length)} combinations`);
    this.combinations.show(axes.map(({ pointer }) => pointer), rows, this.#costs, strategy);
  }

  #showAll() {
    this.#rows = Infinity;
    this.#showTable();
    this.table.focus();
  }

  /** @param {SweepDetails} sweep */
  #showFailure({ jobs, first_failure: first }) {
    this.failureCard.hidden = !first;
    if (!first) return;
    const failed = jobs.failed === 1 ? '1 job failed' : `${jobs.failed} jobs failed`;
    fill(this.failure, `${failed}, first `, h('a', { href: `#/jobs/${encodeURIComponent(first.id)}` }, h('code', {}, first.id)), `: ${first.error.message}`);
  }

  /** @param {SweepDetails} sweep */
  #showStatus({ status, name }) {
    this.setTitle(`${status} · ${name}`);
    if (status === this.#status) return;
    if (this.#status) this.announce(`${name}: ${status}`);
    this.#status = status;
    fill(this.buttons, SWEEP_ACTIONS.filter(({ from }) => from.includes(status)).map((action) =>
      h('button', { type: 'button', class: action.danger ? 'danger quiet' : 'quiet', onclick: () => this.act(action) }, action.label)));
  }

  /** @param {SweepAction} action */
  async act({ verb, confirm, danger }) {
    if (confirm && !(await ask({ ...confirm, danger }))) return;
    for (const button of this.buttons.querySelectorAll('button')) button.disabled = true;
    try {
      if (verb === 'delete') {
        await api.removeSweep(this.id);
        location.hash = '#/sweeps';
        return;
      }
      this.show(await api.changeSweep(this.id, verb));
      setText(this.note, '');
    } catch (error) {
      setText(this.note, error.message);
    } finally {
      for (const button of this.buttons.querySelectorAll('button')) button.disabled = false;
    }
  }

  async #saveCsv() {
    try {
      save(fileName(this.sweep?.name ?? this.id, 'csv'), 'text/csv', await api.sweepCsv(this.id));
    } catch (error) {
      setText(this.note, error.message);
    }
  }
}
