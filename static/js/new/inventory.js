// What a new job can be made of: what the server has, and the job that the address names.

import { api } from '../api/client.js';
import { preset, withTeacher } from './presets.js';

/**
 * @typedef {object} Inventory
 * @property {Schemas['Architecture'][]} architectures
 * @property {Dataset[]} datasets
 * @property {Schemas['Checkpoint'][]} checkpoints
 * @property {Schemas['Worker'][]} workers
 * @property {Schemas['Job'][]} jobs possible teachers
 */

/**
 * A list that cannot be read is empty; the page works without it.
 * @param {AbortSignal} signal
 * @returns {Promise<Inventory>}
 */
export async function inventory(signal) {
  const [architectures, datasets, checkpoints, workers, jobs] = await Promise.all([
    listOrNothing(api.architectures(signal)), listOrNothing(api.datasets(signal)), listOrNothing(api.checkpoints(signal)),
    listOrNothing(api.workers(signal)), listOrNothing(api.possibleTeachers(signal)),
  ]);
  return { architectures, datasets, checkpoints, workers, jobs };
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

/**
 * The specification that the address asks for: a job's as it was sent, or a new one taught by a job's student.
 * @param {URLSearchParams} query
 * @param {AbortSignal} signal
 */
export async function startingPoint(query, signal) {
  const id = query.get('from') ?? query.get('teacher_job');
  if (!id) return null;
  try {
    const { spec } = await api.job(id, signal);
    if (query.has('from')) return await api.submitted(id, signal).catch(() => spec);
    return withTeacher({ ...preset('sdd_kd'), dataset: spec.dataset }, { job: id });
  } catch {
    return null;
  }
}
