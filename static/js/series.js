// The points of a job's charts: appended live, thinned without losing peaks. Pure.

/** Points kept per series; twice as many may pile up before they are thinned. */
export const MOST_POINTS = 2000;

/** Adds points in the order in which they came. */
export function appendPoints(points, added, most = MOST_POINTS) {
  for (const point of added) {
    // A resumed attempt repeats the steps after its checkpoint: what it says replaces what the earlier one said.
    while (points.length > 0 && points.at(-1).step >= point.step) points.pop();
    points.push({ step: point.step, epoch: point.epoch, value: point.value });
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

/** Series on one axis, as uPlot wants them: [epochs, values of the first, values of the second, …], null for a gap. */
export function align(series) {
  const rows = new Map();
  series.forEach((points, column) => {
    for (const { step, epoch, value } of points) {
      let row = rows.get(step);
      if (!row) rows.set(step, (row = { step, epoch, values: new Array(series.length).fill(null) }));
      row.values[column] = value;
    }
  });
  const sorted = [...rows.values()].sort((a, b) => a.step - b.step);
  return {
    steps: sorted.map((row) => row.step),
    data: [sorted.map((row) => row.epoch), ...series.map((_, column) => sorted.map((row) => row.values[column]))],
  };
}

/** The index nearest to `index` at which there is a value. */
export function nearest(values, index) {
  for (let distance = 0; distance < values.length; distance += 1) {
    if (values[index - distance] != null) return index - distance;
    if (values[index + distance] != null) return index + distance;
  }
  return null;
}
