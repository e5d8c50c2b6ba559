// A chart with one series of several jobs, or of groups of jobs with a band of one standard deviation.

import { fill, h, setText } from '../ui/dom.js';
import { significant, tick } from '../ui/format.js';
import { Chart } from './chart.js';
import { smooth } from './series.js';
import { lineColour, lineDash, styleSwatch } from './theme.js';
import uPlot from './uplot.js';

/** @import { Column } from './series.js' */
/** @import { ChartView } from './view.js' */
/** @typedef {{ xs: number[], ys: Column, low?: Column, high?: Column }} Curve with a band if it has `low` and `high` */
/** @typedef {Curve & { label: string }} Line */
/** @typedef {Curve & { faint?: Column }} DrawnLine `faint` are the raw values behind a smoothed line */

/** Loss and learning rate fall by powers of ten; accuracies and shares do not. */
const canLog = (/** @type {string} */ name) => /loss|^lr$/.test(name);

export class OverlayChart extends Chart {
  /** @type {Line[]} */
  #lines = [];
  /** @type {HTMLElement[]} */
  #values = [];
  #xLabel = 'epoch';

  /**
   * @param {string} name of the series
   * @param {{ view: ChartView, signal: AbortSignal }} options
   */
  constructor(name, { view, signal }) {
    super({ title: name, view, canLog: canLog(name), signal });
    this.element.dataset.lines = '0';
  }

  get xLabel() {
    return this.#xLabel;
  }

  /**
   * @param {Line[]} lines
   * @param {string} xLabel
   */
  show(lines, xLabel) {
    this.#lines = lines;
    this.#xLabel = xLabel;
    this.#values = lines.map(() => h('span', { class: 'legend-value' }));
    fill(this.legend, lines.map(({ label }, index) => {
      const swatch = h('span', { class: 'swatch', 'aria-hidden': 'true' });
      styleSwatch(swatch, index);
      return h('li', {}, swatch, h('span', { class: 'legend-label', title: label }, label), this.#values[index]);
    }));
    this.schedule();
  }

  drawing() {
    const lines = this.#lines.map((line) => this.#drawn(line));
    const count = lines.filter(({ xs }) => xs.length > 0).length;
    this.element.dataset.lines = String(count);
    return {
      data: count > 0 ? joinLines(lines) : /** @type {uPlot.AlignedData} */ ([[]]),
      ...seriesOf(lines),
      kind: lines.map((line) => (line.low ? 'band' : line.faint ? 'faint' : isDot(line) ? 'dot' : 'line')).join(),
    };
  }

  /**
   * A line as it is drawn: smoothed, and without values that have no logarithm on a logarithmic scale.
   * @param {Line} line
   * @returns {DrawnLine}
   */
  #drawn({ xs, ys, low, high }) {
    const { smoothing } = this.view;
    const positive = (/** @type {Column} */ values) => (this.isLog ? values.map((value) => ((value ?? 0) > 0 ? value : null)) : values);
    const smoothed = (/** @type {Column} */ values) => positive(smoothing > 0 ? smooth(values, smoothing) : values);
    if (low && high) return { xs, ys: smoothed(ys), low: smoothed(low), high: smoothed(high) };
    return { xs, ys: smoothed(ys), faint: smoothing > 0 ? positive(ys) : undefined };
  }

  /** @returns {uPlot.Axis} */
  xAxis() {
    return { values: (_, splits) => splits.map(tick) };
  }

  /** @returns {uPlot.Axis} */
  yAxis() {
    return { values: (_, splits) => splits.map(tick) };
  }

