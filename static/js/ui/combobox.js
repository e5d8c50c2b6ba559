// A text field that offers matching entries in a list below it: the combobox pattern of the ARIA Authoring Practices.

import { fill, h, setText } from './dom.js';

/**
 * An option with `isRest` says what else there is, and cannot be chosen.
 * @typedef {{ value: string, text: string, note?: string, isRest?: boolean }} Option
 */

/** Milliseconds to wait for the next letter before searching. */
const TYPING_DELAY = 150;
let count = 0;

/**
 * Options with a last line that says how many more match.
 * @param {Option[]} options
 * @param {number} left how many more there are; NaN if there are some
 * @returns {Option[]}
 */
export function withRest(options, left) {
  if (left === 0) return options;
  return [...options, { value: '', text: `${Number.isNaN(left) ? 'More' : `${left} more`} match: type to narrow the search`, isRest: true }];
}

export class Combobox {
  /** @type {Option[]} */
  #options = [];
  #active = -1;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {AbortController | null} */
  #pending = null;

  /**
   * @param {object} options
   * @param {string} options.label
   * @param {string} options.none what to say if nothing matches
   * @param {(text: string, signal: AbortSignal) => Promise<Option[]>} options.find
   * @param {(value: string) => void} options.onPick
   * @param {AbortSignal} options.signal
   */
  constructor({ label, none, find, onPick, signal }) {
    this.none = none;
    this.find = find;
    this.onPick = onPick;
    this.signal = signal;
    count += 1;
    const id = `combobox-${count}`;
    this.input = h('input', {
      type: 'text', role: 'combobox', placeholder: label, 'aria-label': label, 'aria-expanded': 'false', 'aria-controls': id,
      'aria-autocomplete': 'list', autocomplete: 'off', spellcheck: 'false', maxlength: 200,
    });
    this.list = h('ul', { id, role: 'listbox', 'aria-label': label, hidden: true });
    this.note = h('p', { class: 'combobox-note', role: 'status', hidden: true });
    this.element = h('div', { class: 'combobox' }, this.input, this.list, this.note);
    this.input.addEventListener('input', () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#offer(), TYPING_DELAY);
    });
    this.input.addEventListener('click', () => this.#offer());
    this.input.addEventListener('blur', () => this.close());
    this.input.addEventListener('keydown', (event) => this.#press(event));
    // A click on the list must not take the focus from the field: losing it closes the list before the click arrives.
    this.element.addEventListener('mousedown', (event) => { if (event.target !== this.input) event.preventDefault(); });
    signal.addEventListener('abort', () => this.close());
  }

  get #isOpen() {
    return this.input.getAttribute('aria-expanded') === 'true';
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const { key } = event;
    const size = this.#options.filter(({ isRest }) => !isRest).length;
    if (key === 'ArrowDown' || key === 'ArrowUp') {
      if (!this.#isOpen) this.#offer();
      else if (size > 0) this.#activate(key === 'ArrowDown' ? (this.#active + 1) % size : (Math.max(this.#active, 0) + size - 1) % size);
    } else if (key === 'Enter' && this.#isOpen && size > 0) {
      this.#pick(this.#options[Math.max(this.#active, 0)]);
    } else if (key === 'Escape' && (this.#isOpen || this.input.value)) {
      if (!this.#isOpen) this.input.value = '';
      this.close();
    } else {
      return;
    }
    event.preventDefault();
  }

  async #offer() {
    clearTimeout(this.#timer);
    this.#pending?.abort();
    const pending = new AbortController();
    this.#pending = pending;
    try {
      const found = await this.find(this.input.value.trim(), AbortSignal.any([pending.signal, this.signal]));
      if (!pending.signal.aborted) this.#show(found);
    } catch (error) {
      if (!pending.signal.aborted && !this.signal.aborted) this.#show([], error.message);
    }
  }

  /** @param {Option[]} options */
  #show(options, note = this.none) {
    this.#options = options;
    fill(this.list, options.map(({ text, note: more, isRest }, index) => h('li', {
      id: `${this.list.id}-${index}`, role: 'option', 'aria-selected': 'false', 'aria-disabled': isRest ? 'true' : null,
      onclick: isRest ? null : () => this.#pick(options[index]),
    }, h('span', {}, text), more ? h('span', { class: 'note' }, more) : null)));
    this.list.hidden = options.length === 0;
    this.note.hidden = options.length > 0;
    setText(this.note, options.length ? '' : note);
    this.input.setAttribute('aria-expanded', String(options.length > 0));
    this.#activate(-1);
  }

  /** @param {number} index -1 for no option */
  #activate(index) {
    this.#active = index;
    [...this.list.children].forEach((option, place) => option.setAttribute('aria-selected', String(place === index)));
    const option = this.list.children[index];
    if (!option) {
      this.input.removeAttribute('aria-activedescendant');
      return;
    }
    this.input.setAttribute('aria-activedescendant', option.id);
    option.scrollIntoView({ block: 'nearest' });
  }

  /** @param {Option} option */
  #pick({ value }) {
    this.input.value = '';
    this.close();
    this.onPick(value);
  }

  close() {
    clearTimeout(this.#timer);
    this.#pending?.abort();
    this.#options = [];
    this.list.hidden = true;
    this.note.hidden = true;
    this.input.setAttribute('aria-expanded', 'false');
    this.input.removeAttribute('aria-activedescendant');
  }
}
