// Images of a data set, by split and class, a page at a time.

import { api } from '../api/client.js';
import { fill, h, setText } from '../ui/dom.js';
import { whole } from '../ui/format.js';
import { section } from '../ui/section.js';

const PAGE = 48;

export class Pictures {
  #id;
  #signal;
  /** The `next` of the last page that is shown. */
  #next = /** @type {number | null | undefined} */ (null);
  /** Number of the current choice, so that an answer to an earlier one is not shown. */
  #choice = 0;

  /**
   * @param {Schemas['DatasetDetails']} details
   * @param {AbortSignal} signal
   */
  constructor({ id, splits, unlabelled_splits: unlabelled, classes }, signal) {
    this.#id = id;
    this.#signal = signal;
    const again = () => this.show();
    this.split = h('select', { id: 'picture-split', onchange: again }, h('option', { value: '' }, 'the training split'),
      [...splits, ...unlabelled].map(({ name }) => h('option', { value: name }, name)));
    this.class = h('select', { id: 'picture-class', onchange: again }, h('option', { value: '' }, 'all classes'),
      classes.listed.map(({ label, name }) => h('option', { value: name ?? label }, name ?? label)));
    this.status = h('p', { class: 'note', role: 'status' });
    this.list = h('ul', { class: 'pictures' });
    this.more = h('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => this.#load() }, 'Show more');
    this.element = section('Images', {},
      h('div', { class: 'picture-filter' },
        // A select inside its label would be part of its own name.
        h('div', {}, h('label', { for: 'picture-split' }, 'Split'), this.split),
        h('div', {}, h('label', { for: 'picture-class' }, 'Class'), this.class)),
      this.status, this.list, h('div', { class: 'actions' }, this.more));
  }

  /** Shows the first images of the chosen split and class. */
  show() {
    this.#choice += 1;
    this.#next = null;
    fill(this.list);
    return this.#load();
  }

  async #load() {
    const choice = this.#choice;
    this.more.hidden = true;
    setText(this.status, 'Loading…');
    try {
      const page = await api.datasetImages(this.#id, { split: this.split.value, class: this.class.value, after: this.#next, limit: PAGE }, this.#signal);
      if (choice !== this.#choice) return;
      this.list.append(...page.data.map(picture));
      this.#next = page.next;
      this.more.hidden = !page.has_more;
      setText(this.status, `${whole(this.list.children.length)} of ${whole(page.images)} images of ${page.split}`);
    } catch (error) {
      if (choice === this.#choice && !this.#signal.aborted) setText(this.status, error.message);
    }
  }
}

/** @param {Schemas['DatasetImage']} image */
function picture({ position, label, class: name, thumbnail, fault }) {
  const of = name ?? label ?? 'no label';
  const text = `${of}, image ${position}`;
  return h('li', {}, h('figure', {},
    thumbnail ? h('img', { src: thumbnail, alt: text, width: 96, height: 96 }) : h('div', { class: 'no-picture' }, fault ?? 'cannot be decoded'),
    h('figcaption', {}, of)));
}
