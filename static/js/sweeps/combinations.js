// The table of a sweep's combinations, the best first.

import { fill, h, keepFocus } from '../ui/dom.js';
import { duration, isNumber, percent } from '../ui/format.js';
import { shortNames, shortValue } from '../ui/settings.js';
import { latencyOf, verdictOf } from './costs.js';
import { epochsText, isDropped, spread } from './data.js';

/** @import { SweepCosts } from './costs.js' */
/** @typedef {Schemas['CombinationResult']} Result */

/** Longest setting in a tool tip, in characters. */
const LONGEST_TITLE = 1000;

export class CombinationsTable {
  #head = h('thead', {});
  #body = h('tbody', {});
  #columns = '';
  /**
   * By the number of the combination, with all that it shows.
   * @type {Map<number, { shown: string, element: HTMLElement }>}
   */
  #rows = new Map();

  constructor() {
    this.element = h('table', {}, this.#head, this.#body);
  }

  /**
   * Builds only the rows that have changed: there may be 500 with a thousand jobs, every few seconds.
   * @param {string[]} pointers of the axes
   * @param {Result[]} results
   * @param {SweepCosts} costs
   * @param {Schemas['Strategy']} strategy
   */
  show(pointers, results, costs, strategy) {
    const rungs = [...new Set(results.flatMap((result) => result.rungs.map(({ epochs }) => epochs)))].sort((one, other) => one - other);
    const columns = JSON.stringify([pointers, rungs, costs.isBounded]);
    if (columns !== this.#columns) {
      this.#columns = columns;
      this.#rows.clear();
      fill(this.#head, heading(pointers, rungs, costs));
    }
    keepFocus(this.#body, () => this.#place(new Map(results.map((result) => [result.number, this.#row(pointers, rungs, result, costs, strategy)]))));
  }

  /**
   * The row as it is, or a new one.
   * @param {string[]} pointers
   * @param {number[]} rungs
   * @param {Result} result
   * @param {SweepCosts} costs
   * @param {Schemas['Strategy']} strategy
   */
  #row(pointers, rungs, result, costs, strategy) {
    const { curve: _, cost_seconds: seconds, ...rest } = result;
    const shown = JSON.stringify([rest, duration(seconds), latencyOf(result, costs), costs.isBounded && verdictOf(result, costs)]);
    const known = this.#rows.get(result.number);
    return known?.shown === shown ? known : { shown, element: row(pointers, rungs, result, costs, strategy) };
  }

  /** @param {Map<number, { shown: string, element: HTMLElement }>} rows in their order */
  #place(rows) {
    this.#rows = rows;
    const elements = [...rows.values()].map(({ element }) => element);
    const wanted = new Set(elements);
    for (const element of [...this.#body.rows]) {
      if (!wanted.has(element)) element.remove();
    }
    elements.forEach((element, index) => {
      const there = this.#body.rows[index] ?? null;
      if (there !== element) this.#body.insertBefore(element, there);
    });
  }
}

/**
 * @param {string[]} pointers
 * @param {number[]} rungs epochs
 * @param {SweepCosts} costs
 */
function heading(pointers, rungs, costs) {
  const names = shortNames(pointers);
  const number = (/** @type {string} */ name, /** @type {string} */ title) => h('th', { scope: 'col', class: 'number', title }, name);
  return h('tr', {},
    number('Rank', 'First those that were not dropped, by mean top-1'),
    names.map((name, index) => h('th', { scope: 'col', title: pointers[index] }, name)),
    number('Top-1', 'Mean ± standard deviation over the seeds of the best top-1 so far'),
    number('n', 'Jobs in the mean, without copies'),
    number('Best', 'Best top-1 of any seed'),
    rungs.map((epochs) => number(`Epoch ${epochs}`, `Mean ± standard deviation up to the comparison after ${epochsText(epochs)}`)),
    number('Latency', 'Median time for one image on the server’s CPU, with one thread'),
    costs.isBounded ? number('Qualifies', 'Whether its finished students meet the constraints') : null,
    number('Cost', 'Time for which devices were held'),
    h('th', { scope: 'col' }, 'Jobs'));
}

/**
 * @param {string[]} pointers
 * @param {number[]} rungs epochs
 * @param {Result} result
 * @param {SweepCosts} costs
 * @param {Schemas['Strategy']} strategy
 */
function row(pointers, rungs, result, costs, strategy) {
  const cell = (/** @type {string} */ text, more = {}) => h('td', { class: 'number', ...more }, text);
  const dropped = result.dropped_after ?? null;
  const latency = latencyOf(result, costs);
  const verdict = costs.isBounded ? verdictOf(result, costs) : null;
  return h('tr', { 'data-rank': result.rank, 'data-dropped': dropped },
    cell(isNumber(result.rank) ? String(result.rank) : '–'),
    pointers.map((pointer) => h('td', { class: 'setting', title: shortValue(result.settings[pointer], LONGEST_TITLE) }, shortValue(result.settings[pointer]))),
    cell(spread(result), { title: result.copies ? `${result.copies} copies not counted` : null }),
    cell(String(result.n)),
    cell(percent(result.best)),
    rungs.map((epochs) => atRung(result, epochs)),
    cell(latency.text, { title: latency.title }),
    verdict ? cell(verdict.text, { title: verdict.title, 'data-qualifies': verdict.state }) : null,
    cell(duration(result.cost_seconds)),
    h('td', {}, h('span', { class: 'members' }, result.jobs.map((job) => member(job, isDropped(job, result, strategy))))));
}

/**
 * @param {Result} result
 * @param {number} epochs
 */
function atRung(result, epochs) {
  const rung = result.rungs.find((one) => one.epochs === epochs);
  if (!rung) return h('td', { class: 'number' }, '–');
  const outcome = rung.kept ? h('span', { class: 'kept' }, ' kept') : h('span', { class: 'dropped' }, ' dropped');
  return h('td', { class: 'number' }, spread(rung), outcome);
}

/**
 * @param {Schemas['MemberJob']} job
 * @param {boolean} wasDropped
 */
function member({ id, seed, status, best_top1: top1 }, wasDropped) {
  const title = `seed ${seed}, ${wasDropped ? 'dropped' : status}${isNumber(top1) ? `, ${percent(top1)}` : ''}`;
  return h('a', { href: `#/jobs/${encodeURIComponent(id)}`, title, 'aria-label': title },
    h('span', { class: 'badge', 'data-status': status }, String(seed)));
}
