// A curve the size of a word.

import { svg } from './svg.js';

/** @typedef {readonly number[]} StepValue a step and a value */

const WIDTH = 74;
const HEIGHT = 22;
const MARGIN = 2;

/**
 * Positions of points in a sparkline.
 * @param {readonly StepValue[]} points
 * @param {number | null | undefined} steps of the whole run, so that a curve grows to the right while the job runs;
 *   null to fill the width
 * @returns {number[][]}
 */
export function layOut(points, steps) {
  const values = points.map(([, value]) => value);
  const low = Math.min(...values);
  const range = Math.max(...values) - low;
  const end = Math.max(steps ?? 0, points.at(-1)?.[0] ?? 0) || 1;
  return points.map(([step, value]) => [
    MARGIN + (step / end) * (WIDTH - 2 * MARGIN),
    range === 0 ? HEIGHT / 2 : HEIGHT - MARGIN - ((value - low) / range) * (HEIGHT - 2 * MARGIN),
  ].map((number) => Number(number.toFixed(1))));
}

/** Hidden from assistive technology, which reads its numbers elsewhere. */
export function sparkline() {
  const line = svg('polyline', { class: 'spark-line' });
  const dot = svg('circle', { class: 'spark-dot', r: 2 });
  const element = svg('svg', { class: 'spark', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, 'aria-hidden': 'true' }, line, dot);
  let shown = '';
  return {
    element,
    /**
     * @param {readonly StepValue[]} points
     * @param {number | null | undefined} steps see `layOut`
     */
    update(points, steps) {
      const key = `${points.length} ${points.at(-1)} ${steps}`;
      if (key === shown) return;
      shown = key;
      const places = layOut(points, steps);
      line.setAttribute('points', places.map((place) => place.join()).join(' '));
      // Without points the dot lies outside the box.
      const [x, y] = places.at(-1) ?? [-9, -9];
      dot.setAttribute('cx', String(x));
      dot.setAttribute('cy', String(y));
    },
  };
}
