// Numbers as people type them. Pure.

/**
 * What a text field holds: a value, undefined if it is empty, or a fault.
 * @template T
 * @typedef {{ value?: T, fault?: undefined } | { fault: string, value?: undefined }} Reading
 */

/**
 * A number with a decimal point or a decimal comma. Text that could mean two numbers is a fault.
 * @param {string} text
 * @param {{ whole?: boolean }} [options]
 * @returns {Reading<number>}
 */
export function readNumber(text, { whole = false } = {}) {
  const shown = text.trim();
  const digits = shown.replaceAll(/[\s\u00a0\u202f'’]/g, '');
  if (digits === '') return { value: undefined };
  if (/^[-+]?\d{1,3}([.,])\d{3}(\1\d{3})+$/.test(digits) || /,.*\.|\..*,/.test(digits)) {
    return { fault: `write ${shown} without thousands separators` };
  }
  if (/^[-+]?[1-9]\d{0,2},\d{3}$/.test(digits)) {
    return { fault: `${shown} could be ${digits.replace(',', '')} or ${digits.replace(',', '.')}: write one of these` };
  }
  const plain = digits.replace(',', '.');
  if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain)) return { fault: `${shown} is not a number` };
  const value = Number(plain);
  if (!Number.isFinite(value)) return { fault: `${shown} is too large` };
  if (whole && !Number.isSafeInteger(value)) return { fault: `${shown} is not a whole number` };
  return { value };
}

/**
 * Numbers separated by commas or spaces, as in `150, 180, 210`; by semicolons if they have decimal commas.
 * @param {string} text
 * @param {{ whole?: boolean }} [options]
 * @returns {Reading<number[]>}
 */
export function readNumbers(text, options) {
  const pieces = (text.includes(';') ? text.split(';') : text.split(/[\s,]+/)).map((piece) => piece.trim()).filter(Boolean);
  if (pieces.length === 0) return { value: undefined };
  /** @type {number[]} */
  const values = [];
  for (const piece of pieces) {
    const { value, fault } = readNumber(piece, options);
    if (fault !== undefined) return { fault };
    if (value !== undefined) values.push(value);
  }
  return { value: values };
}
