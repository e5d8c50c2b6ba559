// What the pages of sweeps show, as texts and curves. Pure.

import { duration, isNumber, percent, whole } from '../ui/format.js';
import { shortNames, shortValue } from '../ui/settings.js';
import { isFinal } from '../ui/status.js';

/** @typedef {Schemas['CombinationResult']} Result */

/** Most lines of the chart: more are hard to tell apart, and the server sends no more curves. */
export const MAX_LINES = 12;

/**
 * The settings of a combination: "temperature 4, scales [1,2]".
 * @param {string[]} pointers
 * @param {Result} result
 */
export function combinationName(pointers, { settings }) {
  const names = shortNames(pointers);
  return pointers.map((pointer, index) => `${names[index]} ${shortValue(settings[pointer])}`).join(', ');
}

/**
 * "76.30 ± 0.21 %"
 * @param {{ top1?: number | null, deviation?: number | null }} accuracy
 */
export function spread({ top1, deviation }) {
  return isNumber(top1) && isNumber(deviation) ? `${top1.toFixed(2)} ± ${deviation.toFixed(2)} %` : percent(top1);
}

/**
 * "4 running, 2 queued", in the order of a job's life. Halving cancels what it drops: without the number of these, both
 * are counted together.
 * @param {Record<string, number>} jobs by status
 * @param {Schemas['Strategy']} strategy
 * @param {number} [dropped] jobs among those cancelled that the strategy dropped
 */
export function jobsText(jobs, strategy, dropped) {
  const order = ['running', 'pausing', 'cancelling', 'queued', 'paused', 'succeeded', 'failed', 'dropped', 'dropped or cancelled', 'cancelled'];
  const place = (/** @type {string} */ status) => (order.includes(status) ? order.indexOf(status) : order.length);
  const { cancelled = 0, ...others } = jobs;
  /** @type {Record<string, number>} */
  const ended = strategy.type !== 'halving' ? { cancelled }
    : dropped === undefined ? { 'dropped or cancelled': cancelled }
      // The two numbers may come from different moments.
      : { dropped: Math.min(dropped, cancelled), cancelled: Math.max(cancelled - dropped, 0) };
  const counts = [...Object.entries(others), ...Object.entries(ended).filter(([, count]) => count > 0)];
  const parts = counts.sort(([one], [other]) => place(one) - place(other)).map(([status, count]) => `${count} ${status}`);
  return parts.join(', ') || 'no jobs';
}

/**
 * Whether halving dropped a job. It drops jobs that wait at a rung; one that was cancelled elsewhere, a person cancelled.
 * @param {Pick<Schemas['MemberJob'], 'status' | 'fraction'>} job
 * @param {Pick<Result, 'dropped_after'>} result its combination
 * @param {Schemas['Strategy']} strategy
 */
export function isDropped({ status, fraction }, { dropped_after: after }, strategy) {
  if (strategy.type !== 'halving' || status !== 'cancelled' || !isNumber(after) || !isNumber(fraction)) return false;
  const epochs = strategy.rungs.at(-1) ?? after;
  return Math.abs(fraction * epochs - after) < 0.5;
}

/**
 * The number of jobs that the strategy dropped.
 * @param {Result[]} results
 * @param {Schemas['Strategy']} strategy
 */
export function droppedCount(results, strategy) {
  return results.reduce((sum, result) => sum + result.jobs.filter((job) => isDropped(job, result, strategy)).length, 0);
}

/** @param {number} epochs */
export const epochsText = (epochs) => (epochs === 1 ? '1 epoch' : `${epochs} epochs`);

/**
 * What a sweep tries: "halving after 5, 15, 60 epochs, 33 % kept". What only another version knows is just named.
 * @param {Schemas['Strategy']} strategy
 */
export function strategyText(strategy) {
  if (strategy.type === 'halving') return `halving after ${strategy.rungs.join(', ')} epochs, ${Math.round(100 * (strategy.keep ?? 1 / 3))} % kept`;
  return strategy.type === 'random' ? `random, at most ${strategy.jobs === 1 ? '1 job' : `${strategy.jobs} jobs`}` : strategy.type;
}

/**
 * How much of the training of all jobs is done, from 0 to 1. What was dropped or has failed counts as done.
 * @param {Result[]} results
 */
export function doneShare(results) {
  const jobs = results.flatMap((result) => result.jobs);
  const done = jobs.map(({ status, fraction }) => (isFinal(status) ? 1 : fraction ?? 0));
  return jobs.length ? done.reduce((sum, part) => sum + part, 0) / jobs.length : 0;
}

/**
 * The curves of the best combinations, by epoch.
 * @param {string[]} pointers
 * @param {Result[]} results
 */
export function curveLines(pointers, results) {
  return results.slice(0, MAX_LINES).map((result) => ({
    label: `${combinationName(pointers, result)} (${result.n === 1 ? '1 job' : `mean of ${result.n} jobs`})`,
    xs: result.curve.map(([epoch]) => epoch),
    ys: result.curve.map(([, top1]) => top1),
  }));
}

/**
 * What the charts leave out, and where it is; empty if they show all.
 * @param {number} combinations
 */
export function leftOutText(combinations) {
  return combinations > MAX_LINES ? `The charts show the best ${MAX_LINES} of ${whole(combinations)} combinations. The table and its CSV have the others.` : '';
}

/**
 * The accuracies by which combinations were compared: one line for each, one point for each rung.
 * @param {string[]} pointers
 * @param {Result[]} results
 */
export function rungLines(pointers, results) {
  return results.filter(({ rungs }) => rungs.length > 0).slice(0, MAX_LINES).map((result) => {
    const points = result.rungs.filter(({ top1 }) => isNumber(top1));
    const offset = (/** @type {1 | -1} */ sign) => points.map(({ top1, deviation }) => (top1 ?? 0) + sign * (deviation ?? 0));
    const dropped = isNumber(result.dropped_after) ? `, dropped after ${result.dropped_after}` : '';
    return {
      label: `${combinationName(pointers, result)}${dropped}`,
      xs: points.map(({ epochs }) => epochs), ys: points.map(({ top1 }) => top1 ?? null), low: offset(-1), high: offset(1),
    };
  });
}

/**
 * The time for which devices were held.
 * @param {Result[]} results
 */
export function costText(results) {
  return duration(results.reduce((sum, { cost_seconds: seconds }) => sum + seconds, 0));
}
