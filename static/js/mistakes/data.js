// What a report on predictions says, in the order in which the page shows it. Pure: no DOM.

/** @typedef {Schemas['PredictionReport']} Report */
/** @typedef {Schemas['ClassPredictions']} ClassRow */
/** @typedef {Schemas['ConfusionCell']} Cell */
/** @typedef {'student' | 'teacher' | 'difference'} Matrix */
/** @typedef {'class' | 'images' | 'student' | 'teacher' | 'difference' | 'agreement' | 'precision' | 'f1'} Column */

/** Most classes of a matrix. More have no room. */
export const MOST_CLASSES = 20;

/** @param {{ name?: string | null, class: number }} row */
export const className = ({ name, class: number }) => name ?? `class ${number}`;

/**
 * The classes of the matrix, by number: all, or those that are confused most often.
 * @param {Report} report
 * @returns {ClassRow[]}
 */
export function matrixClasses({ classes, cells }) {
  if (classes.length <= MOST_CLASSES) return classes;
  /** @type {Map<number, number>} */
  const mistakes = new Map();
  for (const { label, predicted, student, teacher } of cells) {
    if (label === predicted) continue;
    for (const number of [label, predicted]) mistakes.set(number, (mistakes.get(number) ?? 0) + student + teacher);
  }
  const often = (/** @type {ClassRow} */ row) => mistakes.get(row.class) ?? 0;
  return [...classes].sort((one, other) => often(other) - often(one)).slice(0, MOST_CLASSES).sort((one, other) => one.class - other.class);
}

/**
 * The number of a cell in a matrix.
 * @param {Cell | undefined} cell
 * @param {Matrix} matrix
 */
export function cellValue(cell, matrix) {
  if (!cell) return 0;
  return matrix === 'difference' ? cell.student - cell.teacher : cell[matrix];
}

/**
 * The pairs of classes that a network confuses most often; for the difference, that the student confuses more often
 * than the teacher.
 * @param {Report} report
 * @param {Matrix} matrix
 * @param {number} most
 */
export function topMistakes({ cells }, matrix, most) {
  return cells.filter(({ label, predicted }) => label !== predicted)
    .map((cell) => ({ ...cell, value: cellValue(cell, matrix) })).filter(({ value }) => value > 0)
    .sort((one, other) => other.value - one.value).slice(0, most);
}

/**
 * How much better the student recognises a class than the teacher, in percentage points.
 * @param {ClassRow} row
 */
export function classDifference({ student, teacher }) {
  return student === null || student === undefined || teacher === null || teacher === undefined ? null : student - teacher;
}

/**
 * Percent of the student's predictions of a class that are right; null if it never predicts the class.
 * @param {ClassRow} row
 */
export function precisionOf(row) {
  return row.student_predicted ? (100 * rightOf(row)) / row.student_predicted : null;
}

/**
 * The harmonic mean of the student's recall and precision of a class, in percent; null if the class never occurs.
 * @param {ClassRow} row
 */
export function f1Of(row) {
  const both = row.images + row.student_predicted;
  return both ? (200 * rightOf(row)) / both : null;
}

/**
 * Images of a class that the student recognises.
 * @param {ClassRow} row
 */
function rightOf({ images, student }) {
  return Math.round((images * (student ?? 0)) / 100);
}

/**
 * Means over the classes, which count rare classes as much as frequent ones, as scikit-learn's `balanced_accuracy_score`
 * and `f1_score` with `average="macro"`; null without images or teacher.
 * @param {Report} report
 */
export function classMeans({ classes }) {
  const mean = (/** @type {(row: ClassRow) => number | null | undefined} */ of) => {
    const values = classes.flatMap((row) => of(row) ?? []);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  };
  return { student: mean((row) => row.student), teacher: mean((row) => row.teacher), f1: mean(f1Of) };
}

/**
 * The classes sorted by a column. What has no value comes last.
 * @param {readonly ClassRow[]} rows
 * @param {Column} column
 * @param {boolean} isDescending
 */
export function sortedClasses(rows, column, isDescending) {
  const computed = { difference: classDifference, precision: precisionOf, f1: f1Of };
  const valueOf = (/** @type {ClassRow} */ row) => (column === 'difference' || column === 'precision' || column === 'f1' ? computed[column](row) : row[column]);
  const sign = isDescending ? -1 : 1;
  return [...rows].sort((one, other) => {
    const [first, second] = [valueOf(one) ?? null, valueOf(other) ?? null];
    if (first === second) return one.class - other.class;
    if (first === null) return 1;
    if (second === null) return -1;
    return sign * (first - second);
  });
}

/**
 * What the student takes each class for most often: the predicted class with its number of images, by label.
 * @param {Report} report
 */
export function takenFor({ cells }) {
  /** @type {Map<number, Cell>} */
  const found = new Map();
  for (const cell of cells) {
    if (cell.label !== cell.predicted && cell.student > (found.get(cell.label)?.student ?? 0)) found.set(cell.label, cell);
  }
  return found;
}

/**
 * The regions of one scale among those of all: where they begin, and how many there are.
 * @param {readonly number[]} scales
 * @param {number} scale
 */
export function regionsOf(scales, scale) {
  const place = scales.indexOf(scale);
  return { first: scales.slice(0, place).reduce((sum, side) => sum + side ** 2, 0), count: scale ** 2 };
}
