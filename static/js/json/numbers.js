// Numbers as people type them. Pure.

/**
 * What a text field holds: a value, undefined if it is empty, or a fault.
 * @template T
 * @typedef {{ value?: T, fault?: undefined } | { fault: string, value?: undefined }} Reading
 */

/** Groups of three digits, such as `1 234 567`: the only blanks that a number may have. */
const GROUPED = /^[-+]?\d{1,3}(?:([\s\u00a0\u202f'’])\d{3})(?:\1\d{3})*(?:[.,]\d+)?$/;

/**
 * A number with a decimal point or a decimal comma. Text that could mean two numbers is a fault.
 * @param {string} text
 * @param {{ whole?: boolean }} [options]
 * @returns {Reading<number>}
 */
export function readNumber(text, { whole = false } = {}) {
  const shown = text.trim();
  if (shown === '') return { value: undefined };
  const digits = GROUPED.test(shown) ? shown.replaceAll(/[\s\u00a0\u202f'’]/g, '') : shown;
  if (/^[-+]?\d{1,3}([.,])\d{3}(\1\d{3})+$/.test(digits) || /^[-+]?[\d.,]*(,[\d.,]*\.|\.[\d.,]*,)/.test(digits)) {
    return { fault: `write ${shown} without thousands separators` };
  }
  if (/^[-+]?[1-9]\d{0,2},\d{3}$/.test(digits)) {
    return { fault: `${shown} could be ${digits.replace(',', '')} or ${digits.replace(',', '.')}: write one of these` };
  }
  const plain = digits.replace(',', '.');
  if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain)) return { fault: `${shown} is not a number` };
  const value = Number(plain);
  if (!Number.isFinite(value)) return { fault: `${shown} is too large` };
  if (whole && !Number.isInteger(value)) return { fault: `${shown} is not a whole number` };
  if (whole && !Number.isSafeInteger(value)) return { fault: `${shown} is too large to be exact` };
  return { value };
}

/**
 * Numbers separated by commas or spaces, as in `150, 180, 210`; by semicolons if they have decimal commas. `0,5, 0,3`
 * is a fault: its commas could be decimal commas.
 * @param {string} text
 * @param {{ whole?: boolean }} [options]
 * @returns {Reading<number[]>}
 */
export function readNumbers(text, options) {
  const hasSemicolons = text.includes(';');
  if (!hasSemicolons && /\d,\d/.test(text) && /\d\s*,?\s+\d/.test(text)) {
    return { fault: `${text.trim()} can be read in two ways: put a space after every comma, or separate the numbers by semicolons` };
  }
  const pieces = (hasSemicolons ? text.split(';') : text.split(/[\s,]+/)).map((piece) => piece.trim()).filter(Boolean);
  if (pieces.length === 0) return text.trim() === '' ? { value: undefined } : { fault: `${text.trim()} has no number` };
  /** @type {number[]} */
  const values = [];
  for (const piece of pieces) {
    const { value, fault } = readNumber(piece, options);
    if (fault !== undefined) return { fault };
    if (value !== undefined) values.push(value);
  }
  return { value: values };
}
