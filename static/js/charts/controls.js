// Controls of all charts on a page.

import { h, setText } from '../ui/dom.js';
import { AXES } from './series.js';
import { MAX_SMOOTHING } from './view.js';

/** @import { ChartView } from './view.js' */

const TOUCH_HINT = 'Touch: drag to read values, pinch to zoom all charts, tap twice to reset.';
const ZOOM_HINT = 'Drag over a chart to zoom all of them; double-click to reset. Keyboard: ← → + − 0.';

/**
 * The smoothing slider and the check box for a logarithmic y axis.
 * @param {ChartView} view
 */
export function curveFields(view) {
  const amount = h('output', { for: 'smoothing' }, view.smoothing.toFixed(2));
  const smoothing = h('input', { type: 'range', id: 'smoothing', min: 0, max: MAX_SMOOTHING, step: 0.01, value: view.smoothing });
  smoothing.addEventListener('input', () => {
    view.set({ smoothing: Number(smoothing.value) });
    setText(amount, view.smoothing.toFixed(2));
  });
  const log = h('input', { type: 'checkbox', checked: view.log, onchange: () => { view.set({ log: log.checked }); } });
  return [h('label', { class: 'slider', for: 'smoothing' }, 'Smoothing', smoothing, amount), h('label', { class: 'check' }, log, 'Log scale')];
}

/**
 * The button that resets the zoom, and how to zoom.
 * @param {ChartView} view
 */
export function zoomFields(view) {
  const reset = h('button', { type: 'button', class: 'quiet small', disabled: true, onclick: () => view.zoom(null) }, 'Show all');
  view.addEventListener('change', () => { reset.disabled = view.range === null; });
  return [reset, h('span', { class: 'note mouse-only' }, ZOOM_HINT), h('span', { class: 'note touch-only' }, TOUCH_HINT)];
}

/**
 * The bar above a job's charts.
 * @param {ChartView} view
 */
export function chartBar(view) {
  const axes = AXES.map((axis) => h('label', {},
    h('input', { type: 'radio', name: 'chart-axis', value: axis, checked: view.axis === axis, onchange: () => view.set({ axis }) }),
    `${axis[0].toUpperCase()}${axis.slice(1)}`));
  return h('div', { class: 'chart-bar', role: 'group', 'aria-label': 'All charts' },
    h('fieldset', { class: 'segments' }, h('legend', {}, 'x axis'), axes),
    curveFields(view), zoomFields(view));
}
