// What a student costs, as the axis of the scatter plot, and the bounds that a user sets.

import { count, isNumber, significant } from '../ui/format.js';

/** @import { Maybe } from '../ui/format.js' */
/** @typedef {'parameters' | 'size_mb' | 'latency_ms' | 'latency_64_ms'} CostName */
/** @typedef {Partial<Record<CostName, Maybe>>} Costs */

/** @type {Record<CostName, { title: string, axis: string, text: (value: number) => string, tick: (value: number) => string }>} */
export const COSTS = {
  parameters: { title: 'parameters', axis: 'parameters', text: (value) => `${count(value)} parameters`, tick: count },
  size_mb: { title: 'size', axis: 'size of the weights in MB', text: (value) => `${significant(value)} MB`, tick: String },
  latency_ms: { title: 'latency', axis: 'milliseconds for one image, one thread', text: (value) => `${significant(value)} ms`, tick: String },
  latency_64_ms: { title: 'latency of 64', axis: 'milliseconds for 64 images, one thread', text: (value) => `${significant(value)} ms for 64`, tick: String },
};

export const COST_NAMES = /** @type {CostName[]} */ (Object.keys(COSTS));

/**
 * What a finished student costs. The median of a batch is what the server measured on its CPU.
 * @param {Pick<Schemas['JobDetails'], 'result' | 'student_latency'>} job
 * @param {Maybe} parameters
 * @returns {Costs}
 */
export function costsOf({ result, student_latency: measured }, parameters) {
  const median = (/** @type {number} */ images) => measured?.latency?.batches.find(({ batch }) => batch === images)?.median_ms;
  const size = result?.student?.size_bytes;
  return { parameters, size_mb: isNumber(size) ? size / 1e6 : undefined, latency_ms: median(1), latency_64_ms: median(64) };
}

/**
 * Names of the bounds that something exceeds. What is not known exceeds none.
 * @param {Costs} costs
 * @param {Costs} bounds
 */
export function missed(costs, bounds) {
  return COST_NAMES.filter((name) => {
    const [cost, bound] = [costs[name], bounds[name]];
    return isNumber(cost) && isNumber(bound) && cost > bound;
  });
}
