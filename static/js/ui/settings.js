// Settings and gains as lists and tables show them. Pure.

import { isNumber } from './format.js';

/** @import { Maybe } from './format.js' */

/**
 * The last name of a JSON pointer, without escapes.
 * @param {string} pointer
 */
function lastName(pointer) {
  return pointer.split('/').at(-1)?.replaceAll('~1', '/').replaceAll('~0', '~') ?? pointer;
}

/**
 * A short name for each of several pointers: the last name, or all of it where two would have the same.
 * @param {string[]} pointers
 */
export function shortNames(pointers) {
  const names = pointers.map(lastName);
  return names.map((name, index) => (names.indexOf(name) === names.lastIndexOf(name) ? name : pointers[index].replace(/^\//, '')));
}

/**
 * The value of a setting as text.
 * @param {unknown} value
 */
export function valueText(value) {
  if (value === null || value === undefined) return 'default';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Longest value in a table or a legend, in characters: a setting may be a whole network. */
const LONGEST_VALUE = 80;

/**
 * The same, cut if it is long.
 * @param {unknown} value
 */
export function shortValue(value, longest = LONGEST_VALUE) {
  const text = valueText(value);
  return text.length > longest ? `${text.slice(0, longest - 1)}…` : text;
}

/**
 * Whether a gain is no larger than the deviation of what it is compared with.
 * @param {Maybe} gain
 * @param {Maybe} deviation
 */
export function isWithin(gain, deviation) {
  return isNumber(gain) && isNumber(deviation) && Math.abs(gain) <= deviation;
}

/**
 * 1 for a gain, -1 for a loss, 0 for what is neither or lies within the baseline's deviation.
 * @param {number} gain
 * @param {Maybe} deviation
 */
export function gainSign(gain, deviation) {
  return isWithin(gain, deviation) ? 0 : Math.sign(Math.round(gain * 100));
}
