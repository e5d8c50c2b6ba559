// A choice among more than a list could show: a search field and, once something is chosen, what it is.

import { Combobox } from '../ui/combobox.js';
import { fill, h, setText } from '../ui/dom.js';

/** @import { Option } from '../ui/combobox.js' */
/** @import { Child } from '../ui/dom.js' */

/**
 * @typedef {object} PickerOptions
 * @property {string} label
 * @property {string} none what to say if nothing matches
 * @property {(text: string, signal: AbortSignal) => Promise<Option[]>} find
 * @property {(id: string, signal: AbortSignal) => Promise<Child>} describe
 * @property {(id: string | undefined) => void} onChange
 * @property {AbortSignal} signal
 */

export class Picker {
  /** @type {string | undefined} */
  #shown;
  #options;

  /** @param {PickerOptions} options */
  constructor(options) {
    this.#options = options;
    const { label, none, find, onChange, signal } = options;
    this.search = new Combobox({ label, none, find, signal, onPick: (id) => onChange(id) });
    this.chosen = h('span', { class: 'picked-text' });
    this.other = h('button', { type: 'button', class: 'quiet small', onclick: () => this.#chooseOther() }, 'Choose another');
    this.picked = h('div', { class: 'picked', hidden: true }, this.chosen, this.other);
    this.element = h('div', { class: 'picker' }, this.picked, this.search.element);
  }

  get input() {
    return this.search.input;
  }

  #chooseOther() {
    this.#options.onChange(undefined);
    this.search.input.focus();
  }

  /** @param {string | undefined} id */
  show(id) {
    this.picked.hidden = id === undefined;
    this.search.element.hidden = id !== undefined;
    if (id !== this.#shown && id !== undefined) this.#describe(id);
    this.#shown = id;
  }

  /** @param {string} id */
  async #describe(id) {
    const { describe, signal } = this.#options;
    setText(this.chosen, id);
    try {
      const text = await describe(id, signal);
      if (id === this.#shown) fill(this.chosen, text);
    } catch {
      // The id stays, and the server says what is wrong with it.
    }
  }
}
