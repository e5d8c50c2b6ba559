// Where a specification differs from the published recipe. Pure.

import { escapePart, isObject } from '../json/pointers.js';

/** @typedef {Schemas['JobSpec']} JobSpec */
/**
 * A value is undefined where its specification has no such field.
 * @typedef {{ pointer: string, ours: unknown, published: unknown }} Difference
 */

/** Where a recipe is specified, and what there does not belong to it. */
const PARTS = /** @type {const} */ (['distillation', 'training']);
const IGNORED = new Set(['/training/seed']);

/**
 * The smallest request whose defaults are the recipe for the same networks, data set and method.
 * @param {Pick<JobSpec, 'teacher' | 'student' | 'dataset' | 'distillation'>} spec
 */
export function plainRequest({ teacher, student, dataset, distillation: { method } }) {
  return { ...(teacher ? { teacher } : {}), student, dataset, distillation: { method } };
}

/**
 * @param {Pick<JobSpec, 'distillation' | 'training'>} spec
 * @param {Pick<JobSpec, 'distillation' | 'training'>} published
 */
export function differences(spec, published) {
  return PARTS.flatMap((part) => compare(`/${part}`, spec[part], published[part])).filter(({ pointer }) => !IGNORED.has(pointer));
}

/**
 * @param {string} pointer
 * @param {unknown} ours
 * @param {unknown} published
 * @returns {Difference[]}
 */
function compare(pointer, ours, published) {
  if (isObject(ours) && isObject(published) && !Array.isArray(ours) && !Array.isArray(published)) {
    const keys = new Set([...Object.keys(ours), ...Object.keys(published)]);
    return [...keys].flatMap((key) => compare(`${pointer}/${escapePart(key)}`, ours[key], published[key]));
  }
  return JSON.stringify(ours) === JSON.stringify(published) ? [] : [{ pointer, ours, published }];
}
