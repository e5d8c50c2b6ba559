// The list by keyboard.

import { h } from '../ui/dom.js';

const KEYS = [
  ['j or ↓', 'next job'], ['k or ↑', 'previous job'], ['Enter', 'open the job'], ['x', 'select it, or not any more'],
  ['a', 'select all jobs of the page'], ['n', 'next page'], ['p', 'previous page'], ['c', 'compare the selected jobs'],
  ['/', 'search'], ['l', 'filter by label'], ['Esc', 'leave the search; clear the selection'], ['?', 'this help'],
];

/** Whoever speaks to the computer, or types by mistake, can do without keys of one letter (WCAG 2.1.4). */
const SETTING = 'keys';
const areOff = () => localStorage.getItem(SETTING) === 'off';

/** `on`: functions by name of what the keys below ask for. Keys that are typed into a field, or with a modifier, are not for us. */
export function listenToKeys(on, signal) {
  const actions = {
    j: () => on.step(1), ArrowDown: () => on.step(1), k: () => on.step(-1), ArrowUp: () => on.step(-1), x: on.toggle, a: on.all,
    n: () => on.turn(1), p: () => on.turn(-1), c: on.compare, '/': on.search, l: on.label, Escape: on.clear, '?': help,
  };
  document.addEventListener('keydown', (event) => {
    const { key, target, ctrlKey, metaKey, altKey } = event;
    if (areOff() || ctrlKey || metaKey || altKey || event.defaultPrevented || document.querySelector('dialog[open]')) return;
    if (target.matches('input:not([type="checkbox"]), textarea, select')) return;
    // Arrows scroll the page, unless the list has the focus.
    if (key.startsWith('Arrow') && !target.closest('.jobs tbody')) return;
    const act = Object.hasOwn(actions, key) ? actions[key] : null;
    if (act && act() !== false) event.preventDefault();
  }, { signal });
}

/** Says what the keys are, and lets them be turned off. */
export function help() {
  const box = h('input', { type: 'checkbox', checked: !areOff(), onchange: () => localStorage.setItem(SETTING, box.checked ? 'on' : 'off') });
  const dialog = h('dialog', { class: 'keys', 'aria-labelledby': 'keys-title' },
    h('form', { method: 'dialog' },
      h('h2', { id: 'keys-title' }, 'Keys'),
      h('dl', {}, KEYS.map(([key, what]) => h('div', {}, h('dt', {}, h('kbd', {}, key)), h('dd', {}, what)))),
      h('label', { class: 'check' }, box, 'These keys work on the list'),
      h('div', { class: 'actions' }, h('button', { class: 'quiet', autofocus: true }, 'Close'))));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
