// One series of several jobs in one chart, with a cross-hair that all such charts share.

import uPlot, { yScale } from './uplot.js';

import { fill, h, setStyle, setText } from '../ui/dom.js';
import { cursorOf, saveButtons, steer, zoomTo } from './view.js';
import { csv, fileName, png, save } from './export.js';
import { significant, tick } from '../ui/format.js';
import { smooth } from './series.js';

const HEIGHT = 260;
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The colour of the nth line: those of the theme, then others as far from each other as they can be. */
export function lineColour(index) {
  if (index < 5) return token(`--series-${index + 1}`);
  return `hsl(${Math.round(index * 137.5) % 360} 60% ${dark.matches ? 70 : 34}%)`;
}

/** Lines are told apart without their colours too. */
export function lineDash(index) {
  return [null, [8, 4], [3, 3], [10, 3, 2, 3]][index % 4];
}

/** How a swatch is drawn like its line. */
export function styleSwatch(swatch, index, colour = lineColour(index)) {
  setStyle(swatch, 'color', colour);
  setStyle(swatch, 'border-top-style', ['solid', 'dashed', 'dotted', 'dashed'][index % 4]);
}

/** Curves that may have a logarithmic scale: those that fall by powers of ten. */
const canLog = (name) => /loss|^lr$/.test(name);

/**
 * `[{xs, ys, low, high, faint}]` on one axis, null for a gap: `[xs, ys of the first, …, faint of the first that has it, …,
 * low of the first with a band, high, …]`.
 */
export function joined(lines) {
  const columns = lines.flatMap(({ xs, ys }) => [[xs, ys]]);
  const faint = lines.flatMap(({ xs, faint: values }) => (values ? [[xs, values]] : []));
  const bands = lines.flatMap(({ xs, low, high }) => (low ? [[xs, low], [xs, high]] : []));
  const tables = [...columns, ...faint, ...bands];
  return tables.length ? uPlot.join(tables) : [[]];
}

export class OverlayChart {
  #plot = null;
  #lines = [];
  #values = [];
  #xName = 'epoch';
  #frame = null;
  /** How the curves were drawn. */
  #drawn = '';

