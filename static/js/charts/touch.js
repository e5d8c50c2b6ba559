// Charts by touch: one finger moves the cross-hair, two zoom. Vertical swipes still scroll the page.

/** @import uPlot from 'uplot' */
/** @import { ChartView, Range } from './view.js' */
/**
 * `x` is in pixels of the plot, and `value` what was below the finger at first.
 * @typedef {{ x: number, value: number }} Finger
 */

/** In milliseconds and pixels: two taps closer together are a double tap. */
const DOUBLE_TAP = 350;
const TAP_SLIP = 20;
/** Fingers closer together than these pixels say nothing about a zoom. */
const MIN_SPREAD = 20;

/**
 * @param {HTMLElement} canvas
 * @param {ChartView} view
 * @param {() => uPlot | null} currentPlot
 */
export function listenToTouch(canvas, view, currentPlot) {
  /** @type {Map<number, Finger>} */
  const fingers = new Map();
  let lastTap = { time: -Infinity, x: 0 };
  const placeOf = (/** @type {uPlot} */ plot, /** @type {PointerEvent} */ { clientX }) => {
    const { left, width } = plot.over.getBoundingClientRect();
    return Math.min(Math.max(clientX - left, 0), width);
  };
  const on = (/** @type {string} */ name, /** @type {(event: PointerEvent, plot: uPlot) => void} */ handle) => {
    canvas.addEventListener(name, (event) => {
      const plot = currentPlot();
      if (plot && event instanceof PointerEvent && event.pointerType === 'touch') handle(event, plot);
    });
  };
  on('pointerdown', (event, plot) => {
    const x = placeOf(plot, event);
    fingers.set(event.pointerId, { x, value: plot.posToVal(x, 'x') });
    if (fingers.size > 1) return;
    if (event.timeStamp - lastTap.time < DOUBLE_TAP && Math.abs(x - lastTap.x) < TAP_SLIP) view.zoom(null);
    lastTap = { time: event.timeStamp, x };
    point(plot, x);
  });
  on('pointermove', (event, plot) => {
    const finger = fingers.get(event.pointerId);
    if (!finger) return;
    finger.x = placeOf(plot, event);
    if (fingers.size === 1) point(plot, finger.x);
    else if (fingers.size === 2) pinch(plot, view, [...fingers.values()]);
  });
  for (const name of ['pointerup', 'pointercancel', 'pointerleave']) on(name, ({ pointerId }) => { fingers.delete(pointerId); });
}

/**
 * @param {uPlot} plot
 * @param {number} left
 */
function point(plot, left) {
  plot.setCursor({ left, top: plot.over.clientHeight / 3 }, true);
}

/**
 * Zooms so that each finger stays on its value.
 * @param {uPlot} plot
 * @param {ChartView} view
 * @param {Finger[]} fingers
 */
function pinch(plot, view, fingers) {
  const [one, other] = fingers.sort((a, b) => a.x - b.x);
  const first = Math.min(one.value, other.value);
  const last = Math.max(one.value, other.value);
  if (other.x - one.x < MIN_SPREAD || first === last) return;
  const perPixel = (last - first) / (other.x - one.x);
  const from = first - one.x * perPixel;
  const to = from + plot.over.clientWidth * perPixel;
  const [least, most] = view.extent ?? [from, to];
  /** @type {Range} */
  const range = [Math.max(from, least), Math.min(to, most)];
  view.zoom(range[0] <= least && range[1] >= most ? null : range);
}
