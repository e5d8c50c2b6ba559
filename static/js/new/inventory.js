// What a new job can be made of: what the server has, and the job that the address names.

import { allCheckpoints, api } from '../api/client.js';
import { preset, withTeacher } from './presets.js';

/**
 * @typedef {object} Inventory
 * @property {Schemas['Architecture'][]} architectures
 * @property {Dataset[]} datasets
 * @property {Schemas['UnusableDirectory'][]} unusable directories that are no data sets
 * @property {Schemas['Checkpoint'][]} checkpoints
 * @property {boolean} hasOlder Whether there are checkpoints that are not in the list
 * @property {Map<ListName, string>} unread why lists could not be read
 */
/** @typedef {'architectures' | 'data sets' | 'checkpoints'} ListName */

/**
 * A list that cannot be read is empty, and `unread` says why; the page works without it.
 * @param {AbortSignal} signal
 * @returns {Promise<Inventory>}
 */
export async function inventory(signal) {
  /** @type {Map<ListName, string>} */
  const unread = new Map();
  const failed = (/** @type {ListName} */ name) => (/** @type {Error} */ { message }) => {
    unread.set(name, message);
    return { data: [], unusable: [] };
  };
  const [{ data: architectures }, { data: datasets, unusable }, { checkpoints, hasOlder }] = await Promise.all([
    api.architectures(signal).catch(failed('architectures')),
    api.datasets(signal).catch(failed('data sets')),
    allCheckpoints(signal).catch((error) => ({ checkpoints: failed('checkpoints')(error).data, hasOlder: false })),
  ]);
  return { architectures, datasets, unusable, checkpoints, hasOlder, unread };
}

/**
 * `origin` names the draft; without `spec` the form starts from a preset.
 * @typedef {{ origin: string, spec: any, label?: string, problem?: string }} Start
 */

/**
 * The specification that the address asks for: a job's as it was sent, or a new one taught by a job's student, or on a
 * data set.
 * @param {URLSearchParams} query
 * @param {AbortSignal} signal
 * @returns {Promise<Start>}
 */
export async function startingPoint(query, signal) {
  const name = query.get('dataset');
  if (name) return { origin: `dataset=${name}`, spec: { ...preset('sdd_kd'), dataset: { name } }, label: 'the selected data set' };
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
