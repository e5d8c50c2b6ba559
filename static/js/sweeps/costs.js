// What the students of a sweep cost, and which of them qualify. Pure.

import { COSTS } from '../compare/costs.js';
import { isNumber, significant, whole } from '../ui/format.js';

/** @import { CostName } from '../compare/costs.js' */
/** @typedef {Schemas['ParetoStudent']} Student */
/** @typedef {Pick<Schemas['CombinationResult'], 'jobs'>} Result */
/** @typedef {{ text: string, title: string }} Latency */
/** @typedef {{ state: 'yes' | 'some' | 'no' | 'unknown', text: string, title: string }} Verdict */
/**
 * Finished students by their job.
 * @typedef {object} SweepCosts
 * @property {Map<string, Student>} students
 * @property {boolean} isBounded whether there are constraints
 * @property {string} reason why no latency is measured; empty if it is
 */

/**
 * @param {Schemas['Pareto']} pareto
 * @returns {SweepCosts}
 */
export function sweepCosts({ data, constraints, not_measured: reason }) {
  return { students: new Map(data.map((student) => [student.id, student])), isBounded: Object.values(constraints).some(isNumber), reason: reason ?? '' };
}

/**
 * The finished students of a combination.
 * @param {Result} result
 * @param {SweepCosts} costs
 */
function studentsOf({ jobs }, { students }) {
  return jobs.flatMap(({ id }) => students.get(id) ?? []);
}

/**
 * The median of the latencies for one image, the upper one of two. The seeds of a combination share their network.
 * @param {Result} result
 * @param {SweepCosts} costs
 * @returns {Latency}
 */
export function latencyOf(result, costs) {
  const students = studentsOf(result, costs);
  if (students.length === 0) return { text: '–', title: 'None of its jobs has finished' };
  const measured = students.flatMap(({ latency }) => latency ?? []);
  const medians = measured.flatMap(({ batches }) => batches.find(({ batch }) => batch === 1)?.median_ms ?? []).sort((one, other) => one - other);
  if (medians.length === 0) {
    const failure = students.flatMap(({ latency_failure: failure }) => failure ?? []).at(0);
    return { text: '–', title: failure ? `It cannot be measured: ${failure}` : costs.reason || 'Not measured yet' };
  }
  const cpus = [...new Set(measured.map(({ cpu }) => cpu))];
  const where = cpus.length === 1 ? `on ${cpus[0]}` : `on ${cpus.length} different CPUs, which cannot be compared`;
  const [fastest, slowest] = [medians[0], medians[medians.length - 1]].map(significant);
  const range = fastest === slowest ? fastest : `${fastest} to ${slowest}`;
  return { text: `${significant(medians[Math.floor(medians.length / 2)])} ms`, title: `${range} ms for one image ${where}` };
}

/**
 * Whether the students of a combination meet the constraints.
 * @param {Result} result
 * @param {SweepCosts} costs
 * @returns {Verdict}
 */
export function verdictOf(result, costs) {
  const students = studentsOf(result, costs);
  if (students.length === 0) return { state: 'unknown', text: '–', title: 'None of its jobs has finished' };
  const misses = students.filter(({ qualifies }) => qualifies === false);
  const count = students.filter(({ qualifies }) => qualifies === true).length;
  const why = [...new Set(misses.flatMap(({ missed }) => missed.map(missText)))].join('; ');
  if (count === students.length) return { state: 'yes', text: 'yes', title: count === 1 ? 'Its student qualifies' : `All ${count} students qualify` };
  if (misses.length === students.length) return { state: 'no', text: 'no', title: why };
  const unknown = [...new Set(students.flatMap((student) => student.unknown))].map((name) => titleOf(name));
  if (count + misses.length === 0) return { state: 'unknown', text: 'not known', title: `Not known: ${unknown.join(', ')}` };
  const parts = [why, unknown.length ? `not known of ${students.length - count - misses.length}: ${unknown.join(', ')}` : ''];
  return { state: 'some', text: `${count} of ${students.length}`, title: parts.filter(Boolean).join('; ') };
}

/** @param {Schemas['Missed']} missed */
function missText({ constraint, most, value }) {
  return `${titleOf(constraint)} ${textOf(constraint, value)}, at most ${textOf(constraint, most)}`;
}

/** @param {string} name of a constraint, which a newer server may know alone */
function titleOf(name) {
  return COSTS[/** @type {CostName} */ (name)]?.title ?? name;
}

/**
 * @param {string} name
 * @param {number} value
 */
function textOf(name, value) {
  return name === 'parameters' ? whole(value) : `${significant(value)}${name.endsWith('_ms') ? ' ms' : name.endsWith('_mb') ? ' MB' : ''}`;
}

/**
 * How many finished students qualify, and what is not known; empty without constraints.
 * @param {SweepCosts} costs
 */
export function qualifyingText({ students, isBounded, reason }) {
  const all = [...students.values()];
  const latency = reason ? `Latencies are not measured: ${reason}` : '';
  if (!isBounded) return latency;
  if (all.length === 0) return ['No student has finished yet', latency].filter(Boolean).join(' · ');
  const unknown = all.filter(({ qualifies }) => (qualifies ?? null) === null).length;
  const parts = [`${all.filter(({ qualifies }) => qualifies).length} of ${all.length} finished students qualify`, unknown ? `${unknown} not known` : '', latency];
  return parts.filter(Boolean).join(' · ');
}

/**
 * Whether some student has neither a latency nor a reason for having none.
 * @param {SweepCosts} costs
 */
export function isWaiting({ students, reason }) {
  return !reason && [...students.values()].some(({ latency, latency_failure: failure }) => !latency && !failure);
}
