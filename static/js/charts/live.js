// A chart of one job, which grows while the job runs.

import { fill, h, setText } from '../ui/dom.js';
import { duration, significant, tick } from '../ui/format.js';
import { Chart } from './chart.js';
import { align, appendPoints, nearest, smooth } from './series.js';
import { lineDash } from './theme.js';

/** @import uPlot from 'uplot' */
/** @import { ChartView } from './view.js' */
/** @import { Column, Point } from './series.js' */
/** @typedef {{ name: string, label: string, isOptional?: boolean }} Series hidden while it has no points if optional */

/** Opacity, in hexadecimal, of the raw values behind their moving average. */
const FAINT = '48';
/** Distances between the ticks of an axis. */
const DECIMALS = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** (power - 2))).flat();
const BYTES = Array.from({ length: 40 }, (_, power) => 2 ** (power + 10));
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 432000];

export class LiveChart extends Chart {
  #series;
  /** A horizontal line; its value is null until it is known. */
  #reference;
  /** @type {Map<string, Point[]>} */
  #points = new Map();
  /** The legend's entries, that of the reference last. */
  #entries;
  /** @type {{ steps: number[], xs: number[], columns: Column[] }} */
  #aligned = { steps: [], xs: [], columns: [] };

  /**
   * @param {object} options
   * @param {string} options.title
   * @param {string} [options.hint]
   * @param {Series[]} options.series at most five
   * @param {string | null} [options.reference] label of a horizontal line
   * @param {(value: number | null | undefined) => string} [options.format] of a value
   * @param {(value: number) => string} [options.formatTick] of a value on the y axis
   * @param {ChartView} options.view
   * @param {boolean} [options.canLog]
   * @param {boolean} [options.areBytes] puts the ticks of the y axis at powers of two
   * @param {AbortSignal} options.signal
   */
  constructor({ title, hint, series, reference = null, format = significant, formatTick = tick, view, canLog, areBytes = false, signal }) {
    super({ title, hint, view, canLog, signal });
    this.#series = series;
    this.#reference = reference === null ? null : { label: reference, value: /** @type {number | null} */ (null) };
    this.format = format;
    this.formatTick = formatTick;
    this.areBytes = areBytes;
    for (const { name } of series) this.#points.set(name, []);
    this.#entries = series.map(({ label }, index) => legendEntry(label, String(index + 1)));
    if (reference !== null) this.#entries.push(legendEntry(reference, 'reference'));
    fill(this.legend, this.#entries.map(({ element }) => element));
    this.element.dataset.points = '0';
    this.showValues();
  }

  get names() {
    return this.#series.map(({ name }) => name);
  }

  /**
   * @param {string} name of the series
   * @param {Parameters<typeof appendPoints>[1]} points oldest first
   */
  append(name, points) {
    this.#points.set(name, appendPoints(this.#pointsOf(name), points));
    this.schedule();
  }

  clear() {
    for (const name of this.#points.keys()) this.#points.set(name, []);
    this.schedule();
  }

  /** @param {number | null} value */
  setReference(value) {
    if (!this.#reference || this.#reference.value === value) return;
    this.#reference.value = value;
    this.schedule();
  }

  /** @param {string} name */
  #pointsOf(name) {
    return this.#points.get(name) ?? [];
  }

  /** The series that have a place in the legend. */
  get #shown() {
    return this.#series.filter(({ name, isOptional }) => !isOptional || this.#pointsOf(name).length > 0);
  }

  drawing() {
    const all = this.#series.map(({ name }) => this.#pointsOf(name));
    this.#aligned = align(all, this.view.axis, this.view.start);
    if (this.#reference) this.#addReference(this.#reference.value);
    this.element.dataset.points = String(all.reduce((sum, points) => sum + points.length, 0));
    return { data: this.#data(), series: this.#lines() };
  }

  /**
   * The line begins at 0, so that it is visible before there are two points.
   * @param {number | null} value
   */
  #addReference(value) {
    const { steps, xs, columns } = this.#aligned;
    if (value !== null && xs[0] > 0) {
      steps.unshift(0);
      xs.unshift(0);
      for (const column of columns) column.unshift(null);
    }
    columns.push(steps.map(() => value));
  }

  /** @returns {uPlot.AlignedData} x, then of each series its values and their moving average, then the reference */
  #data() {
    const { xs, columns } = this.#aligned;
    // A logarithmic scale has no place for values that are not positive.
    const drawn = columns.map((values) => (this.isLog ? values.map((value) => ((value ?? 0) > 0 ? value : null)) : values));
    const { smoothing } = this.view;
    const own = drawn.slice(0, this.#series.length);
    const pairs = own.flatMap((values) => [values, smoothing > 0 ? smooth(values, smoothing) : values]);
    return [xs, ...pairs, ...drawn.slice(this.#series.length)];
  }

  /** @returns {uPlot.Series[]} */
  #lines() {
    const lines = this.#series.flatMap((_, index) => this.#linesOf(index));
    if (this.#reference) {
      lines.push({ stroke: () => this.colour('--series-reference'), width: 1.5, dash: [6, 5], spanGaps: true, points: { show: false } });
    }
    return [{}, ...lines];
  }

  /**
   * The values, faint if their moving average is drawn over them, and that average.
   * @param {number} index of the series
   * @returns {uPlot.Series[]}
   */
  #linesOf(index) {
    const colour = () => this.colour(`--series-${index + 1}`);
    const behind = () => (this.view.smoothing > 0 ? `${colour()}${FAINT}` : colour());
    const dash = lineDash(index);
    return [
      { stroke: behind, width: 2, dash, spanGaps: true, points: { size: 5, fill: behind, stroke: behind } },
      { stroke: () => (this.view.smoothing > 0 ? colour() : 'transparent'), width: 2, dash, spanGaps: true, points: { show: false } },
    ];
  }

  /** @returns {uPlot.Axis} */
  xAxis() {
    return {
      incrs: () => (this.view.axis === 'time' ? SECONDS : DECIMALS),
      values: (_, splits) => splits.map((split) => this.#formatX(split)),
    };
  }

  /** @returns {uPlot.Axis} */
  yAxis() {
    return {
      ...(this.areBytes ? { incrs: BYTES } : {}),
      // uPlot leaves out ticks of a logarithmic scale by null.
      values: (_, splits) => splits.map((split) => (split === null ? '' : this.formatTick(split))),
    };
  }

  /** @returns {uPlot.Cursor} */
  cursor() {
    return { dataIdx: (plot, series, index) => (series === 0 ? index : nearest(plot.data[series], index) ?? index) };
  }

  /** @param {number} x */
  #formatX(x) {
    return this.view.axis === 'time' ? duration(x) : tick(x);
  }

  showValues() {
    const { steps, xs, columns } = this.#aligned;
    const pointed = this.plot?.cursor.idx ?? null;
    const row = pointed ?? steps.length - 1;
    const shown = new Set(this.#shown);
    this.#entries.forEach(({ element, value }, index) => {
      const column = columns[index] ?? [];
      const place = nearest(column, Math.min(row, column.length - 1));
      const series = this.#series[index];
      element.hidden = series !== undefined && !shown.has(series);
      // A value of another step says so; the reference is the same at every step.
      const where = place !== null && place !== row && series !== undefined ? ` at step ${steps[place]}` : '';
      setText(value, place === null ? '–' : `${this.format(column[place])}${where}`);
    });
    setText(this.where, steps.length ? `${pointed === null ? 'latest: ' : ''}${this.#place(xs[row])}step ${steps[row]}` : '');
  }

  /** @param {number} x */
  #place(x) {
    const { axis } = this.view;
    if (axis === 'step') return '';
    return `${axis} ${this.#formatX(axis === 'epoch' ? Number(x.toFixed(2)) : x)} · `;
  }

