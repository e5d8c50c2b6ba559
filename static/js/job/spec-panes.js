// The specification of a job as sent and as resolved, with its differences from the published recipe.

import { api } from '../api/client.js';
import { scan } from '../json/positions.js';
import { prettyJson } from '../json/pretty.js';
import { copyButton, fill, h } from '../ui/dom.js';
import { scrollBox } from '../ui/section.js';
import { differences, plainRequest } from './recipe.js';

/** @import { Places } from '../json/positions.js' */
/** @import { Difference } from './recipe.js' */

export class SpecPanes {
  #job;
  #signal;

  /**
   * @param {Schemas['Job']} job
   * @param {AbortSignal} signal
   */
  constructor(job, signal) {
    this.#job = job;
    this.#signal = signal;
    const text = prettyJson(job.spec);
    this.resolved = h('pre', { tabindex: '0', 'aria-label': 'Specification' }, text);
    this.sent = h('pre', { tabindex: '0', 'aria-label': 'As sent' }, '…');
    this.recipe = h('div', { class: 'recipe' });
    this.element = h('div', {}, this.recipe,
      h('div', { class: 'spec-panes' },
        pane('As sent', () => this.sent.textContent ?? '', this.sent),
        pane('Resolved', () => text, this.resolved)));
    this.#showSent();
    this.#showDifferences();
  }

  async #showSent() {
    try {
      this.sent.textContent = prettyJson(await api.submitted(this.#job.id, this.#signal));
    } catch (error) {
      this.sent.textContent = error.message;
    }
  }

  /** The recipe is what the server fills in for a request without settings. */
  async #showDifferences() {
    const { spec } = this.#job;
    try {
      const { spec: published } = await api.check(JSON.stringify(plainRequest(spec)), {}, this.#signal);
      const found = differences(spec, published);
      mark(this.resolved, found, scan(this.resolved.textContent ?? '').places);
      fill(this.recipe, found.length ? table(found) : h('p', { class: 'note' }, 'This is exactly the published recipe of the method.'));
    } catch (error) {
      if (!this.#signal.aborted) fill(this.recipe, h('p', { class: 'note' }, `No comparison with the published recipe: ${error.message}`));
    }
  }
}

/**
 * @param {string} title
 * @param {() => string} text to copy
 * @param {HTMLElement} content
 */
function pane(title, text, content) {
  return h('section', { 'aria-label': title }, h('header', { class: 'card-head' }, h('h3', {}, title), copyButton(text)), content);
}

/** @param {Difference[]} found */
function table(found) {
  const text = (/** @type {unknown} */ value) => (value === undefined ? '–' : prettyJson(value));
  return scrollBox('Differences from the published recipe', {}, h('table', { class: 'plain-table' },
    h('caption', {}, `${found.length} ${found.length === 1 ? 'difference' : 'differences'} from the published CIFAR-100 recipe of this method, marked below`),
    h('thead', {}, h('tr', {}, ['Field', 'This job', 'Published'].map((name) => h('th', { scope: 'col' }, name)))),
    h('tbody', {}, found.map(({ pointer, ours, published }) => h('tr', {},
      h('th', { scope: 'row' }, h('code', {}, pointer)), h('td', {}, h('code', {}, text(ours))), h('td', {}, h('code', {}, text(published))))))));
}

/**
 * Marks the differences in the text of an element.
 * @param {HTMLElement} element
 * @param {Difference[]} found
 * @param {Places} places of the text's values
 */
function mark(element, found, places) {
  const text = element.textContent ?? '';
  const ranges = found.flatMap(({ pointer, published }) => {
    const place = places.get(pointer);
    return place ? [{ ...place, published }] : [];
  }).sort((one, other) => one.start - other.start);
  const parts = [];
  let at = 0;
  for (const { start, end, published } of ranges) {
    const title = published === undefined ? 'not in the published recipe' : `published: ${JSON.stringify(published)}`;
    parts.push(text.slice(at, start), h('mark', { title }, text.slice(start, end)));
    at = end;
  }
  fill(element, parts, text.slice(at));
}
