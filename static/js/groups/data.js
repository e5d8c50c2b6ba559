// Groups of jobs: their address, and where their lines lie in parallel coordinates. Pure.

import { isNumber } from '../ui/format.js';
import { valueText } from '../ui/settings.js';

/** @typedef {Schemas['Group']} Group */
/** @typedef {{ by: string[], labels: string[], q: string, sweep: string, sort: string, order: string }} GroupQuery */
/** @typedef {{ name: string, places: (number | null)[], ticks: { text: string, place: number }[] }} ParallelAxis places from 0 to 1, one for each line */

export const SORTS = ['top1', 'gain', 'best', 'deviation', 'n'];
export const MAX_KEYS = 8;
const DEFAULT_BY = ['method'];

/**
 * Invalid parameters count as missing.
 * @param {URLSearchParams} parameters
 * @returns {GroupQuery}
 */
export function parseGroups(parameters) {
  const by = [...new Set(parameters.getAll('by').filter(Boolean))].slice(0, MAX_KEYS);
  const sort = parameters.get('sort') ?? '';
  return {
    by: by.length ? by : DEFAULT_BY, labels: parameters.getAll('label'), q: parameters.get('q') ?? '', sweep: parameters.get('sweep') ?? '',
    sort: SORTS.includes(sort) ? sort : SORTS[0], order: parameters.get('order') === 'asc' ? 'asc' : 'desc',
  };
}

/**
 * The address of groups; defaults are left out.
 * @param {GroupQuery} query
 */
export function groupsAddress({ by, labels, q, sweep, sort, order }) {
  const parameters = new URLSearchParams();
  if (by.join() !== DEFAULT_BY.join()) for (const key of by) parameters.append('by', key);
  for (const label of labels) parameters.append('label', label);
  if (q) parameters.set('q', q);
  if (sweep) parameters.set('sweep', sweep);
  if (sort !== SORTS[0]) parameters.set('sort', sort);
  if (order !== 'desc') parameters.set('order', order);
  const text = parameters.toString();
  return text ? `#/groups?${text}` : '#/groups';
}

/**
 * The parameters of `GET /v1/groups`.
 * @param {GroupQuery} query
 */
export function groupsRequest({ by, labels, q, sweep, sort, order }) {
  return { by, label: labels, q: q.trim(), sweep, sort, order, limit: 200 };
}

/**
 * An axis for numbers, which keeps their distances, or for anything else, in equal steps in the order of their text.
 * Lists of numbers are ordered by their elements.
 * @param {string} name
 * @param {unknown[]} values
 * @returns {ParallelAxis}
 */
export function parallelAxis(name, values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  const numbers = known.filter(isNumber);
  const isNumeric = known.length > 0 && numbers.length === known.length;
  const [low, high] = isNumeric ? [Math.min(...numbers), Math.max(...numbers)] : [0, 0];
  if (isNumeric && high > low) {
    // What spans orders of magnitude, such as a learning rate, is spread by its logarithm.
    const scale = low > 0 && high / low >= 100 ? Math.log : (/** @type {number} */ value) => value;
    const place = (/** @type {number} */ value) => (scale(value) - scale(low)) / (scale(high) - scale(low));
    return { name, places: values.map((value) => (isNumber(value) ? place(value) : null)), ticks: ticksOf([...new Set(numbers)].sort((one, other) => one - other), place) };
  }
  const texts = [...new Set(known.map(valueText))].sort(BY_TEXT.compare);
  const places = new Map(texts.map((text, index) => [text, texts.length > 1 ? index / (texts.length - 1) : 0.5]));
  const place = (/** @type {string} */ text) => places.get(text) ?? 0.5;
  return {
    name, places: values.map((value) => (value === null || value === undefined ? null : place(valueText(value)))),
    ticks: texts.length > MAX_TICKS ? [texts[0], texts[texts.length - 1]].map((text) => ({ text, place: place(text) })) : texts.map((text) => ({ text, place: place(text) })),
  };
}

const BY_TEXT = new Intl.Collator('en', { numeric: true });

/** Values that are written beside an axis. */
const MAX_TICKS = 9;

/**
 * @param {number[]} numbers ascending
 * @param {(value: number) => number} place
 */
function ticksOf(numbers, place) {
  const shown = numbers.length > MAX_TICKS ? [numbers[0], numbers[numbers.length - 1]] : numbers;
  const far = shown.filter((value, index) => index === 0 || index === shown.length - 1 || (place(value) - place(shown[index - 1]) > 0.06 && 1 - place(value) > 0.06));
  return far.map((value) => ({ text: String(Number(value.toPrecision(6))), place: place(value) }));
}

/**
 * A warning of groups whose accuracies are of different data sets; '' without any.
 * @param {Group[]} groups
 */
export function mixedNote(groups) {
  const mixed = groups.filter(({ datasets }) => datasets > 1).length;
  if (mixed === 0) return '';
  const which = groups.length === 1 ? 'This group pools' : mixed === groups.length ? 'All groups pool' : `${mixed} of ${groups.length} groups pool`;
  return `${which} jobs of different data sets, whose accuracies cannot be compared: group by dataset, too.`;
}

/**
 * The rows of a file with the groups.
 * @param {string[]} by
 * @param {Group[]} groups
 */
export function groupsCsv(by, groups) {
  return [[...by, 'top1', 'deviation', 'n', 'copies', 'best', 'gain', 'baseline_deviation'],
    ...groups.map(({ values, top1, deviation, n, copies, best, gain, baseline_deviation: ofBaseline }) =>
      [...values.map((value) => (value === null ? null : valueText(value))), top1, deviation, n, copies, best, gain, ofBaseline])];
}
