// A field that offers what fits the text in it: the combobox of the ARIA Authoring Practices, with a list below it.

import { fill, h, setText } from './dom.js';

/** How long a search waits for the next letter. */
const TYPING = 150;
let fields = 0;

export class Combobox {
  #options = [];
  #active = -1;
  #typing = null;
  #asking = null;

  /**
   * `find(text, signal)` resolves to what to offer: `[{value, text, note}]`; `onPick(value)` gets what was chosen. `label`
   * names the field, `none` says that nothing fits. `signal` ends it.
   */
  constructor({ label, none, find, onPick, signal }) {
    Object.assign(this, { none, find, onPick, signal });
    fields += 1;
    const id = `combobox-${fields}`;
    this.input = h('input', {
      type: 'text', role: 'combobox', placeholder: label, 'aria-label': label, 'aria-expanded': 'false', 'aria-controls': id,
      'aria-autocomplete': 'list', autocomplete: 'off', spellcheck: 'false', maxlength: 200,
    });
    this.list = h('ul', { id, role: 'listbox', 'aria-label': label, hidden: true });
    this.note = h('p', { class: 'combobox-note', role: 'status', hidden: true });
    this.element = h('div', { class: 'combobox' }, this.input, this.list, this.note);
    this.input.addEventListener('input', () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#offer(), TYPING);
    });
    this.input.addEventListener('click', () => this.#offer());
    this.input.addEventListener('blur', () => this.close());
    this.input.addEventListener('keydown', (event) => this.#press(event));
    // The field keeps the focus: a list that loses it would close before the click.
    this.element.addEventListener('mousedown', (event) => { if (event.target !== this.input) event.preventDefault(); });
    signal.addEventListener('abort', () => this.close());
  }

  get #isOpen() {
    return this.input.getAttribute('aria-expanded') === 'true';
  }

  #press(event) {
    const { key } = event;
    const last = this.#options.length - 1;
    if (key === 'ArrowDown' || key === 'ArrowUp') {
      if (!this.#isOpen) this.#offer();
      else if (last >= 0) this.#activate(key === 'ArrowDown' ? (this.#active + 1) % (last + 1) : this.#active <= 0 ? last : this.#active - 1);
    } else if (key === 'Enter' && this.#isOpen && last >= 0) this.#pick(this.#options[Math.max(this.#active, 0)]);
    else if (key === 'Escape' && (this.#isOpen || this.input.value)) {
      this.input.value = this.#isOpen ? this.input.value : '';
      this.close();
    } else return;
    event.preventDefault();
  }

  async #offer() {
    clearTimeout(this.#typing);
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const found = await this.find(this.input.value.trim(), AbortSignal.any([asking.signal, this.signal]));
      if (!asking.signal.aborted) this.#show(found);
    } catch (error) {
      if (!asking.signal.aborted && !this.signal.aborted) this.#show([], error.message);
    }
  }

  #show(options, note = this.none) {
    this.#options = options;
    fill(this.list, options.map(({ text, note: more }, index) => h('li', {
      id: `${this.list.id}-${index}`, role: 'option', 'aria-selected': 'false', onclick: () => this.#pick(options[index]),
    }, h('span', {}, text), more ? h('span', { class: 'note' }, more) : null)));
    this.list.hidden = options.length === 0;
    this.note.hidden = options.length > 0;
    setText(this.note, options.length ? '' : note);
    this.input.setAttribute('aria-expanded', String(options.length > 0));
    this.#activate(-1);
  }

  #activate(index) {
    this.#active = index;
    [...this.list.children].forEach((option, place) => option.setAttribute('aria-selected', String(place === index)));
    const option = this.list.children[index];
    if (!option) return this.input.removeAttribute('aria-activedescendant');
    this.input.setAttribute('aria-activedescendant', option.id);
    option.scrollIntoView({ block: 'nearest' });
  }

  #pick({ value }) {
    this.input.value = '';
    this.close();
    this.onPick(value);
  }

  close() {
    clearTimeout(this.#typing);
    this.#asking?.abort();
    this.#options = [];
    this.list.hidden = true;
    this.note.hidden = true;
    this.input.setAttribute('aria-expanded', 'false');
    this.input.removeAttribute('aria-activedescendant');
  }
}
