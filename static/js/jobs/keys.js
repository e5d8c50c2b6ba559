// The keyboard shortcuts of the list.

import { h } from '../ui/dom.js';

const KEYS = [
  ['j or ↓', 'next job'], ['k or ↑', 'previous job'], ['Enter', 'open the job'], ['x', 'select or deselect the job'],
  ['a', 'select all jobs on the page'], ['n', 'next page'], ['p', 'previous page'], ['c', 'compare the selected jobs'],
  ['/', 'search'], ['l', 'filter by label'], ['Esc', 'leave the search; clear the selection'], ['?', 'this help'],
];

/** Single-letter shortcuts can be turned off, for users of speech input and for mistyped keys (WCAG 2.1.4). */
const STORAGE_KEY = 'keys';
const areOff = () => localStorage.getItem(STORAGE_KEY) === 'off';

/**
 * What the shortcuts do. A function that answers false has not used the key.
 * @typedef {object} ListActions
 * @property {(by: number) => void} step moves the focus by that many rows
 * @property {() => boolean} toggle
 * @property {() => void} all
 * @property {(by: number) => boolean} turn turns that many pages
 * @property {() => void} compare
 * @property {() => void} search
 * @property {() => void} label
 * @property {() => void} clear
 */

/**
 * Ignores keys with a modifier and keys typed into a field.
 * @param {ListActions} on
 * @param {AbortSignal} signal
 */
export function listenToKeys(on, signal) {
  /** @type {Record<string, () => boolean | void>} */
  const actions = {
    j: () => on.step(1), ArrowDown: () => on.step(1), k: () => on.step(-1), ArrowUp: () => on.step(-1), x: on.toggle, a: on.all,
    n: () => on.turn(1), p: () => on.turn(-1), c: on.compare, '/': on.search, l: on.label, Escape: on.clear, '?': help,
  };
  document.addEventListener('keydown', (event) => {
    const { key, target, ctrlKey, metaKey, altKey } = event;
    if (areOff() || ctrlKey || metaKey || altKey || event.defaultPrevented || document.querySelector('dialog[open]')) return;
    if (!(target instanceof Element) || target.matches('input:not([type="checkbox"]), textarea, select')) return;
    // Arrows scroll the page unless the list has the focus.
    if (key.startsWith('Arrow') && !target.closest('.jobs tbody')) return;
    const act = Object.hasOwn(actions, key) ? actions[key] : null;
    if (act && act() !== false) event.preventDefault();
  }, { signal });
}

/** Shows the shortcuts, and lets the user turn them off. */
export function help() {
  const box = h('input', { type: 'checkbox', checked: !areOff(), onchange: () => { localStorage.setItem(STORAGE_KEY, box.checked ? 'on' : 'off'); } });
  const dialog = h('dialog', { class: 'keys', 'aria-labelledby': 'keys-title' },
    h('form', { method: 'dialog' },
      h('h2', { id: 'keys-title' }, 'Keyboard shortcuts'),
      h('dl', {}, KEYS.map(([key, what]) => h('div', {}, h('dt', {}, h('kbd', {}, key)), h('dd', {}, what)))),
      h('label', { class: 'check' }, box, 'Use these shortcuts on the list'),
      h('div', { class: 'actions' }, h('button', { class: 'quiet', autofocus: true }, 'Close'))));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
