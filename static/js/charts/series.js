// The points of a chart's series: appended live, thinned without losing peaks, aligned on one x axis. Pure.

/** @typedef {{ step: number, epoch: number, time: number, value: number }} Point `time` in milliseconds */
/** @typedef {'step' | 'epoch' | 'time'} Axis */
/** @typedef {(number | null | undefined)[]} Column values of a series; null is a gap */

/** Points kept per series; up to twice as many accumulate before they are thinned. */
export const MAX_POINTS = 2000;

/** @type {Axis[]} */
export const AXES = ['step', 'epoch', 'time'];

/**
 * Where a point lies on an axis; on that of time, in seconds since `start` (milliseconds).
 * @param {Axis} axis
 * @param {Point} point
 * @param {number} start
 */
export function xOf(axis, point, start) {
  return axis === 'time' ? (point.time - start) / 1000 : point[axis];
}

/**
 * A point of the API.
 * @param {Pick<Schemas['SeriesPoint'], 'step' | 'epoch' | 'time' | 'value'>} point
 * @returns {Point}
 */
export function toPoint({ step, epoch, time, value }) {
  return { step, epoch, time: Date.parse(time), value };
}

/**
 * Appends points in the order in which they arrived.
 * @param {Point[]} points
 * @param {Parameters<typeof toPoint>[0][]} added
 * @param {number} [limit]
 */
export function appendPoints(points, added, limit = MAX_POINTS) {
  for (const point of added) {
    // A resumed attempt repeats the steps after its checkpoint: its points replace those of the attempt before.
    while ((points.at(-1)?.step ?? -1) >= point.step) points.pop();
    points.push(toPoint(point));
  }
  return points.length > 2 * limit ? downsample(points, limit) : points;
}

/**
 * About `limit` points: the first, the last, and the lowest and highest of every bucket between them.
 * @param {Point[]} points
 * @param {number} limit
 */
export function downsample(points, limit) {
  if (points.length <= limit) return points;
  const buckets = Math.max(Math.floor(limit / 2) - 1, 1);
  const kept = [points[0]];
  const inner = points.length - 2;
  for (let bucket = 0; bucket < buckets; bucket += 1) {
    const from = 1 + Math.floor((bucket * inner) / buckets);
    const to = 1 + Math.floor(((bucket + 1) * inner) / buckets);
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
  kept.push(points[points.length - 1]);
  return kept;
}

/**
 * Several series on one x axis: the steps of the rows, their x, and a column of values for each series.
 * @param {Point[][]} series
 * @param {Axis} [axis]
 * @param {number} [start] zero of the time axis, in milliseconds
 * @returns {{ steps: number[], xs: number[], columns: Column[] }}
 */
export function align(series, axis = 'epoch', start = 0) {
  /** @type {Map<number, { step: number, x: number, values: (number | null)[] }>} */
  const rows = new Map();
  series.forEach((points, column) => {
    for (const point of points) {
      let row = rows.get(point.step);
      if (!row) rows.set(point.step, (row = { step: point.step, x: xOf(axis, point, start), values: series.map(() => null) }));
      row.values[column] = point.value;
    }
  });
  const sorted = [...rows.values()].sort((one, other) => one.step - other.step);
  // The clocks of two workers may differ, but uPlot needs an x that never decreases.
  let reached = 0;
  for (const row of sorted) row.x = reached = Math.max(row.x, reached);
  return {
    steps: sorted.map((row) => row.step),
    xs: sorted.map((row) => row.x),
    columns: series.map((_, column) => sorted.map((row) => row.values[column])),
  };
}

/**
 * The exponential moving average of TensorBoard: without the bias towards zero that the first values would have (Adam's
 * correction). Gaps stay gaps.
 * @param {Column} values
 * @param {number} weight of the past, from 0 (no smoothing) to below 1
 */
export function smooth(values, weight) {
  let mean = 0;
  let count = 0;
  return values.map((value) => {
    if (typeof value !== 'number' || !Number.isFinite(value)) return value;
    mean = weight * mean + (1 - weight) * value;
    count += 1;
    return mean / (1 - weight ** count);
  });
}

/**
 * The index nearest to `index` that has a value.
 * @param {ArrayLike<number | null | undefined>} values
 * @param {number} index
 */
export function nearest(values, index) {
  for (let distance = 0; distance < values.length; distance += 1) {
    if (values[index - distance] != null) return index - distance;
    if (values[index + distance] != null) return index + distance;
  }
  return null;
}
