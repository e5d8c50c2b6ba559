// The core of every chart: a card with a plot, its cross-hair, its scales and its downloads.

import { h } from '../ui/dom.js';
import { cursorOptions, listenToKeys, zoomToSelection } from './cursor.js';
import { listenToTouch } from './touch.js';
import { dark, token } from './theme.js';
import { logTicks } from './ticks.js';
import uPlot from './uplot.js';

/** @import { ChartView } from './view.js' */

/**
 * @typedef {object} Drawing
 * @property {uPlot.AlignedData} data x, then a column per series; null is a gap
 * @property {uPlot.Series[]} series the first is that of x
 * @property {uPlot.Band[]} [bands]
 * @property {string} [kind] the plot is rebuilt when this changes; otherwise it only gets new data
 */

/** @typedef {{ label: string, colour: string }} LegendEntry */

const FONT = '12px system-ui, sans-serif';
const DEFAULT_HEIGHT = 220;
/** Pixels beside the plot: half of the longest label of the x axis fits, as of a tick at its end. */
const RIGHT = 32;

/**
 * uPlot's y scale. The logarithmic one ends at its values, where uPlot would show whole powers of ten.
 * @param {boolean} isLog
 * @returns {uPlot.Scale}
 */
const yScale = (isLog) => (isLog ? { distr: 3, range: (_, low, high) => (low > 0 ? [low / 1.05, high * 1.05] : [1, 10]) } : { distr: 1 });

/**
 * uPlot's own ticks begin at the lowest value and end at the highest, whatever these are.
 * @type {uPlot.Axis}
 */
const LOG_AXIS = { splits: (_, __, low, high) => logTicks(low, high), filter: (_, splits) => splits };

/** Subclasses say what is drawn (`drawing`), what the legend reads (`showValues`), and what is exported. */
export class Chart {
  /** @type {uPlot | null} */
  plot = null;
  /** @type {number | null} */
  #frame = null;
  /** What `plot` was built for. */
  #kind = '';
  #canLog;
  /** @type {Map<string, string>} */
  #tokens = new Map();

