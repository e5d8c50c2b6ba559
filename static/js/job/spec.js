// What the job runs with, beside what was sent, with everything marked that is not as published.

import { api } from '../api/client.js';
import { copyButton, fill, h } from '../ui/dom.js';
import { prettyJson } from '../ui/format.js';

export class JobSpec {
  #job;
  #asked = false;

  constructor(job, signal) {
    this.#job = job;
    this.signal = signal;
    const text = prettyJson(job.spec);
    this.resolved = h('pre', { tabindex: '0', 'aria-label': 'Specification' }, text);
    this.sent = h('pre', { tabindex: '0', 'aria-label': 'As sent' }, '…');
    this.recipe = h('div', { class: 'recipe' });
    this.element = h('details', { class: 'card spec' },
      h('summary', {}, h('h2', {}, 'Specification'), h('span', { class: 'note' }, 'as sent, and with every default filled in')),
      h('div', { class: 'actions' }, h('a', { class: 'button quiet', href: `#/new?from=${encodeURIComponent(job.id)}` }, 'Clone: post again with changes')),
      this.recipe,
      h('div', { class: 'spec-panes' },
        pane('As sent', () => this.sent.textContent, this.sent),
        pane('Resolved', () => text, this.resolved)));
    this.element.addEventListener('toggle', () => this.#open());
  }

  async #open() {
    if (this.#asked || !this.element.open) return;
    this.#asked = true;
    await Promise.all([this.#showSent(), this.#showDifferences()]);
  }

  async #showSent() {
    try {
      const document = await api.submitted(this.#job.id, this.signal);
      this.sent.textContent = prettyJson(document);
    } catch (error) {
      this.sent.textContent = error.message;
    }
  }

  /** The server itself says what the recipe of such a pair and method is. */
  async #showDifferences() {
    const { spec } = this.#job;
    try {
      // Few look: it is loaded for those who do.
      const [{ scan }, { differences, plainRequest }] = await Promise.all([import('../json/positions.js'), import('./recipe.js')]);
      const { spec: published } = await api.check(JSON.stringify(plainRequest(spec)), this.signal);
      const found = differences(spec, published);
      mark(this.resolved, found, scan(this.resolved.textContent).places);
      fill(this.recipe, found.length ? table(found) : h('p', { class: 'note' }, 'Exactly the published recipe of this method.'));
    } catch (error) {
      if (!this.signal.aborted) fill(this.recipe, h('p', { class: 'note' }, `It cannot be compared with the published recipe now: ${error.message}`));
    }
  }
}

function pane(title, text, content) {
  return h('section', { 'aria-label': title }, h('header', { class: 'card-head' }, h('h3', {}, title), copyButton(text)), content);
}

function table(found) {
  const write = (value) => (value === undefined ? '–' : prettyJson(value));
  return h('div', { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': 'Differences from the published recipe' }, h('table', { class: 'plain-table' },
    h('caption', {}, `${found.length} ${found.length === 1 ? 'difference' : 'differences'} from the published recipe (CIFAR-100) of this method; marked below`),
    h('thead', {}, h('tr', {}, ['Field', 'This job', 'Published'].map((name) => h('th', { scope: 'col' }, name)))),
    h('tbody', {}, found.map(({ pointer, ours, published }) => h('tr', {},
      h('th', { scope: 'row' }, h('code', {}, pointer)), h('td', {}, h('code', {}, write(ours))), h('td', {}, h('code', {}, write(published))))))));
}

/** Marks the places of the differences in the text. */
function mark(element, found, places) {
  const text = element.textContent;
  const ranges = found.filter(({ pointer }) => places.has(pointer)).map(({ pointer, published }) => ({ ...places.get(pointer), published }))
    .sort((a, b) => a.start - b.start);
  const parts = [];
  let at = 0;
  for (const { start, end, published } of ranges) {
    const title = published === undefined ? 'not in the published recipe' : `published: ${JSON.stringify(published)}`;
    parts.push(text.slice(at, start), h('mark', { title }, text.slice(start, end)));
    at = end;
  }
  fill(element, parts, text.slice(at));
}