  /**
   * Every line has its own x: the value shown is that of its point nearest to the cross-hair, or its last. Where these
   * points differ in x, each value says its own.
   */
  showValues() {
    const left = this.plot?.cursor.left ?? -1;
    const x = this.plot && left >= 0 ? this.plot.posToVal(left, 'x') : null;
    const places = this.#lines.map(({ xs, ys }) => (x === null ? ys.length - 1 : nearestPlace(xs, x)));
    const at = places.map((place, index) => (place < 0 ? null : tick(Number(this.#lines[index].xs[place].toPrecision(4)))));
    const known = new Set(at.filter((one) => one !== null));
    const [common] = known.size === 1 ? known : [];
    this.#lines.forEach(({ ys }, index) => {
      const where = common === undefined ? ` at ${at[index]}` : '';
      setText(this.#values[index], places[index] < 0 ? '–' : `${significant(ys[places[index]])}${where}`);
    });
    const pointed = common ?? (x === null ? null : tick(Number(x.toPrecision(4))));
    const parts = [x === null ? 'latest' : null, pointed === null ? null : `${this.#xLabel} ${pointed}`];
    setText(this.where, parts.filter(Boolean).join(': '));
  }

  describe() {
    const parts = this.#lines.map(({ label, ys }) => `${label} ${ys.length ? significant(ys.at(-1)) : 'no points'}`);
    return `by ${this.#xLabel}: ${parts.join('; ')}`;
  }

  rows() {
    const rows = this.#lines.flatMap(({ label, xs, ys }) => xs.map((x, index) => [label, this.title, x, ys[index] ?? null]));
    return [['job', 'series', this.#xLabel, 'value'], ...rows];
  }

  legendEntries() {
    return this.#lines.map(({ label }, index) => ({ label, colour: lineColour(index) }));
  }
}

/**
 * All lines on one x axis, null for a gap: the columns of the lines, of the raw values behind them, and of the bands,
 * in the order of `seriesOf`.
 * @param {DrawnLine[]} lines
 * @returns {uPlot.AlignedData}
 */
function joinLines(lines) {
  const columns = lines.map(({ xs, ys }) => [xs, ys]);
  const faint = lines.flatMap(({ xs, faint: values }) => (values ? [[xs, values]] : []));
  const bands = lines.flatMap(({ xs, low, high }) => (low && high ? [[xs, low], [xs, high]] : []));
  return uPlot.join(/** @type {uPlot.AlignedData[]} */ ([...columns, ...faint, ...bands]));
}

/**
 * @param {DrawnLine[]} lines
 * @returns {{ series: uPlot.Series[], bands: uPlot.Band[] }}
 */
function seriesOf(lines) {
  const mixed = (/** @type {number} */ index, /** @type {number} */ share) => `color-mix(in srgb, ${lineColour(index)} ${share}%, transparent)`;
  /** @type {uPlot.Series} */
  const common = { spanGaps: true, points: { show: false } };
  const indices = [...lines.keys()];
  const faint = indices.filter((index) => lines[index].faint);
  const banded = indices.filter((index) => lines[index].low);
  const before = lines.length + faint.length;
  return {
    series: [
      {},
      ...indices.map((index) => ({ ...common, ...(isDot(lines[index]) ? dot(index) : {}), stroke: () => lineColour(index), width: 1.75, dash: lineDash(index) })),
      ...faint.map((index) => ({ ...common, stroke: () => mixed(index, 28), width: 1.5 })),
      ...banded.flatMap(() => [common, common]),
    ],
    bands: banded.map((index, place) => ({
      series: [before + 2 + 2 * place, before + 1 + 2 * place], fill: () => mixed(index, 16),
    })),
  };
}

/**
 * Whether a line has a single value, which no stroke shows.
 * @param {DrawnLine} line
 */
function isDot({ ys }) {
  return ys.filter((value) => value != null).length === 1;
}

/**
 * @param {number} index
 * @returns {Partial<uPlot.Series>}
 */
function dot(index) {
  const colour = () => lineColour(index);
  return { points: { show: true, size: 8, fill: colour, stroke: colour } };
}

/**
 * The index of the point nearest to `x`; -1 if there are no points.
 * @param {number[]} xs
 * @param {number} x
 */
function nearestPlace(xs, x) {
  let best = -1;
  xs.forEach((at, index) => {
    if (best < 0 || Math.abs(at - x) < Math.abs(xs[best] - x)) best = index;
  });
  return best;
}
