// Accuracy against size: a scatter plot in SVG.

import { fileName, save } from '../charts/export.js';
import { svg } from '../charts/svg.js';
import { logTicks, ticks } from '../charts/ticks.js';
import { token } from '../charts/theme.js';
import { h, setText } from '../ui/dom.js';
import { count, isNumber, percent } from '../ui/format.js';
import { placeNames } from './names.js';

/** @import { Maybe } from '../ui/format.js' */
/**
 * @typedef {object} ScatterPoint
 * @property {string} label
 * @property {Maybe} parameters
 * @property {Maybe} top1 in percent
 * @property {Maybe} [deviation] drawn as an error bar
 * @property {string} [colour]
 * @property {boolean} [isTeacher]
 */
/** @typedef {ScatterPoint & { parameters: number, top1: number }} KnownPoint */
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

  /** @param {AbortSignal} signal */
  constructor(signal) {
    this.key = h('span', { class: 'chart-where' }, KEY);
    this.plot = svg('svg', { class: 'scatter', height: HEIGHT, role: 'img', 'aria-label': 'No job has been evaluated yet' });
    this.element = h('section', { class: 'card chart', 'aria-label': 'Accuracy against parameters', 'data-points': 0 },
      h('header', {}, h('h3', {}, 'Accuracy against parameters'), this.key,
        h('span', {}, h('button', { type: 'button', class: 'quiet copy', title: 'Download the chart as a drawing', onclick: () => this.#save() }, 'SVG'))),
      this.plot);
    const observer = new ResizeObserver(() => this.show(this.#points));
    observer.observe(this.plot);
    signal.addEventListener('abort', () => observer.disconnect());
  }

  /**
   * Points without an accuracy or a size are left out.
   * @param {ScatterPoint[]} points
   */
  show(points) {
    this.#points = points;
    this.#width = this.plot.clientWidth || this.#width;
    this.plot.setAttribute('viewBox', `0 0 ${this.#width} ${HEIGHT}`);
    const known = /** @type {KnownPoint[]} */ (points.filter(({ parameters, top1 }) => isNumber(parameters) && isNumber(top1)));
    this.element.dataset.points = String(known.length);
    this.plot.replaceChildren();
    if (known.length === 0) return;
    const x = scale(known.map(({ parameters }) => Math.log10(parameters)), PLOT.left, this.#right, 0.15);
    const reach = known.flatMap(({ top1, deviation }) => [top1 - (deviation ?? 0), top1 + (deviation ?? 0)]);
    const y = scale(reach, PLOT.bottom, PLOT.top, 0.5);
    this.#grid(x, y);
    known.forEach((point) => this.#mark(point, x(Math.log10(point.parameters)), y));
    this.#names(known.map(({ label, parameters, top1 }) => ({ label, x: x(Math.log10(parameters)), y: y(top1) })));
    this.plot.setAttribute('aria-label', known.map(({ label, parameters, top1 }) => `${label}: ${percent(top1)} with ${count(parameters)} parameters`).join('; '));
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
        svg('text', { class: 'scatter-tick', x: at, y: PLOT.bottom + 18, 'text-anchor': 'middle' }, count(value)));
    }
    this.plot.append(svg('text', { class: 'scatter-tick', x: (PLOT.left + this.#right) / 2, y: HEIGHT - 8, 'text-anchor': 'middle' }, 'parameters (logarithmic)'));
  }

  /**
   * @param {KnownPoint} point
   * @param {number} cx
   * @param {Scale} y
   */
  #mark({ label, parameters, top1, deviation, colour = '', isTeacher }, cx, y) {
    const cy = y(top1);
    const text = `${label}: ${percent(top1)}${isNumber(deviation) ? ` ± ${deviation.toFixed(2)}` : ''}, ${count(parameters)} parameters`;
    const title = svg('title', {}, text);
    if (isNumber(deviation)) {
      this.plot.append(svg('line', { x1: cx, x2: cx, y1: y(top1 - deviation), y2: y(top1 + deviation), stroke: colour, 'stroke-width': 1.5 }));
    }
    const mark = isTeacher
      ? svg('path', { d: `M${cx} ${cy - 7}L${cx + 7} ${cy}L${cx} ${cy + 7}L${cx - 7} ${cy}Z`, class: 'scatter-teacher' }, title)
      : svg('circle', { cx, cy, r: 5.5, fill: colour }, title);
    // Touch screens show no tool tips.
    mark.addEventListener('click', () => setText(this.key, text));
    this.plot.append(mark);
  }

  /**
   * Writes names beside their points. Every point has its name as a tool tip too.
   * @param {import('./names.js').NamedPoint[]} points
   */
  #names(points) {
    const placed = placeNames(points, { left: PLOT.left + 2, right: this.#width, top: 0, bottom: PLOT.bottom });
    for (const { text, x, y, anchor } of placed) this.plot.append(svg('text', { class: 'scatter-name', x, y, 'text-anchor': anchor }, text));
    const left = points.length - placed.length;
    setText(this.key, left ? `${KEY} · ${left} ${left === 1 ? 'name has' : 'names have'} no room: point at or tap the marks` : KEY);
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
    save(fileName('accuracy-against-parameters', 'svg'), 'image/svg+xml', new XMLSerializer().serializeToString(copy));
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
