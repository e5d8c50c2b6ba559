// What was uploaded of data sets and is not complete.

import { api, now } from '../api/client.js';
import { ask, fill, h } from '../ui/dom.js';
import { bytes, duration, whole } from '../ui/format.js';
import { scrollBox, section } from '../ui/section.js';

/** @typedef {Schemas['UnfinishedUpload']} Unfinished */

/** What it takes so that an upload goes on. */
const NOTE = 'To continue one, start the same upload again: choose the same files here under the same name, or repeat the command.';

/** The list of unfinished uploads. Without one there is nothing to see. */
export class UnfinishedUploads {
  #onGivenUp;

  /** @param {() => void} onGivenUp */
  constructor(onGivenUp) {
    this.#onGivenUp = onGivenUp;
    this.problem = h('p', { class: 'error-text', role: 'alert' });
    this.list = h('div', {});
    this.element = section('Uploads that are not complete', {}, h('p', { class: 'note' }, NOTE), this.problem, this.list);
    this.element.hidden = true;
  }

  /** @param {Unfinished[]} uploads */
  show(uploads) {
    this.element.hidden = uploads.length === 0;
    fill(this.problem);
    fill(this.list, uploads.length ? this.#table(uploads) : null);
  }

  /** @param {Unfinished[]} uploads */
  #table(uploads) {
    const row = (/** @type {Unfinished} */ upload) => h('tr', {},
      h('th', { scope: 'row' }, upload.name), h('td', {}, whatOf(upload)), h('td', { class: 'number' }, hereOf(upload)),
      h('td', {}, left(upload.expires_at)),
      h('td', {}, h('button', { type: 'button', class: 'danger', 'aria-label': `Give up ${nameOf(upload)}`, onclick: () => this.#giveUp(upload) }, 'Give up')));
    return scrollBox('Table of uploads that are not complete', {}, h('table', { class: 'data-table' },
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Data set'), h('th', { scope: 'col' }, 'Upload'),
        h('th', { scope: 'col', class: 'number' }, 'Here'), h('th', { scope: 'col' }, 'Kept for'), h('td', {}))),
      h('tbody', {}, uploads.map(row))));
  }

  /** @param {Unfinished} upload */
  async #giveUp(upload) {
    const detail = 'The server removes what it has of it. Whoever is sending it has to begin again. Versions of the data set stay.';
    const isSure = await ask({ title: `Give up ${nameOf(upload)}?`, detail, yes: 'Give up', danger: true });
    if (!isSure) return;
    try {
      await (upload.split ? api.removeShards(upload.name, upload.split) : api.removeUpload(upload.name, upload.upload ?? ''));
      this.#onGivenUp();
    } catch (error) {
      fill(this.problem, error.message);
    }
  }
}

/** @param {Unfinished} upload */
function nameOf({ name, upload, split }) {
  return split ? `the shards of ${name}’s ${split} split` : `the upload ${upload} of ${name}`;
}

/** @param {Unfinished} upload */
function whatOf({ upload, split, shards_here: here, shards }) {
  return split ? `${whole(here ?? 0)} of ${whole(shards ?? 0)} shards of ${split}` : h('code', {}, upload ?? '');
}

/** @param {Unfinished} upload */
function hereOf({ received_bytes: received, size_bytes: size }) {
  return typeof size === 'number' ? `${bytes(received)} of ${bytes(size)}` : bytes(received);
}

/** @param {string} expiresAt */
function left(expiresAt) {
  const seconds = (Date.parse(expiresAt) - now()) / 1000;
  return seconds > 0 ? duration(seconds) : 'removed soon';
}
