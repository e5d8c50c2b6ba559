// Where the names of a scatter plot's points stand. Pure.

/** @typedef {{ label: string, x: number, y: number }} NamedPoint */
/** @typedef {{ left: number, right: number, top: number, bottom: number }} Box */
/**
 * `x` is where the text begins, ends or is centred, and `y` its base line.
 * @typedef {{ point: NamedPoint, text: string, x: number, y: number, anchor: 'start' | 'end' | 'middle' }} PlacedName
 */

/** All in pixels: an average letter, the heights above and below the base line, the widest name, a point's radius. */
const LETTER = 6.5;
const ASCENT = 10;
const DESCENT = 4;
const MAX_NAME = 260;
const RADIUS = 8;
/** Shorter than this, an abbreviated name says nothing. */
const MIN_LETTERS = 6;
/** Points closer together are one mark. */
const SAME = 3;

/**
 * Offsets of a name from its point, the best first.
 * @type {[dx: number, dy: number, anchor: PlacedName['anchor']][]}
 */
const OFFSETS = [
  [11, 4, 'start'], [-11, 4, 'end'], [8, -7, 'start'], [8, 16, 'start'], [-8, -7, 'end'], [-8, 16, 'end'], [0, -12, 'middle'], [0, 22, 'middle'],
];

/**
 * Places names so that none covers another name or a point, and each is closest to its own point. A name without such a
 * place is left out.
 * @param {NamedPoint[]} points
 * @param {Box} frame in which the names must lie
 * @returns {PlacedName[]}
 */
export function placeNames(points, frame) {
  /** @type {Box[]} */
  const taken = [];
  /** @type {PlacedName[]} */
  const placed = [];
  for (const point of [...points].sort((one, other) => one.y - other.y)) {
    const others = points.filter(({ x, y }) => Math.hypot(x - point.x, y - point.y) > SAME);
    const found = candidates(point, frame).find(({ box }) => !taken.some((other) => overlap(box, other))
      && !others.some((other) => distance(box, other) < Math.max(RADIUS, distance(box, point) + 1)));
    if (!found) continue;
    taken.push(found.box);
    placed.push(found.name);
  }
  return placed;
}

/**
 * @param {NamedPoint} point
 * @param {Box} frame
 */
function candidates(point, frame) {
  return OFFSETS.flatMap(([dx, dy, anchor]) => {
    const x = point.x + dx;
    const y = point.y + dy;
    const room = { start: frame.right - x, end: x - frame.left, middle: 2 * Math.min(frame.right - x, x - frame.left) }[anchor];
    const letters = Math.floor(Math.min(room, MAX_NAME) / LETTER);
    if (letters < Math.min(MIN_LETTERS, point.label.length) || y - ASCENT < frame.top || y + DESCENT > frame.bottom) return [];
    const text = point.label.length > letters ? `${point.label.slice(0, letters - 1)}…` : point.label;
    const width = text.length * LETTER;
    const left = { start: x, end: x - width, middle: x - width / 2 }[anchor];
    return [{ name: { point, text, x, y, anchor }, box: { left, right: left + width, top: y - ASCENT, bottom: y + DESCENT } }];
  });
}

/**
 * @param {Box} one
 * @param {Box} other
 */
function overlap(one, other) {
  return one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
}

/**
 * @param {Box} box
 * @param {{ x: number, y: number }} point
 */
function distance({ left, right, top, bottom }, { x, y }) {
  return Math.hypot(Math.max(left - x, x - right, 0), Math.max(top - y, y - bottom, 0));
}
