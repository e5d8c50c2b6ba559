// Reading and changing a document at JSON pointers (RFC 6901). Pure.

/**
 * The keys of a pointer.
 * @param {string} pointer
 */
export function parts(pointer) {
  return pointer === '' ? [] : pointer.slice(1).split('/').map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
}

/**
 * A key or an index as one part of a pointer.
 * @param {string | number} part
 */
export function escapePart(part) {
  return String(part).replaceAll('~', '~0').replaceAll('/', '~1');
}

/**
 * Whether a value is an object or an array.
 * @param {unknown} value
 * @returns {value is Record<string, unknown>}
 */
export function isObject(value) {
  return value !== null && typeof value === 'object';
}

/**
 * The value at a pointer; undefined if there is none.
 * @param {unknown} document
 * @param {string} pointer
 * @returns {any}
 */
export function valueAt(document, pointer) {
  return parts(pointer).reduce((value, key) => (isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined), document);
}

/**
 * A copy of the document with another value at a pointer. Undefined removes the value, and objects that become empty.
 * @param {unknown} document
 * @param {string} pointer
 * @param {unknown} value
 * @returns {any}
 */
export function withValue(document, pointer, value) {
  return change(document, parts(pointer), value) ?? {};
}

/**
 * @param {unknown} node
 * @param {string[]} keys
 * @param {unknown} value
 * @returns {unknown}
 */
function change(node, [key, ...rest], value) {
  if (key === undefined) return value;
  const object = isObject(node) && !Array.isArray(node) ? { ...node } : {};
  const next = change(object[key], rest, value);
  if (next === undefined) delete object[key];
  // Assignment would set the prototype for the key `__proto__`.
  else Object.defineProperty(object, key, { value: next, enumerable: true, configurable: true, writable: true });
  return Object.keys(object).length === 0 && value === undefined ? undefined : object;
}
