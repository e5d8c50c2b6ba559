// What the charts of a page share: the x axis, smoothing, the y scale and the zoom.

import { AXES } from './series.js';

/** @import { Axis } from './series.js' */
/** @typedef {[from: number, to: number]} Range a part of the x axis */
/** @typedef {{ axis: Axis, smoothing: number, log: boolean }} Choices */

const STORAGE_KEY = 'distillery-charts';
export const MAX_SMOOTHING = 0.99;
export const DEFAULT_AXIS = 'epoch';

/** Fires `change`. The choices are kept in the browser's storage; the zoom is not. */
export class ChartView extends EventTarget {
  /** @type {Axis} */
  axis = DEFAULT_AXIS;
  /** Weight of the past in the moving average; 0 turns smoothing off. */
  smoothing = 0;
  log = false;
  /** @type {Range | null} null shows everything */
  range = null;
  /** Zero of the time axis, in milliseconds. */
  start = 0;

  /** @type {Map<object, Range>} */
  #extents = new Map();

  constructor() {
    super();
    const { axis, smoothing = 0, log } = storedChoices();
    if (axis && AXES.includes(axis)) this.axis = axis;
    if (smoothing >= 0 && smoothing <= MAX_SMOOTHING) this.smoothing = smoothing;
    this.log = log === true;
  }

  /** @param {Partial<Choices>} choices */
  set(choices) {
    // A range of one axis means nothing on another.
    if (choices.axis && choices.axis !== this.axis) this.range = null;
    Object.assign(this, choices);
    const { axis, smoothing, log } = this;
    localStorage.setItem(STORAGE_KEY, JSON.stringify({ axis, smoothing, log }));
    this.#changed();
  }

  /**
   * Records which part of the x axis a chart has points on, so that all charts show the union.
   * @param {object} chart
   * @param {Range | null} extent null if the chart has no points
   */
  report(chart, extent) {
    const before = String(this.extent);
    if (extent) this.#extents.set(chart, extent);
    else this.#extents.delete(chart);
    if (String(this.extent) !== before) this.#changed();
  }

  /**
   * The union of all charts' extents; null while it is empty or a single point.
   * @returns {Range | null}
   */
  get extent() {
    const extents = [...this.#extents.values()];
    const from = Math.min(...extents.map(([first]) => first));
    const to = Math.max(...extents.map(([, last]) => last));
    return from < to ? [from, to] : null;
  }

  /** @param {Range | null} range null shows everything */
  zoom(range) {
    this.range = range;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }
}

/** @returns {Partial<Choices>} */
function storedChoices() {
  try {
    return JSON.parse(localStorage.getItem(STORAGE_KEY) ?? '{}') ?? {};
  } catch {
    return {};
  }
}