  /** `view` is shared by the charts that move together. */
  constructor(name, { view, signal }) {
    Object.assign(this, { name, view });
    this.where = h('span', { class: 'chart-where' });
    this.legend = h('ul', { class: 'legend' });
    this.empty = h('p', { class: 'chart-empty' }, 'No points');
    this.canvas = h('div', { class: 'chart-plot overlay-plot', role: 'img', tabindex: '0', 'aria-label': name }, this.empty);
    this.element = h('section', { class: 'card chart', 'aria-label': name, 'data-lines': 0 },
      h('header', {}, h('h3', {}, name), this.where, saveButtons({ csv: () => this.#saveCsv(), png: () => this.#savePng() })),
      this.canvas, this.legend);
    const resize = new ResizeObserver(() => this.#plot?.setSize({ width: this.canvas.clientWidth, height: HEIGHT }));
    resize.observe(this.canvas);
    steer(this.canvas, view, () => this.#plot);
    dark.addEventListener('change', () => this.show(this.#lines, this.#xName), { signal });
    view.addEventListener('change', () => this.#follow(), { signal });
    signal.addEventListener('abort', () => {
      resize.disconnect();
      cancelAnimationFrame(this.#frame);
      this.#plot?.destroy();
      view.report(this, null);
    });
  }

  /** `lines`: `[{label, colour, dash, xs, ys, low?, high?}]`, with a band where there is a deviation. */
  show(lines, xName) {
    this.#lines = lines;
    this.#xName = xName;
    const { left, top } = this.#plot?.cursor ?? {};
    this.#plot?.destroy();
    this.#plot = null;
    const drawn = lines.filter(({ xs }) => xs.length > 0);
    this.element.dataset.lines = String(drawn.length);
    this.empty.hidden = drawn.length > 0;
    this.#values = lines.map(() => h('span', { class: 'legend-value' }));
    this.element.dataset.scale = this.#isLog ? 'log' : 'linear';
    this.#drawn = this.#style;
    fill(this.legend, lines.map(({ label, colour }, index) => {
      const swatch = h('span', { class: 'swatch', 'aria-hidden': 'true' });
      styleSwatch(swatch, index, colour());
      return h('li', {}, swatch, h('span', { class: 'legend-label', title: label }, label), this.#values[index]);
    }));
    if (drawn.length > 0) {
      const shown = lines.map((line) => this.#shown(line));
      const data = joined(shown);
      this.#plot = new uPlot(this.#options(shown), data, this.canvas);
      this.view.report(this, [data[0][0], data[0].at(-1)]);
      this.#showRange();
      if (left >= 0) this.#plot.setCursor({ left, top });
    }
    if (drawn.length === 0) this.view.report(this, null);
    if (!(left >= 0)) this.#showValues(null);
    this.canvas.setAttribute('aria-label', `${this.name} by ${xName}: ${lines.map(({ label, ys }) => `${label} ${ys.length ? significant(ys.at(-1)) : 'no points'}`).join('; ')}`);
  }

  /** Does with the next frame what the view has come to: another part of the same curves, or other curves. */
  #follow() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      if (this.#plot && this.#style === this.#drawn) this.#showRange();
      else this.show(this.#lines, this.#xName);
    });
  }

  get #style() {
    return `${this.view.smoothing} ${this.#isLog}`;
  }

  /** The part in view; what is new widens it, unless the user has zoomed into a part. */
  #showRange() {
    const { range, extent } = this.view;
    const shown = range ?? extent;
    if (shown) this.#plot.setScale('x', { min: shown[0], max: shown[1] });
    this.element.dataset.zoomed = String(range !== null);
  }

  get #isLog() {
    return this.view.log && canLog(this.name);
  }

  /** A line as it is drawn: smoothed, before its own values where it has no band, and without what has no logarithm. */
  #shown({ ys, low, high, ...line }) {
    const { smoothing } = this.view;
    const drawn = (values) => values && values.map((value) => (this.#isLog && !(value > 0) ? null : value));
    const smoothed = (values) => values && drawn(smoothing > 0 ? smooth(values, smoothing) : values);
    return { ...line, ys: smoothed(ys), low: smoothed(low), high: smoothed(high), faint: smoothing > 0 && !low ? drawn(ys) : undefined };
  }

  #options(lines) {
    const axis = { stroke: token('--muted'), grid: { stroke: token('--grid'), width: 1 }, ticks: { stroke: token('--grid'), width: 1 }, font: '12px system-ui, sans-serif' };
    const faint = lines.filter((line) => line.faint);
    const banded = lines.filter(({ low }) => low);
    const before = lines.length + faint.length;
    const bands = banded.map(({ colour }, index) => ({
      series: [before + 2 + 2 * index, before + 1 + 2 * index], fill: `color-mix(in srgb, ${colour()} 16%, transparent)`,
    }));
    return {
      width: this.canvas.clientWidth || 300, height: HEIGHT, legend: { show: false }, bands,
      cursor: { ...cursorOf(this.view), points: { size: 6 } },
      scales: { x: { time: false }, y: yScale(this.#isLog) },
      axes: [
        { ...axis, label: this.#xName, labelSize: 18, labelFont: '12px system-ui, sans-serif', size: 28, values: (_, splits) => splits.map(tick) },
        { ...axis, size: 58, values: (_, splits) => splits.map(tick) },
      ],
      series: [{}, ...lines.map(({ colour, dash }) => ({ stroke: colour(), width: 1.75, dash: dash ?? undefined, spanGaps: true, points: { show: false } })),
        ...faint.map(({ colour }) => ({ stroke: `color-mix(in srgb, ${colour()} 28%, transparent)`, width: 1.5, spanGaps: true, points: { show: false } })),
        ...banded.flatMap(() => [{ points: { show: false }, spanGaps: true }, { points: { show: false }, spanGaps: true }])],
      hooks: {
        setCursor: [(plot) => this.#showValues(plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, 'x') : null)],
        setSelect: [(plot) => zoomTo(plot, this.view)],
      },
    };
  }

  /** The values at the cross-hair, or the latest. */
  #showValues(x) {
    this.#lines.forEach(({ xs, ys }, index) => {
      const place = x === null ? ys.length - 1 : nearestPlace(xs, x);
      setText(this.#values[index], place < 0 ? '–' : significant(ys[place]));
    });
    setText(this.where, x === null ? 'latest' : `${this.#xName} ${tick(Number(x.toPrecision(4)))}`);
  }

  #saveCsv() {
    const rows = this.#lines.flatMap(({ label, xs, ys }) => xs.map((x, index) => [label, this.name, x, ys[index]]));
    save(fileName(this.name, 'csv'), 'text/csv', csv([['job', 'series', this.#xName, 'value'], ...rows]));
  }

  async #savePng() {
    if (!this.#plot) return;
    const legend = this.#lines.map(({ label, colour }) => ({ label, colour: colour() }));
    save(fileName(this.name, 'png'), 'image/png', await png(this.#plot.ctx.canvas, `${this.name} by ${this.#xName}`, legend, { background: token('--surface'), text: token('--text') }));
  }
}

/** The index of the point nearest to `x`; -1 where there is none. */
function nearestPlace(xs, x) {
  let best = -1;
  for (let index = 0; index < xs.length; index += 1) if (best < 0 || Math.abs(xs[index] - x) < Math.abs(xs[best] - x)) best = index;
  return best;
}
