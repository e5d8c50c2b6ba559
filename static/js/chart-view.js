// What the charts of a page share: the x axis, smoothing, the kind of scale, and the part in view.

import { h, setText } from './dom.js';

const STORED = 'distillery-charts';
const AXES = [['step', 'Step'], ['epoch', 'Epoch'], ['time', 'Time']];
const MOST_SMOOTHING = 0.99;

/** Changes are told by a `change` event. The choices outlive the page, the part in view does not. */
export class ChartView extends EventTarget {
  axis = 'epoch';
  /** Weight of the past in the moving average: 0 for none. */
  smoothing = 0;
  log = false;
  /** `[from, to]` of the x axis; null for all of it. */
  range = null;
  /** Where the time axis begins, in milliseconds. */
  start = 0;

  #extents = new Map();

  constructor() {
    super();
    const { axis, smoothing, log } = remembered();
    if (AXES.some(([name]) => name === axis)) this.axis = axis;
    if (smoothing >= 0 && smoothing <= MOST_SMOOTHING) this.smoothing = smoothing;
    this.log = log === true;
  }

  set(change) {
    // A part of one axis is none of another.
    if (change.axis && change.axis !== this.axis) this.range = null;
    Object.assign(this, change);
    const { axis, smoothing, log } = this;
    localStorage.setItem(STORED, JSON.stringify({ axis, smoothing, log }));
    this.dispatchEvent(new Event('change'));
  }

  /** Tells from where to where a chart has points; null for none. All show what the widest of them has. */
  report(chart, extent) {
    const before = String(this.extent);
    this.#extents.set(chart, extent);
    if (String(this.extent) !== before) this.dispatchEvent(new Event('change'));
  }

  /** `[from, to]` of all charts together; null while there is no such stretch. */
  get extent() {
    const known = [...this.#extents.values()].filter(Boolean);
    const from = Math.min(...known.map(([first]) => first));
    const to = Math.max(...known.map(([, last]) => last));
    return from < to ? [from, to] : null;
  }

  zoom(range) {
    this.range = range;
    this.dispatchEvent(new Event('change'));
  }
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}

/** The buttons of a chart that can be taken away. */
export function saveButtons({ csv, png: image }) {
  const button = (label, title, act) => h('button', { type: 'button', class: 'quiet copy', title, onclick: act }, label);
  return h('span', { class: 'save-buttons' }, button('CSV', 'The points of these curves', csv), button('PNG', 'This chart as an image', image));
}

/** What chooses the smoothing and the kind of scale. */
export function curveFields(view) {
  const amount = h('output', { for: 'smoothing' }, view.smoothing.toFixed(2));
  const smoothing = h('input', { type: 'range', id: 'smoothing', min: 0, max: MOST_SMOOTHING, step: 0.01, value: view.smoothing });
  smoothing.addEventListener('input', () => {
    view.set({ smoothing: Number(smoothing.value) });
    setText(amount, view.smoothing.toFixed(2));
  });
  const log = h('input', { type: 'checkbox', checked: view.log, onchange: () => view.set({ log: log.checked }) });
  return [h('label', { class: 'slider', for: 'smoothing' }, 'Smoothing', smoothing, amount), h('label', { class: 'check' }, log, 'Log scale')];
}

/** The bar above the charts. */
export function chartBar(view) {
  const axes = AXES.map(([name, label]) => h('label', {},
    h('input', { type: 'radio', name: 'chart-axis', value: name, checked: view.axis === name, onchange: () => view.set({ axis: name }) }), label));
  const reset = h('button', { type: 'button', class: 'quiet small', disabled: true, onclick: () => view.zoom(null) }, 'Show all');
  view.addEventListener('change', () => { reset.disabled = view.range === null; });
  return h('div', { class: 'chart-bar', role: 'group', 'aria-label': 'All charts' },
    h('fieldset', { class: 'segments' }, h('legend', {}, 'x axis'), axes),
    curveFields(view), reset,
    h('span', { class: 'note wide-only' }, 'Drag over a chart to zoom in on all; double-click to show all. With the keyboard: ← → + − 0.'));
}
