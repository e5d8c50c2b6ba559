// JSON for people. Pure.

/**
 * Indented JSON that keeps on one line what fits there: [150, 180, 210].
 * @param {unknown} value
 */
export function prettyJson(value, width = 72) {
  return pretty(value, '', width);
}

/**
 * @param {unknown} value
 * @param {string} indent
 * @param {number} width
 * @returns {string}
 */
function pretty(value, indent, width) {
  const flat = oneLine(value);
  if (value === null || typeof value !== 'object' || (flat.length + indent.length <= width && !nests(value))) return flat;
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    return `[\n${value.map((element) => inner + pretty(element, inner, width)).join(',\n')}\n${indent}]`;
  }
  const members = Object.entries(value).map(([key, member]) => `${inner}${JSON.stringify(key)}: ${pretty(member, inner, width)}`);
  return `{\n${members.join(',\n')}\n${indent}}`;
}

/**
 * Whether an object contains objects: these read better over several lines, however short.
 * @param {object} value
 */
function nests(value) {
  return !Array.isArray(value) && Object.values(value).some((member) => member !== null && typeof member === 'object' && !Array.isArray(member));
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function oneLine(value) {
  if (Array.isArray(value)) return `[${value.map(oneLine).join(', ')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value) ?? 'null';
  const members = Object.entries(value).map(([key, member]) => `${JSON.stringify(key)}: ${oneLine(member)}`);
  return members.length === 0 ? '{}' : `{${members.join(', ')}}`;
}
