// Where a specification leaves the published recipe. Pure.

import { escapePart } from '../json/positions.js';

/** What makes a recipe; names, data and seeds do not. */
const PARTS = ['distillation', 'training'];
const NOT_PART = new Set(['/training/seed']);

/** The smallest request whose defaults are the recipe of this pair and method. */
export function plainRequest(spec) {
  const { teacher, student, dataset, distillation: { method } } = spec;
  return { ...(teacher ? { teacher } : {}), student, dataset, distillation: { method } };
}

/** `[{pointer, ours, published}]`, undefined where one of them has no such field. */
export function differences(spec, published) {
  const found = [];
  for (const part of PARTS) compare(`/${part}`, spec[part], published[part], found);
  return found.filter(({ pointer }) => !NOT_PART.has(pointer));
}

function compare(pointer, ours, published, found) {
  if (isObject(ours) && isObject(published)) {
    const keys = new Set([...Object.keys(ours), ...Object.keys(published)]);
    for (const key of keys) compare(`${pointer}/${escapePart(key)}`, ours[key], published[key], found);
  } else if (JSON.stringify(ours) !== JSON.stringify(published)) {
    found.push({ pointer, ours, published });
  }
}

function isObject(value) {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}
