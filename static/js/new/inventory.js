// What a new job can be made of: what the server has, and the job that the address names.

import { allCheckpoints, api } from '../api/client.js';
import { preset, withTeacher } from './presets.js';

/**
 * @typedef {object} Inventory
 * @property {Schemas['Architecture'][]} architectures
 * @property {Dataset[]} datasets
 * @property {Schemas['UnusableDirectory'][]} unusable directories that are no data sets
 * @property {Schemas['Checkpoint'][]} checkpoints
 * @property {Schemas['Worker'][]} workers
 */

/**
 * A list that cannot be read is empty; the page works without it.
 * @param {AbortSignal} signal
 * @returns {Promise<Inventory>}
 */
export async function inventory(signal) {
  const [architectures, { data: datasets, unusable }, checkpoints, workers] = await Promise.all([
    listOrNothing(api.architectures(signal)), api.datasets(signal).catch(() => ({ data: [], unusable: [] })),
    allCheckpoints(signal).catch(() => []), listOrNothing(api.workers(signal)),
  ]);
  return { architectures, datasets, unusable, checkpoints, workers };
}

/**
 * @template T
 * @param {Promise<{ data: T[] }>} answer
 * @returns {Promise<T[]>}
 */
async function listOrNothing(answer) {
  try {
    return (await answer).data;
  } catch {
    return [];
  }
}

/** @typedef {{ origin: string, spec: any, problem?: string }} Start `origin` names the draft; without `spec` the form starts from a preset */

/**
 * The specification that the address asks for: a job's as it was sent, or a new one taught by a job's student.
 * @param {URLSearchParams} query
 * @param {AbortSignal} signal
 * @returns {Promise<Start>}
 */
export async function startingPoint(query, signal) {
  const from = query.get('from');
  const id = from ?? query.get('teacher_job');
  if (!id) return { origin: '', spec: null };
  const origin = from ? `from=${id}` : `teacher_job=${id}`;
  try {
    const { spec } = await api.job(id, signal);
    if (from) return { origin, spec: await api.submitted(id, signal).catch(() => spec) };
    return { origin, spec: withTeacher({ ...preset('sdd_kd'), dataset: spec.dataset }, { job: id }) };
  } catch (error) {
    return { origin, spec: null, problem: `The form does not start from job ${id}: ${error.message}` };
  }
}