  /**
   * @param {object} options
   * @param {string} options.title
   * @param {string} [options.hint] tool tip of the title
   * @param {ChartView} options.view shared by the charts that zoom together
   * @param {boolean} [options.canLog] whether the view may choose a logarithmic y axis here
   * @param {AbortSignal} options.signal removes the chart's listeners
   */
  constructor({ title, hint, view, canLog = false, signal }) {
    this.title = title;
    this.view = view;
    this.#canLog = canLog;
    this.where = h('span', { class: 'chart-where' });
    this.legend = h('ul', { class: 'legend' });
    this.empty = h('p', { class: 'chart-empty' }, 'No points yet');
    this.canvas = h('div', { class: 'chart-plot', role: 'img', tabindex: '0', 'aria-label': `${title}: no points yet` }, this.empty);
    const button = (/** @type {string} */ label, /** @type {string} */ tip, /** @type {() => void} */ onclick) =>
      h('button', { type: 'button', class: 'quiet copy', title: tip, onclick }, label);
    const buttons = h('span', { class: 'save-buttons' },
      button('CSV', 'Download the points', () => this.#saveCsv()), button('PNG', 'Download the chart as an image', () => this.#savePng()));
    this.element = h('section', { class: 'card chart', 'aria-label': title },
      h('header', {}, h('h3', { title: hint }, title), this.where, buttons), this.legend, this.canvas);
    listenToKeys(this.canvas, view, () => this.plot);
    listenToTouch(this.canvas, view, () => this.plot);
    this.#listen(signal);
  }

  /**
   * What to draw now.
   * @returns {Drawing}
   */
  drawing() { throw new Error('abstract'); }

  /** Writes the values at the cross-hair, or the latest ones, to the legend and `where`. */
  showValues() { throw new Error('abstract'); }

  /**
   * The chart as a sentence, for assistive technology.
   * @returns {string}
   */
  describe() { throw new Error('abstract'); }

  /**
   * The points as a table with a header.
   * @returns {(string | number | null)[][]}
   */
  rows() { throw new Error('abstract'); }

  /** @returns {LegendEntry[]} */
  legendEntries() { throw new Error('abstract'); }

  /** The label of the x axis. @returns {string} */
  get xLabel() { return this.view.axis; }

  /** @returns {uPlot.Axis} */
  xAxis() { return {}; }

  /** @returns {uPlot.Axis} */
  yAxis() { return {}; }

  /** @returns {uPlot.Cursor} */
  cursor() { return {}; }

  get isLog() {
    return this.#canLog && this.view.log;
  }

  /**
   * A colour of the theme, cached until the theme changes.
   * @param {string} name
   */
  colour(name) {
    const known = this.#tokens.get(name) ?? token(name);
    this.#tokens.set(name, known);
    return known;
  }

  /** Draws with the next frame, however often it is asked to. */
  schedule() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#render();
    });
  }

  /** @param {AbortSignal} signal */
  #listen(signal) {
    const observer = new ResizeObserver(() => this.#resize());
    observer.observe(this.canvas);
    dark.addEventListener('change', () => {
      this.#tokens.clear();
      this.plot?.redraw();
    }, { signal });
    this.view.addEventListener('change', () => this.schedule(), { signal });
    signal.addEventListener('abort', () => {
      observer.disconnect();
      if (this.#frame !== null) cancelAnimationFrame(this.#frame);
      this.#destroy();
      this.view.report(this, null);
    });
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (this.plot && width > 0 && Math.abs(width - this.plot.width) >= 1) this.plot.setSize({ width, height });
  }

  #destroy() {
    this.plot?.destroy();
    this.plot = null;
  }

  #render() {
    const drawing = this.drawing();
    const xs = drawing.data[0];
    const isEmpty = xs.length === 0;
    this.element.dataset.scale = this.isLog ? 'log' : 'linear';
    this.empty.hidden = !isEmpty;
    this.view.report(this, isEmpty ? null : [xs[0], xs[xs.length - 1]]);
    if (isEmpty) this.#destroy();
    else this.#draw(drawing);
    this.showValues();
    this.canvas.setAttribute('aria-label', `${this.title}: ${this.describe()}`);
  }

  /**
   * New points widen the visible range, unless the user has zoomed.
   * @param {Drawing} drawing
   */
  #draw(drawing) {
    const { range, extent } = this.view;
    const visible = range ?? extent;
    const kind = `${this.isLog} ${drawing.kind ?? ''}`;
    if (!this.plot || kind !== this.#kind) this.#rebuild(drawing, kind);
    else this.plot.setData(drawing.data, visible === null);
    if (visible) this.plot?.setScale('x', { min: visible[0], max: visible[1] });
    this.element.dataset.zoomed = String(range !== null);
  }

  /**
   * Puts another plot in the place of the one shown; the cross-hair stays where it is.
   * @param {Drawing} drawing
   * @param {string} kind
   */
  #rebuild(drawing, kind) {
    const { left = -1, top = -1 } = this.plot?.cursor ?? {};
    this.#destroy();
    this.plot = new uPlot(this.#options(drawing), drawing.data, this.canvas);
    this.#kind = kind;
    if (left >= 0) this.plot.setCursor({ left, top });
  }

  /**
   * @param {Drawing} drawing
   * @returns {uPlot.Options}
   */
  #options({ series, bands = [] }) {
    /** @type {uPlot.Axis} */
    const axis = {
      stroke: () => this.colour('--muted'),
      grid: { stroke: () => this.colour('--grid'), width: 1 },
      ticks: { show: false },
      font: FONT,
    };
    return {
      width: Math.max(this.canvas.clientWidth, 100),
      height: this.canvas.clientHeight || DEFAULT_HEIGHT,
      padding: [8, RIGHT, 0, 0],
      legend: { show: false },
      cursor: { ...cursorOptions(this.view), points: { size: 7 }, ...this.cursor() },
      scales: { x: { time: false }, y: yScale(this.isLog) },
      axes: [
        { ...axis, label: () => this.xLabel, labelSize: 18, labelFont: FONT, size: 28, ...this.xAxis() },
        { ...axis, size: 58, ...this.yAxis(), ...(this.isLog ? LOG_AXIS : {}) },
      ],
      series, bands,
      hooks: {
        setCursor: [() => this.showValues()],
        setSelect: [(plot) => zoomToSelection(plot, this.view)],
      },
    };
  }

  async #saveCsv() {
    const { csv, fileName, save } = await import('./export.js');
    save(fileName(this.title, 'csv'), 'text/csv', csv(this.rows()));
  }

  async #savePng() {
    if (!this.plot) return;
    const { fileName, png, save } = await import('./export.js');
    const image = await png(this.plot.ctx.canvas, {
      title: `${this.title} by ${this.xLabel}`, legend: this.legendEntries(), background: token('--surface'), text: token('--text'),
    });
    save(fileName(this.title, 'png'), 'image/png', image);
  }
}
