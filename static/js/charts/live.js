// One chart: uPlot with live data, the theme's colours, and values that follow the cross-hair.

import uPlot, { yScale } from './uplot.js';

import { ChartView, cursorOf, saveButtons, steer, zoomTo } from './view.js';
import { h, setText } from '../ui/dom.js';
import { duration, significant, tick } from '../ui/format.js';
import { align, appendPoints, nearest, smooth } from './series.js';

const HEIGHT = 220;
const DASHES = [null, [8, 4], [3, 3], [10, 3, 2, 3], [1, 4]];
/** Opacity, in hexadecimal, of the values behind their moving average. */
const FAINT = '48';
/** Steps between the ticks of an axis. */
const DECIMALS = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** (power - 2))).flat();
const BYTES = Array.from({ length: 40 }, (_, power) => 2 ** (power + 10));
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 432000];
const dark = window.matchMedia('(prefers-color-scheme: dark)');

/** A colour of the theme in force. */
function token(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class Chart {
  #series;
  #reference;
  #view;
  #canLog;
  #points = new Map();
  #legend = [];
  #aligned = { steps: [], data: [] };
  #plot = null;
  #isLog = false;
  #frame = null;
  #colours = new Map();

  /**
   * `series`: `[{name, label, isOptional}]`, at most five; one that is optional is not named before it has points.
   * `reference`: `{label, value}` draws a horizontal line, with `value` null until it is known. `format` writes a value,
   * `formatTick` one at the axis; the ticks of bytes (`areBytes`) are powers of two. `view` is shared by the charts that
   * move together; `canLog` lets it choose a logarithmic scale here. `signal` ends it all.
   */
  constructor({ title, hint, series, reference = null, format = significant, formatTick = tick, view = new ChartView(), canLog = false, areBytes = false, signal }) {
    this.#series = series;
    this.#reference = reference;
    this.#view = view;
    this.#canLog = canLog;
    this.format = format;
    this.formatTick = formatTick;
    this.areBytes = areBytes;
    for (const { name } of series) this.#points.set(name, []);
    const labels = [...series.map(({ label }) => label), ...(reference ? [reference.label] : [])];
    this.where = h('span', { class: 'chart-where' });
    this.legend = h('ul', { class: 'legend' }, labels.map((label, index) => this.#legendEntry(label, index)));
    this.empty = h('p', { class: 'chart-empty' }, 'No points yet');
    this.canvas = h('div', { class: 'chart-plot', role: 'img', tabindex: '0', 'aria-label': `${title}: no points yet` }, this.empty);
    this.title = title;
    this.element = h('section', { class: 'card chart', 'aria-label': title, 'data-points': 0 },
      h('header', {}, h('h3', { title: hint }, title), this.where, saveButtons({ csv: () => this.#saveCsv(), png: () => this.#savePng() })), this.legend, this.canvas);
    steer(this.canvas, view, () => this.#plot);
    this.#watch(signal);
  }

  get names() {
    return this.#series.map(({ name }) => name);
  }

  /** Adds points, oldest first, to the series of that name; drawn with the next frame. */
  append(name, points) {
    this.#points.set(name, appendPoints(this.#points.get(name), points));
    this.#draw();
  }

  clear() {
    for (const name of this.#points.keys()) this.#points.set(name, []);
    this.#draw();
  }

  setReference(value) {
    if (this.#reference.value === value) return;
    this.#reference.value = value;
    this.#draw();
  }

  #legendEntry(label, index) {
    const value = h('span', { class: 'legend-value' }, '–');
    this.#legend.push(value);
    const reference = index === this.#series.length;
    return h('li', { hidden: Boolean(this.#series[index]?.isOptional) }, h('span', { class: 'swatch', 'data-series': reference ? 'reference' : index + 1, 'aria-hidden': 'true' }),
      h('span', {}, label), value);
  }

  #watch(signal) {
    const resize = new ResizeObserver(() => this.#resize());
    resize.observe(this.canvas);
    const recolour = () => {
      this.#colours.clear();
      this.#plot?.redraw();
    };
    dark.addEventListener('change', recolour, { signal });
    this.#view.addEventListener('change', () => this.#draw(), { signal });
    signal.addEventListener('abort', () => {
      resize.disconnect();
      cancelAnimationFrame(this.#frame);
      this.#plot?.destroy();
      this.#plot = null;
    });
  }

  #isShown({ name, isOptional }) {
    return !isOptional || this.#points.get(name).length > 0;
  }

  /** However many messages come, one drawing per frame. */
  #draw() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#render();
    });
  }

  #render() {
    const all = this.#series.map(({ name }) => this.#points.get(name));
    const total = all.reduce((sum, points) => sum + points.length, 0);
    this.#aligned = align(all, this.#view.axis, this.#view.start);
    if (this.#reference) this.#addReference();
    this.element.dataset.points = String(total);
    const x = this.#aligned.data[0];
    this.#view.report(this, x.length ? [x[0], x.at(-1)] : null);
    this.empty.hidden = total > 0;
    if (total === 0 && !this.#plot) {
      this.#showValues(null);
      return;
    }
    const isLog = this.#canLog && this.#view.log;
    if (this.#plot && isLog !== this.#isLog) {
      this.#plot.destroy();
      this.#plot = null;
    }
    this.#isLog = isLog;
    this.element.dataset.scale = isLog ? 'log' : 'linear';
    if (!this.#plot) this.#plot = new uPlot(this.#options(), this.#columns(), this.canvas);
    this.#update();
    this.#showValues(this.#plot.cursor.idx);
    this.#describe();
  }

  /** The line runs from the first epoch to the last, before there are two points to lay it through. */
  #addReference() {
    const { steps, data } = this.#aligned;
    const value = this.#reference.value ?? null;
    if (steps.length > 0 && value !== null && data[0][0] > 0) {
      steps.unshift(0);
      data[0].unshift(0);
      for (const values of data.slice(1)) values.unshift(null);
    }
    data.push(steps.map(() => value));
  }

  /** What uPlot draws: x, then of each series its values and their moving average, then the reference. */
  #columns() {
    const { data: [x, ...columns] } = this.#aligned;
    // A logarithmic scale has no place for what is not positive.
    const drawn = columns.map((values) => (this.#isLog ? values.map((value) => (value > 0 ? value : null)) : values));
    const { smoothing } = this.#view;
    const own = drawn.slice(0, this.#series.length);
    const averages = own.map((values) => (smoothing > 0 ? smooth(values, smoothing) : values));
    return [x, ...own.flatMap((values, index) => [values, averages[index]]), ...drawn.slice(this.#series.length)];
  }

  /** New points widen the view, unless the user has zoomed into a part of it. */
  #update() {
    const { range, extent } = this.#view;
    const shown = range ?? extent;
    this.#plot.setData(this.#columns(), shown === null);
    if (shown) this.#plot.setScale('x', { min: shown[0], max: shown[1] });
    this.element.dataset.zoomed = String(range !== null);
  }

  #options() {
    const axis = (more) => ({
      stroke: () => this.#colour('--muted'),
      grid: { stroke: () => this.#colour('--grid'), width: 1 },
      ticks: { show: false },
      font: '12px system-ui, sans-serif',
      ...more,
    });
    return {
      width: Math.max(this.canvas.clientWidth, 100),
      height: HEIGHT,
      padding: [8, 14, 0, 0],
      legend: { show: false },
      cursor: {
        ...cursorOf(this.#view),
        dataIdx: (plot, series, index) => (series === 0 ? index : nearest(plot.data[series], index) ?? index),
        points: { size: 7 },
      },
      scales: { x: { time: false }, y: yScale(this.#isLog) },
      axes: [axis({
        label: () => this.#view.axis, labelSize: 18, labelFont: '12px system-ui, sans-serif', size: 28,
        incrs: () => (this.#view.axis === 'time' ? SECONDS : DECIMALS),
        values: (_, splits) => splits.map((split) => this.#writeX(split)),
      }), axis({ size: 58, ...(this.areBytes ? { incrs: BYTES } : {}), values: (_, splits) => splits.map((split) => (split === null ? '' : this.formatTick(split))) })],
      series: [{}, ...this.#series.flatMap((_, index) => this.#lines(index)), ...(this.#reference ? [this.#referenceLine()] : [])],
      hooks: {
        setCursor: [(plot) => this.#showValues(plot.cursor.idx)],
        setSelect: [(plot) => zoomTo(plot, this.#view)],
      },
    };
  }

  #writeX(value) {
    return this.#view.axis === 'time' ? duration(value) : tick(value);
  }

  /** The values, faint where their moving average is drawn over them. */
  #lines(index) {
    const colour = () => this.#colour(`--series-${index + 1}`);
    const behind = () => (this.#view.smoothing > 0 ? `${colour()}${FAINT}` : colour());
    const dash = DASHES[index] ?? undefined;
    return [
      { stroke: behind, width: 2, dash, spanGaps: true, points: { size: 5, fill: behind, stroke: behind } },
      { stroke: () => (this.#view.smoothing > 0 ? colour() : 'transparent'), width: 2, dash, spanGaps: true, points: { show: false } },
    ];
  }

  #referenceLine() {
    return { stroke: () => this.#colour('--series-reference'), width: 1.5, dash: [6, 5], spanGaps: true, points: { show: false } };
  }

  #colour(name) {
    if (!this.#colours.has(name)) this.#colours.set(name, token(name));
    return this.#colours.get(name);
  }

  #resize() {
    const width = this.canvas.clientWidth;
    if (this.#plot && width > 0 && Math.abs(width - this.#plot.width) >= 1) this.#plot.setSize({ width, height: HEIGHT });
  }

  /** The values at the cross-hair, or the latest. */
  #showValues(index) {
    const { steps, data } = this.#aligned;
    const at = index ?? steps.length - 1;
    this.#legend.forEach((entry, column) => {
      const values = data[column + 1] ?? [];
      const there = nearest(values, Math.min(at, values.length - 1));
      entry.parentElement.hidden = column < this.#series.length && !this.#isShown(this.#series[column]);
      setText(entry, there === null ? '–' : this.format(values[there]));
    });
    const x = data[0]?.[at];
    const shown = Number.isFinite(x) ? this.#writeX(this.#view.axis === 'epoch' ? Number(x.toFixed(2)) : x) : '';
    const place = this.#view.axis === 'step' ? '' : `${this.#view.axis} ${shown} · `;
    setText(this.where, steps.length ? `${index == null ? 'latest: ' : ''}${place}step ${steps[at]}` : '');
  }

  /** What came, not what is drawn of it: no moving average. */
  async #saveCsv() {
    const { csv, fileName, save } = await import('./export.js');
    const rows = this.#series.flatMap(({ name }) => this.#points.get(name).map((point) => [name, point.step, point.epoch, new Date(point.time).toISOString(), point.value]));
    save(fileName(this.title, 'csv'), 'text/csv', csv([['series', 'step', 'epoch', 'time', 'value'], ...rows]));
  }

  async #savePng() {
    if (!this.#plot) return;
    const { fileName, png, save } = await import('./export.js');
    const legend = this.#series.filter((one) => this.#isShown(one)).map(({ label }, index) => ({ label, colour: this.#colour(`--series-${index + 1}`) }));
    if (this.#reference) legend.push({ label: this.#reference.label, colour: this.#colour('--series-reference') });
    const title = `${this.title} by ${this.#view.axis}`;
    save(fileName(this.title, 'png'), 'image/png', await png(this.#plot.ctx.canvas, title, legend, { background: token('--surface'), text: token('--text') }));
  }

  #describe() {
    const parts = this.#series.filter((one) => this.#isShown(one)).map(({ name, label }) => {
      const last = this.#points.get(name).at(-1);
      return last ? `${label} ${this.format(last.value)} at epoch ${tick(Number(last.epoch.toFixed(2)))}` : `${label}: no points yet`;
    });
    const { label, value } = this.#reference ?? {};
    if (Number.isFinite(value)) parts.push(`${label} ${this.format(value)}`);
    this.canvas.setAttribute('aria-label', `${this.title}: ${parts.join('; ')}`);
  }
}
