// What was passed over, guessed or refused when data sets and checkpoints were read.

import { h } from '../ui/dom.js';

/**
 * The notes on one data set or checkpoint; nothing without any.
 * @param {string[]} notes
 */
export function noteList(notes) {
  return notes.length ? h('ul', { class: 'notes' }, notes.map((note) => h('li', {}, note))) : null;
}

/**
 * What to know about an uploaded checkpoint, by its id.
 * @param {import('./inventory.js').Inventory} have
 * @param {unknown} id
 */
export function notesOfCheckpoint({ checkpoints }, id) {
  return checkpoints.find((checkpoint) => checkpoint.id === id)?.notes ?? [];
}

/**
 * The directories that are no data sets, with what to do about each; nothing if all are.
 * @param {Schemas['UnusableDirectory'][]} directories
 */
export function notOffered(directories) {
  if (directories.length === 0) return null;
  const title = directories.length === 1 ? '1 directory is not offered' : `${directories.length} directories are not offered`;
  return h('details', { class: 'more-fields not-offered' }, h('summary', {}, title),
    h('ul', { class: 'plain scroll', tabindex: '0', 'aria-label': 'Directories that are not offered' },
      directories.map(({ name, reason }) => h('li', {}, h('code', {}, name), h('div', { class: 'note' }, reason)))));
}

/**
 * What to know about a data set, by its name.
 * @param {import('./inventory.js').Inventory} have
 * @param {unknown} name
 */
export function notesOfDataset({ datasets, unusable }, name) {
  const refused = unusable.find((directory) => directory.name === name);
  if (refused) return [`It is not offered: ${refused.reason}`];
  return datasets.find((dataset) => dataset.name === name)?.notes ?? [];
}
