// Accuracy against what a student costs: a scatter plot in SVG.

import { fileName, save } from '../charts/export.js';
import { svg } from '../charts/svg.js';
import { logTicks, ticks } from '../charts/ticks.js';
import { token } from '../charts/theme.js';
import { readNumber } from '../json/numbers.js';
import { h, setText } from '../ui/dom.js';
import { isNumber, percent } from '../ui/format.js';
import { COST_NAMES, COSTS, missed } from './costs.js';
import { placeNames } from './names.js';

/** @import { Maybe } from '../ui/format.js' */
/** @import { CostName, Costs } from './costs.js' */
/**
 * @typedef {object} ScatterPoint
 * @property {string} label
 * @property {Costs} costs
 * @property {string} [cpu] on which its latency was measured
 * @property {Maybe} top1 in percent
 * @property {Maybe} [deviation] drawn as an error bar
 * @property {string} [colour]
 * @property {boolean} [isTeacher]
 */
/** @typedef {ScatterPoint & { cost: number, top1: number, isOut: boolean }} KnownPoint */
/** @typedef {((value: number) => number) & { low: number, high: number }} Scale from values to pixels */

const KEY = 'circle: student · diamond: teacher';
const HEIGHT = 320;
const PLOT = { left: 56, right: 20, top: 16, bottom: HEIGHT - 44 };
/** Styles that a saved file needs from the page's style sheet. */
const SAVED_STYLES = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'font-family', 'font-size', 'text-anchor'];

export class Scatter {
  /** @type {ScatterPoint[]} */
  #points = [];
  #width = 640;
  /** @type {CostName} */
  #cost = 'parameters';
  /**
   * The most that each may be.
   * @type {Costs}
   */
  #bounds = {};
  /**
   * What was typed for each, which may not be a number yet.
   * @type {Partial<Record<CostName, string>>}
   */
  #typed = {};

