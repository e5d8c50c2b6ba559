// What the charts of a page share: the x axis, smoothing, the kind of scale, and the part in view.

import { h, setText } from '../ui/dom.js';

const STORED = 'distillery-charts';
const AXES = [['step', 'Step'], ['epoch', 'Epoch'], ['time', 'Time']];
const MOST_SMOOTHING = 0.99;
/** Narrower than this, in pixels, is a click that slipped. */
const LEAST_ZOOM = 5;

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

/** The cross-hair moves in every chart of a page; a selection is told to the view, which moves them all. */
export function cursorOf(view) {
  return {
    y: false,
    sync: { key: 'charts', scales: ['x', null], filters: { sub: (type) => type.startsWith('mousemove') || type.startsWith('mouseleave') } },
    drag: { x: true, y: false, setScale: false },
    bind: { dblclick: () => () => view.zoom(null) },
  };
}

/** Zooms to what was selected in a plot. */
export function zoomTo(plot, view) {
  const { left, width } = plot.select;
  if (width < LEAST_ZOOM) return;
  const range = [plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x')];
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  view.zoom(range);
}

/** The cross-hair and the zoom by the keyboard, where `canvas` has the focus; `plot()` is what it shows, or null. */
export function steer(canvas, view, plot) {
  canvas.addEventListener('keydown', (event) => {
    const shown = plot();
    if (!shown || event.ctrlKey || event.metaKey || event.altKey) return;
    const [xs] = shown.data;
    const last = xs.length - 1;
    const at = shown.cursor.idx ?? last;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last };
    if (event.key in moves) point(shown, xs[Math.min(Math.max(moves[event.key], 0), last)]);
    else if (event.key === '+') view.zoom(around(shown, view, xs[at], 0.5));
    else if (event.key === '-') view.zoom(around(shown, view, xs[at], 2));
    else if (event.key === '0') view.zoom(null);
    else return;
    event.preventDefault();
  });
}

function point(plot, x) {
  plot.setCursor({ left: plot.valToPos(x, 'x'), top: plot.over.clientHeight / 3 }, true, true);
}

/** So much of what is shown, around `x`; null for everything. */
function around({ scales }, view, x, factor) {
  const { min, max } = scales.x;
  const [first, last] = view.extent ?? [min, max];
  const half = ((max - min) * factor) / 2;
  const from = Math.max(x - half, first);
  const to = Math.min(x + half, last);
  return from <= first && to >= last ? null : [from, to];
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

/** Ends a zoom. */
export function showAll(view) {
  const reset = h('button', { type: 'button', class: 'quiet small', disabled: true, onclick: () => view.zoom(null) }, 'Show all');
  view.addEventListener('change', () => { reset.disabled = view.range === null; });
  return reset;
}

export const zoomHint = () => h('span', { class: 'note wide-only' }, 'Drag over a chart to zoom in on all; double-click to show all. With the keyboard: ← → + − 0.');

/** The bar above the charts. */
export function chartBar(view) {
  const axes = AXES.map(([name, label]) => h('label', {},
    h('input', { type: 'radio', name: 'chart-axis', value: name, checked: view.axis === name, onchange: () => view.set({ axis: name }) }), label));
  return h('div', { class: 'chart-bar', role: 'group', 'aria-label': 'All charts' },
    h('fieldset', { class: 'segments' }, h('legend', {}, 'x axis'), axes),
    curveFields(view), showAll(view), zoomHint());
}
