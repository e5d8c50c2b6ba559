// What a specification can name: architectures, data sets and checkpoints.

import { now } from '../api/client.js';
import { ageElement, copyButton, fill, h } from '../ui/dom.js';
import { age, bytes, count, whole } from '../ui/format.js';
import { scrollBox } from '../ui/section.js';
import { aboutNetwork } from './exported.js';
import { noteList, notOffered } from './notes.js';

/** @import { Child } from '../ui/dom.js' */
/** @import { Inventory } from './inventory.js' */
/** @typedef {Schemas['Checkpoint']} Checkpoint */

/**
 * What to say in the place of a list without entries.
 * @param {string | undefined} problem why it could not be read
 * @param {string} text
 */
function empty(problem, text) {
  return h('p', { class: problem ? 'error-text' : 'note' }, problem ? `Not read: ${problem}` : text);
}

/**
 * A card that folds, with the number of its entries.
 * @param {string} title
 * @param {unknown[]} entries
 * @param {{ open?: boolean }} options
 * @param {Child} content
 */
function fold(title, entries, { open = true }, content) {
  return h('details', { class: 'card help', open }, h('summary', {}, h('h2', {}, title), h('span', { class: 'note' }, entries.length)), content);
}

/** @param {Schemas['Architecture'][]} architectures */
export function architecturesHelp(architectures) {
  const columns = ['Name', 'Parameters', 'MACs', 'Input', 'Final map'];
  return fold('Architectures', architectures, { open: false }, scrollBox('Architectures', { class: 'scroll' }, h('table', {},
    h('thead', {}, h('tr', {}, columns.map((name) => h('th', { scope: 'col' }, name)))),
    h('tbody', {}, architectures.map((one) => h('tr', {},
      h('th', { scope: 'row' }, h('code', {}, one.name)),
      h('td', {}, count(one.parameters)), h('td', {}, count(one.macs)), h('td', {}, `${one.input_side} px`),
      h('td', {}, `${one.feature_map_side}×${one.feature_map_side}`)))))));
}

/** @param {Inventory} have */
export function datasetsHelp({ datasets, unusable, unread }) {
  const item = (/** @type {Dataset} */ { name, classes, splits, format, size_bytes: size, notes }) => h('li', {},
    h('a', { href: `#/data/${encodeURIComponent(name)}` }, h('code', {}, name)), copyButton(() => name),
    h('div', { class: 'note' }, `${classes} classes · ${splits.map((split) => `${split.name} ${whole(split.images)}`).join(', ')} · ${format} · ${bytes(size)}`), noteList(notes));
  const list = datasets.length === 0
    ? empty(unread.get('data sets'), 'None yet. Upload one on the page Data, or put a directory of images into the server’s --datasets-dir.')
    : h('ul', { class: 'plain' }, datasets.map(item));
  return fold('Data sets', datasets, {}, [list, notOffered(unusable)]);
}

/**
 * The uploaded checkpoints; `update` shows a new list.
 * @param {{ onTeacher: (checkpoint: Checkpoint) => void, onStudent: (checkpoint: Checkpoint) => void }} uses
 */
export function checkpointsHelp({ onTeacher, onStudent }) {
  const element = h('div', {});
  const use = (/** @type {string} */ text, /** @type {() => void} */ onclick) => h('button', { type: 'button', class: 'quiet', onclick }, text);
  const about = (/** @type {Checkpoint} */ one) => one.network ? [aboutNetwork(one.network)] : [
    one.architecture ?? (one.fits.length ? `fits ${one.fits.map(({ architecture }) => architecture).join(', ')}` : 'fits no known architecture'),
    one.num_classes ? `${one.num_classes} classes` : null,
  ];
  const item = (/** @type {Checkpoint} */ one) => h('li', {},
    h('div', {}, h('strong', {}, one.name ?? one.architecture ?? one.format), ' ', use('Use as teacher', () => onTeacher(one)),
      one.network ? use('Use as student', () => onStudent(one)) : null),
    h('div', { class: 'note' }, h('code', {}, one.id), ' ', [...about(one), bytes(one.size_bytes)].filter(Boolean).join(' · '), ' · ', ageElement(one.created_at, (time) => age(time, now()))), noteList(one.notes));
  return {
    element,
    /** @param {Pick<Inventory, 'checkpoints' | 'hasOlder' | 'unread'>} have */
    update({ checkpoints, hasOlder, unread }) {
      const list = checkpoints.length === 0
        ? empty(unread.get('checkpoints'), 'None yet. Upload one below, or train a teacher with the method “none”.')
        : h('ul', { class: 'plain scroll', tabindex: '0', 'aria-label': 'Checkpoints' }, checkpoints.map(item));
      const older = hasOlder
        ? h('p', { class: 'note' }, `These are the newest ${checkpoints.length}. Older ones can be used by their ids, in the JSON.`)
        : null;
      fill(element, fold('Checkpoints', checkpoints, {}, [older, list]));
    },
  };
}