  describe() {
    const parts = this.#shown.map(({ name, label }) => {
      const last = this.#pointsOf(name).at(-1);
      return last ? `${label} ${this.format(last.value)} at epoch ${tick(Number(last.epoch.toFixed(2)))}` : `${label}: no points yet`;
    });
    if (this.#reference && this.#reference.value !== null) parts.push(`${this.#reference.label} ${this.format(this.#reference.value)}`);
    return parts.join('; ');
  }

  /** The points as they arrived, without smoothing. */
  rows() {
    const rows = this.#series.flatMap(({ name }) => this.#pointsOf(name).map(({ step, epoch, time, value }) =>
      [name, step, epoch, new Date(time).toISOString(), value]));
    return [['series', 'step', 'epoch', 'time', 'value'], ...rows];
  }

  legendEntries() {
    const entries = this.#shown.map((series) => ({ label: series.label, colour: this.colour(`--series-${this.#series.indexOf(series) + 1}`) }));
    if (this.#reference) entries.push({ label: this.#reference.label, colour: this.colour('--series-reference') });
    return entries;
  }
}

/**
 * @param {string} label
 * @param {string} swatch number of the series, or `reference`
 */
function legendEntry(label, swatch) {
  const value = h('span', { class: 'legend-value' }, '–');
  const element = h('li', {}, h('span', { class: 'swatch', 'data-series': swatch, 'aria-hidden': 'true' }), h('span', {}, label), value);
  return { element, value };
}
