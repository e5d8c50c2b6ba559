// Labels as people type them: `team: vision, note: "a, b"`. Pure.

import { isObject } from '../json/pointers.js';

/** @import { Reading } from '../json/numbers.js' */

const QUOTED = String.raw`"(?:[^"\\]|\\.)*"`;
const PAIR = new RegExp(`^\\s*(${QUOTED}|[^",:][^,:]*?)\\s*:\\s*(${QUOTED}|[^",\\s][^,]*?)\\s*(?:,|$)`);
/** Text that would be read otherwise without quotes. */
const NEEDS_QUOTES = /^$|^\s|\s$|^"|[,\\]/;

/**
 * @param {string} text
 * @returns {Reading<Record<string, string>>}
 */
export function readLabels(text) {
  /** @type {Map<string, string>} */
  const labels = new Map();
  let rest = text.trim();
  while (rest !== '') {
    const [whole, key, value] = PAIR.exec(rest) ?? [];
    if (whole === undefined || key === undefined || value === undefined) {
      return { fault: `${rest.split(',')[0].trim() || rest}: write a name, a colon and a value` };
    }
    const name = unquoted(key);
    const label = unquoted(value);
    if (name === null || label === null) return { fault: `${whole.trim()}: text in quotes is written as in JSON` };
    if (labels.has(name)) return { fault: `the label ${name} is given twice` };
    labels.set(name, label);
    rest = rest.slice(whole.length).trim();
  }
  return { value: labels.size ? Object.fromEntries(labels) : undefined };
}

/** @param {string} text */
function unquoted(text) {
  if (!text.startsWith('"')) return text;
  try {
    return String(JSON.parse(text));
  } catch {
    return null;
  }
}

/** @param {unknown} labels */
export function writeLabels(labels) {
  if (!isObject(labels) || Array.isArray(labels)) return JSON.stringify(labels);
  return Object.entries(labels).map(([key, label]) => `${quoted(key, /:/)}: ${quoted(String(label))}`).join(', ');
}

/**
 * @param {string} text
 * @param {RegExp} [more] what needs quotes too
 */
function quoted(text, more) {
  return NEEDS_QUOTES.test(text) || more?.test(text) ? JSON.stringify(text) : text;
}
