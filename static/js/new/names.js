// Lists of names as people type them. Pure.

/** @import { Reading } from '../json/numbers.js' */

/**
 * Names separated by commas, or a JSON list of them, which may have commas in names: `cat, dog` or `["a, b", "c"]`.
 * @param {string} text
 * @returns {Reading<string[]>}
 */
export function readNames(text) {
  const shown = text.trim();
  if (shown === '') return { value: undefined };
  if (!shown.startsWith('[')) return { value: shown.split(',').map((name) => name.trim()).filter(Boolean) };
  try {
    const list = JSON.parse(shown);
    if (Array.isArray(list) && list.every((name) => typeof name === 'string')) return { value: list };
  } catch {
    // What is wrong with it is of no use: it is being typed.
  }
  return { fault: 'expected names separated by commas, or a JSON list of names' };
}

/** @param {unknown} names */
export function writeNames(names) {
  const isPlain = (/** @type {unknown} */ name) => typeof name === 'string' && name === name.trim() && name !== '' && !name.includes(',') && !name.startsWith('[');
  return Array.isArray(names) && names.every(isPlain) ? names.join(', ') : JSON.stringify(names);
}
