// The cross-hair and the zoom, by pointer and by keyboard.

/** @import uPlot from 'uplot' */
/** @import { ChartView, Range } from './view.js' */

/** In pixels. A narrower selection is a click that slipped. */
const MIN_SELECTION = 5;

/**
 * uPlot's cursor options: the cross-hair moves in every chart of the page, and a selection zooms all of them.
 * @param {ChartView} view
 * @returns {uPlot.Cursor}
 */
export function cursorOptions(view) {
  return {
    y: false,
    sync: {
      key: 'charts', scales: ['x', null],
      filters: { sub: (type) => type.startsWith('mousemove') || type.startsWith('mouseleave') },
    },
    drag: { x: true, y: false, setScale: false },
    bind: {
      dblclick: () => () => {
        view.zoom(null);
        return null;
      },
    },
  };
}

/**
 * Zooms all charts to what was selected in one.
 * @param {uPlot} plot
 * @param {ChartView} view
 */
export function zoomToSelection(plot, view) {
  const { left, width } = plot.select;
  if (width < MIN_SELECTION) return;
  /** @type {Range} */
  const range = [plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x')];
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  view.zoom(range);
}

/**
 * Moves the cross-hair and zooms by keyboard while `canvas` has the focus.
 * @param {HTMLElement} canvas
 * @param {ChartView} view
 * @param {() => uPlot | null} currentPlot
 */
export function listenToKeys(canvas, view, currentPlot) {
  canvas.addEventListener('keydown', (event) => {
    const plot = currentPlot();
    if (!plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const xs = plot.data[0];
    const [first, last] = visible(plot);
    const index = plot.cursor.idx ?? last;
    const target = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: first, End: last }[event.key];
    if (target !== undefined) moveCursor(plot, xs[Math.min(Math.max(target, first), last)]);
    else if (event.key === '+') view.zoom(zoomed(plot, view, xs[index], 0.5));
    else if (event.key === '-') view.zoom(zoomed(plot, view, xs[index], 2));
    else if (event.key === '0') view.zoom(null);
    else return;
    event.preventDefault();
  });
}

/**
 * The indices of the first and the last point in the visible range; of all points if there is none in it. Beyond it the
 * cross-hair would not show.
 * @param {uPlot} plot
 * @returns {[number, number]}
 */
function visible(plot) {
  const xs = plot.data[0];
  const { min, max } = plot.scales.x;
  const first = xs.findIndex((x) => x >= (min ?? -Infinity));
  const last = xs.findLastIndex((x) => x <= (max ?? Infinity));
  return first < 0 || last < first ? [0, xs.length - 1] : [first, last];
}

/**
 * @param {uPlot} plot
 * @param {number} x
 */
function moveCursor(plot, x) {
  plot.setCursor({ left: plot.valToPos(x, 'x'), top: plot.over.clientHeight / 3 }, true);
}

/**
 * The visible range scaled by `factor` around `x`; null once that shows everything.
 * @param {uPlot} plot
 * @param {ChartView} view
 * @param {number} x
 * @param {number} factor
 * @returns {Range | null}
 */
function zoomed({ scales }, view, x, factor) {
  const { min = 0, max = 0 } = scales.x;
  const [first, last] = view.extent ?? [min, max];
  const half = ((max - min) * factor) / 2;
  const from = Math.max(x - half, first);
  const to = Math.min(x + half, last);
  return from <= first && to >= last ? null : [from, to];
}
