// The section with a job's specification. Most visitors do not open it: what it shows is loaded when it is opened.

import { h } from '../ui/dom.js';

export class JobSpec {
  #isLoaded = false;

  /**
   * @param {Schemas['Job']} job
   * @param {AbortSignal} signal
   */
  constructor(job, signal) {
    this.element = h('details', { class: 'card spec', ontoggle: () => this.#load(job, signal) },
      h('summary', {}, h('h2', {}, 'Specification'), h('span', { class: 'note' }, 'as sent, and with every default filled in')),
      h('div', { class: 'actions' }, h('a', { class: 'button quiet', href: `#/sweeps/new?job=${encodeURIComponent(job.id)}` }, 'Sweep'),
        h('a', { class: 'button quiet', href: `#/new?from=${encodeURIComponent(job.id)}` }, 'Clone into a new job')));
  }

  /**
   * @param {Schemas['Job']} job
   * @param {AbortSignal} signal
   */
  async #load(job, signal) {
    if (this.#isLoaded || !this.element.open) return;
    this.#isLoaded = true;
    const { SpecPanes } = await import('./spec-panes.js');
    this.element.append(new SpecPanes(job, signal).element);
  }
}
