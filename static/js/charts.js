// One chart: uPlot with live data, the theme's colours, and values that follow the cross-hair.

import uPlot from '/vendor/uplot/uPlot.esm.js';

import { h, setText } from './dom.js';
import { significant, tick } from './format.js';
import { align, appendPoints, nearest } from './series.js';

const HEIGHT = 220;
const DASHES = [null, [8, 4], [3, 3], [10, 3, 2, 3], [1, 4]];
const dark = window.matchMedia('(prefers-color-scheme: dark)');

/** A colour of the theme in force. */
function token(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class Chart {
  #series;
  #reference;
  #points = new Map();
  #legend = [];
  #aligned = { steps: [], data: [] };
  #plot = null;
  #frame = null;
  #colours = new Map();

  /**
   * `series`: `[{name, label}]`, at most five. `reference`: `{label, value}` draws a horizontal line, with `value`
   * null until it is known. `format` writes a value, `formatTick` one at the axis; `signal` ends it all.
   */
  constructor({ title, hint, series, reference = null, format = significant, formatTick = tick, signal }) {
    this.#series = series;
    this.#reference = reference;
    this.format = format;
    this.formatTick = formatTick;
    for (const { name } of series) this.#points.set(name, []);
    const labels = [...series.map(({ label }) => label), ...(reference ? [reference.label] : [])];
    this.where = h('span', { class: 'chart-where' });
    this.legend = h('ul', { class: 'legend' }, labels.map((label, index) => this.#legendEntry(label, index)));
    this.empty = h('p', { class: 'chart-empty' }, 'No points yet');
    this.canvas = h('div', { class: 'chart-plot', role: 'img', 'aria-label': `${title}: no points yet` }, this.empty);
    this.title = title;
    this.element = h('section', { class: 'card chart', 'aria-label': title, 'data-points': 0 },
      h('header', {}, h('h3', { title: hint }, title), this.where), this.legend, this.canvas);
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
    return h('li', {}, h('span', { class: 'swatch', 'data-series': reference ? 'reference' : index + 1, 'aria-hidden': 'true' }),
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
    signal.addEventListener('abort', () => {
      resize.disconnect();
      cancelAnimationFrame(this.#frame);
      this.#plot?.destroy();
      this.#plot = null;
    });
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
    this.#aligned = align(all);
    if (this.#reference) this.#addReference();
    this.element.dataset.points = String(total);
    this.empty.hidden = total > 0;
    if (total === 0 && !this.#plot) {
      this.#showValues(null);
      return;
    }
    if (!this.#plot) this.#create();
    else this.#update();
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

  /** New points widen the view, unless the user has zoomed into a part of it. */
  #update() {
    const { scales: { x: { min, max } }, data: [epochs] } = this.#plot;
    if (min <= epochs[0] && max >= epochs.at(-1)) {
      this.#plot.setData(this.#aligned.data);
      return;
    }
    this.#plot.setData(this.#aligned.data, false);
    this.#plot.setScale('x', { min, max });
  }

  #create() {
    this.#plot = new uPlot(this.#options(), this.#aligned.data, this.canvas);
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
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        sync: { key: 'epochs', scales: ['x', null] },
        drag: { x: true, y: false },
        dataIdx: (plot, series, index) => (series === 0 ? index : nearest(plot.data[series], index) ?? index),
        points: { size: 7 },
      },
      scales: { x: { time: false } },
      axes: [
        axis({ label: 'epoch', labelSize: 18, labelFont: '12px system-ui, sans-serif', size: 28, values: (_, splits) => splits.map(tick) }),
        axis({ size: 58, values: (_, splits) => splits.map(this.formatTick) }),
      ],
      series: [{}, ...this.#series.map((_, index) => this.#line(index)), ...(this.#reference ? [this.#referenceLine()] : [])],
      hooks: {
        setCursor: [(plot) => this.#showValues(plot.cursor.idx)],
      },
    };
  }

  #line(index) {
    const colour = () => this.#colour(`--series-${index + 1}`);
    return { stroke: colour, width: 2, dash: DASHES[index] ?? undefined, spanGaps: true, points: { size: 5, fill: colour, stroke: colour } };
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
      setText(entry, there === null ? '–' : this.format(values[there]));
    });
    setText(this.where, steps.length ? `${index == null ? 'latest: ' : ''}epoch ${tick(Number(data[0][at]?.toFixed(2)))} · step ${steps[at]}` : '');
  }

  #describe() {
    const parts = this.#series.map(({ name, label }) => {
      const last = this.#points.get(name).at(-1);
      return last ? `${label} ${this.format(last.value)} at epoch ${tick(Number(last.epoch.toFixed(2)))}` : `${label}: no points yet`;
    });
    const { label, value } = this.#reference ?? {};
    if (Number.isFinite(value)) parts.push(`${label} ${this.format(value)}`);
    this.canvas.setAttribute('aria-label', `${this.title}: ${parts.join('; ')}`);
  }
}