  /** @param {AbortSignal} signal */
  constructor(signal) {
    this.key = h('span', { class: 'chart-where' }, KEY);
    this.plot = svg('svg', { class: 'scatter', height: HEIGHT, role: 'img' });
    this.heading = h('h3', {});
    this.choice = h('select', { onchange: () => { this.#choose(/** @type {CostName} */ (this.choice.value)); } },
      COST_NAMES.map((name) => h('option', { value: name }, COSTS[name].title)));
    this.bound = h('input', { type: 'text', inputmode: 'decimal', autocomplete: 'off', spellcheck: 'false', size: 10, oninput: () => this.#setBound() });
    this.fault = h('span', { class: 'error-text', role: 'status' });
    this.element = h('section', { class: 'card chart', 'data-points': 0 },
      h('header', {}, this.heading, this.key,
        h('span', {}, h('button', { type: 'button', class: 'quiet copy', title: 'Download the chart as a drawing', onclick: () => this.#save() }, 'SVG'))),
      h('div', { class: 'scatter-tools' }, h('label', {}, 'Cost ', this.choice), h('label', {}, 'at most ', this.bound), this.fault),
      this.plot);
    this.#choose('parameters');
    const observer = new ResizeObserver(() => this.show(this.#points));
    observer.observe(this.plot);
    signal.addEventListener('abort', () => observer.disconnect());
  }

  /** @param {CostName} cost */
  #choose(cost) {
    this.#cost = cost;
    const title = `Accuracy against ${COSTS[cost].title}`;
    setText(this.heading, title);
    this.element.setAttribute('aria-label', title);
    this.bound.value = this.#typed[cost] ?? '';
    this.#setBound();
  }

  /** Bounds of the other costs stay. */
  #setBound() {
    const text = this.bound.value;
    this.#typed[this.#cost] = text;
    const { value, fault } = readNumber(text);
    const wrong = fault ?? (value !== undefined && value <= 0 ? `${text.trim()} is not above 0` : '');
    this.#bounds[this.#cost] = wrong ? undefined : value;
    setText(this.fault, wrong);
    this.bound.setAttribute('aria-invalid', String(wrong !== ''));
    this.show(this.#points);
  }

  /**
   * Points without an accuracy or a cost are left out. Students beyond a bound are hollow.
   * @param {ScatterPoint[]} points
   */
  show(points) {
    this.#points = points;
    this.#width = this.plot.clientWidth || this.#width;
    this.plot.setAttribute('viewBox', `0 0 ${this.#width} ${HEIGHT}`);
    const priced = points.map((point) => ({ ...point, cost: point.costs[this.#cost], isOut: !point.isTeacher && missed(point.costs, this.#bounds).length > 0 }));
    const known = /** @type {KnownPoint[]} */ (priced.filter(({ cost, top1 }) => isNumber(cost) && cost > 0 && isNumber(top1)));
    this.element.dataset.points = String(known.length);
    this.plot.replaceChildren();
    setText(this.key, this.#keyOf(known, points));
    if (known.length === 0) {
      this.plot.setAttribute('aria-label', 'No job has a value yet');
      return;
    }
    const x = scale(known.map(({ cost }) => Math.log10(cost)), PLOT.left, this.#right, 0.15);
    const reach = known.flatMap(({ top1, deviation }) => [top1 - (deviation ?? 0), top1 + (deviation ?? 0)]);
    const y = scale(reach, PLOT.bottom, PLOT.top, 0.5);
    this.#grid(x, y);
    this.#drawBound(x);
    known.forEach((point) => this.#mark(point, x(Math.log10(point.cost)), y));
    this.#names(known.map(({ label, cost, top1 }) => ({ label, x: x(Math.log10(cost)), y: y(top1) })), known, points);
    const { text } = COSTS[this.#cost];
    this.plot.setAttribute('aria-label', known.map(({ label, cost, top1, isOut }) => `${label}: ${percent(top1)} with ${text(cost)}${isOut ? ', does not qualify' : ''}`).join('; '));
  }

  /**
   * What the marks mean, and what is missing.
   * @param {KnownPoint[]} known
   * @param {ScatterPoint[]} points
   */
  #keyOf(known, points) {
    const parts = [KEY];
    const isLatency = this.#cost.startsWith('latency');
    const unmeasured = points.filter(({ costs, isTeacher }) => !isTeacher && !isNumber(costs[this.#cost])).length;
    if (unmeasured > 0) parts.push(`${unmeasured} not ${isLatency ? 'measured' : 'known'} yet`);
    const cpus = new Set(isLatency ? known.flatMap(({ cpu }) => cpu ?? []) : []);
    if (cpus.size === 1) parts.push([...cpus][0]);
    if (cpus.size > 1) parts.push(`measured on ${cpus.size} different CPUs, which cannot be compared`);
    if (Object.values(this.#bounds).some(isNumber)) {
      const students = known.filter(({ isTeacher }) => !isTeacher);
      parts.push(`${students.filter(({ isOut }) => !isOut).length} of ${students.length} qualify; hollow ones do not`);
    }
    return parts.join(' · ');
  }

  /** @param {Scale} x of logarithms */
  #drawBound(x) {
    const bound = this.#bounds[this.#cost];
    if (!isNumber(bound)) return;
    const at = x(Math.log10(bound));
    if (at < PLOT.left || at > this.#right) return;
    this.plot.append(svg('line', { class: 'scatter-limit', x1: at, x2: at, y1: PLOT.top, y2: PLOT.bottom }));
  }

  get #right() {
    return this.#width - PLOT.right;
  }

  /**
   * @param {Scale} x of logarithms
   * @param {Scale} y
   */
  #grid(x, y) {
    for (const value of ticks(y.low, y.high)) {
      const at = y(value);
      this.plot.append(svg('line', { class: 'scatter-grid', x1: PLOT.left, x2: this.#right, y1: at, y2: at }),
        svg('text', { class: 'scatter-tick', x: PLOT.left - 8, y: at + 4, 'text-anchor': 'end' }, `${value} %`));
    }
    for (const value of logTicks(10 ** x.low, 10 ** x.high)) {
      const at = x(Math.log10(value));
      this.plot.append(svg('line', { class: 'scatter-grid', x1: at, x2: at, y1: PLOT.top, y2: PLOT.bottom }),
        svg('text', { class: 'scatter-tick', x: at, y: PLOT.bottom + 18, 'text-anchor': 'middle' }, COSTS[this.#cost].tick(value)));
    }
    this.plot.append(svg('text', { class: 'scatter-tick', x: (PLOT.left + this.#right) / 2, y: HEIGHT - 8, 'text-anchor': 'middle' }, `${COSTS[this.#cost].axis} (logarithmic)`));
  }

  /**
   * @param {KnownPoint} point
   * @param {number} cx
   * @param {Scale} y
   */
  #mark({ label, cost, top1, deviation, colour = '', isTeacher, isOut }, cx, y) {
    const cy = y(top1);
    const text = `${label}: ${percent(top1)}${isNumber(deviation) ? ` ± ${deviation.toFixed(2)}` : ''}, ${COSTS[this.#cost].text(cost)}${isOut ? ', does not qualify' : ''}`;
    const title = svg('title', {}, text);
    if (isNumber(deviation)) {
      this.plot.append(svg('line', { x1: cx, x2: cx, y1: y(top1 - deviation), y2: y(top1 + deviation), stroke: colour, 'stroke-width': 1.5 }));
    }
    const mark = isTeacher
      ? svg('path', { d: `M${cx} ${cy - 7}L${cx + 7} ${cy}L${cx} ${cy + 7}L${cx - 7} ${cy}Z`, class: 'scatter-teacher' }, title)
      : svg('circle', isOut ? { cx, cy, r: 4.75, class: 'scatter-out', stroke: colour } : { cx, cy, r: 5.5, fill: colour }, title);
    // Touch screens show no tool tips.
    mark.addEventListener('click', () => setText(this.key, text));
    this.plot.append(mark);
  }

  /**
   * Writes names beside their points. Every point has its name as a tool tip too.
   * @param {import('./names.js').NamedPoint[]} points
   * @param {KnownPoint[]} known
   * @param {ScatterPoint[]} all
   */
  #names(points, known, all) {
    const placed = placeNames(points, { left: PLOT.left + 2, right: this.#width, top: 0, bottom: PLOT.bottom });
    for (const { text, x, y, anchor } of placed) this.plot.append(svg('text', { class: 'scatter-name', x, y, 'text-anchor': anchor }, text));
    const left = points.length - placed.length;
    const key = this.#keyOf(known, all);
    setText(this.key, left ? `${key} · ${left} ${left === 1 ? 'name has' : 'names have'} no room: point at or tap the marks` : key);
  }

  #save() {
    const copy = /** @type {SVGSVGElement} */ (this.plot.cloneNode(true));
    const originals = [this.plot, ...this.plot.querySelectorAll('*')];
    [copy, ...copy.querySelectorAll('*')].forEach((element, index) => {
      const style = getComputedStyle(originals[index]);
      element.removeAttribute('class');
      for (const property of SAVED_STYLES) element.setAttribute(property, style.getPropertyValue(property));
    });
    copy.prepend(svg('rect', { width: this.#width, height: HEIGHT, fill: token('--surface') }));
    copy.setAttribute('width', String(this.#width));
    save(fileName(`accuracy-against-${this.#cost}`, 'svg'), 'image/svg+xml', new XMLSerializer().serializeToString(copy));
  }
}

/**
 * A linear scale over values with a margin around them.
 * @param {number[]} values
 * @param {number} from in pixels
 * @param {number} to
 * @param {number} minMargin in units of the values
 * @returns {Scale}
 */
function scale(values, from, to, minMargin) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const margin = Math.max((high - low) * 0.12, minMargin);
  const place = (/** @type {number} */ value) => Number((from + ((value - low + margin) / (high - low + 2 * margin)) * (to - from)).toFixed(1));
  return Object.assign(place, { low: low - margin, high: high + margin });
}
