// A curve the size of a word.

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 74;
const HEIGHT = 22;
const MARGIN = 2;

/** An SVG element with these attributes. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * `[[x, y], …]` of points `[step, value]`, laid out between the corners of a sparkline; `steps` is the whole run, so that
 * a curve grows to the right instead of being squeezed.
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

/** An element and an `update(points, steps)`. What it shows is said elsewhere in numbers. */
export function sparkline() {
  const line = svg('polyline', { class: 'spark-line' });
  const dot = svg('circle', { class: 'spark-dot', r: 2 });
  const element = svg('svg', { class: 'spark', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, 'aria-hidden': 'true' }, line, dot);
  let shown = '';
  return {
    element,
    update(points, steps) {
      const key = `${points.length} ${points.at(-1)} ${steps}`;
      if (key === shown) return;
      shown = key;
      const places = layOut(points, steps);
      line.setAttribute('points', places.map((place) => place.join()).join(' '));
      const [x, y] = places.at(-1) ?? [-9, -9];
      dot.setAttribute('cx', x);
      dot.setAttribute('cy', y);
    },
  };
}
