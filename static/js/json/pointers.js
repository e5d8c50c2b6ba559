// Reading and changing a document at JSON pointers (RFC 6901). Pure.

/** The keys of a pointer. */
export function parts(pointer) {
  return pointer === '' ? [] : pointer.slice(1).split('/').map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
}

/** What stands at the pointer; undefined where nothing does. */
export function valueAt(document, pointer) {
  return parts(pointer).reduce((value, key) => (value !== null && typeof value === 'object' && Object.hasOwn(value, key) ? value[key] : undefined), document);
}

/** A copy of the document with that value there; undefined removes it, and the objects that are empty without it. */
export function withValue(document, pointer, value) {
  return change(document, parts(pointer), value) ?? {};
}

function change(node, [key, ...rest], value) {
  if (key === undefined) return value;
  const object = node !== null && typeof node === 'object' && !Array.isArray(node) ? { ...node } : {};
  const next = change(object[key], rest, value);
  if (next === undefined) delete object[key];
  else Object.defineProperty(object, key, { value: next, enumerable: true, configurable: true, writable: true });
  return Object.keys(object).length === 0 && value === undefined ? undefined : object;
}

/**
 * A number as people write it, with a decimal point or a decimal comma: `{value}`, or `{fault}` where it is none or
 * could be two. Nothing but blanks is no value.
 */
export function readNumber(text, { whole = false } = {}) {
  const trimmed = text.trim().replaceAll(/[\s\u00a0\u202f'’]/g, '');
  if (trimmed === '') return { value: undefined };
  if (/^[-+]?\d{1,3}([.,])\d{3}(\1\d{3})+$/.test(trimmed) || /,.*\.|\..*,/.test(trimmed)) return { fault: `${text.trim()} has separators of thousands: leave them out` };
  if (/^[-+]?[1-9]\d{0,2},\d{3}$/.test(trimmed)) return { fault: `${text.trim()} could be ${trimmed.replace(',', '')} or ${trimmed.replace(',', '.')}: write one of these` };
  const plain = trimmed.replace(',', '.');
  if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain)) return { fault: `${text.trim()} is not a number` };
  const value = Number(plain);
  if (!Number.isFinite(value)) return { fault: `${text.trim()} is too large` };
  if (whole && !Number.isSafeInteger(value)) return { fault: `${text.trim()} is not a whole number` };
  return { value };
}

/** Numbers between commas or blanks, as in `150, 180, 210`; with decimal commas semicolons separate. */
export function readNumbers(text, options) {
  const pieces = (text.includes(';') ? text.split(';') : text.split(/[\s,]+/)).map((piece) => piece.trim()).filter(Boolean);
  if (pieces.length === 0) return { value: undefined };
  const read = pieces.map((piece) => readNumber(piece, options));
  return read.find(({ fault }) => fault) ?? { value: read.map(({ value }) => value) };
}
