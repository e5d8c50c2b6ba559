// The points of a job's charts: appended live, thinned without losing peaks. Pure.

/** Points kept per series; twice as many may pile up before they are thinned. */
export const MOST_POINTS = 2000;

/** Adds points in the order in which they came. */
export function appendPoints(points, added, most = MOST_POINTS) {
  for (const point of added) {
    // A resumed attempt repeats the steps after its checkpoint: what it says replaces what the earlier one said.
    while (points.length > 0 && points.at(-1).step >= point.step) points.pop();
    points.push({ step: point.step, epoch: point.epoch, time: Date.parse(point.time), value: point.value });
  }
  return points.length > 2 * most ? thin(points, most) : points;
}

/** About `most` points: the first, the last, and of every stretch the lowest and the highest. */
export function thin(points, most) {
  if (points.length <= most) return points;
  const stretches = Math.max(Math.floor(most / 2) - 1, 1);
  const kept = [points[0]];
  const inner = points.length - 2;
  for (let stretch = 0; stretch < stretches; stretch += 1) {
    const from = 1 + Math.floor((stretch * inner) / stretches);
    const to = 1 + Math.floor(((stretch + 1) * inner) / stretches);
    if (from >= to) continue;
    let low = from;
    let high = from;
    for (let index = from + 1; index < to; index += 1) {
      if (points[index].value < points[low].value) low = index;
      if (points[index].value > points[high].value) high = index;
    }
    kept.push(points[Math.min(low, high)]);
    if (low !== high) kept.push(points[Math.max(low, high)]);
  }
  kept.push(points.at(-1));
  return kept;
}

/** What the x axis can show of a point; times are seconds since `start` (milliseconds). */
const AXES = {
  step: (point) => point.step,
  epoch: (point) => point.epoch,
  time: (point, start) => Math.max((point.time - start) / 1000, 0),
};

/**
 * Series on one axis, as uPlot wants them: `{steps, data: [x, values of the first, values of the second, …]}`, null for
 * a gap. `axis` is step, epoch or time.
 */
export function align(series, axis = 'epoch', start = 0) {
  const rows = new Map();
  series.forEach((points, column) => {
    for (const point of points) {
      let row = rows.get(point.step);
      if (!row) rows.set(point.step, (row = { step: point.step, x: AXES[axis](point, start), values: new Array(series.length).fill(null) }));
      row.values[column] = point.value;
    }
  });
  const sorted = [...rows.values()].sort((a, b) => a.step - b.step);
  // The clocks of two workers may differ: uPlot needs an axis that never goes back.
  for (let index = 1; index < sorted.length; index += 1) sorted[index].x = Math.max(sorted[index].x, sorted[index - 1].x);
  return {
    steps: sorted.map((row) => row.step),
    data: [sorted.map((row) => row.x), ...series.map((_, column) => sorted.map((row) => row.values[column]))],
  };
}

/**
 * An exponential moving average, as TensorBoard's: `weight` from 0 (none) to below 1, and without the pull towards zero
 * that the first values would have (the correction of Adam). Gaps stay gaps.
 */
export function smooth(values, weight) {
  let mean = 0;
  let count = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    mean = weight * mean + (1 - weight) * value;
    count += 1;
    return mean / (1 - weight ** count);
  });
}

/** The index nearest to `index` at which there is a value. */
export function nearest(values, index) {
  for (let distance = 0; distance < values.length; distance += 1) {
    if (values[index - distance] != null) return index - distance;
    if (values[index + distance] != null) return index + distance;
  }
  return null;
}
