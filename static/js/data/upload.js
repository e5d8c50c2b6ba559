// Uploads a data set: choose or drop an archive, and watch it arrive.

import { paths } from '../api/client.js';
import { PIECE, putFile, putInPieces } from '../api/put.js';
import { fill, h, progressBar, setText } from '../ui/dom.js';
import { bytes, count, share } from '../ui/format.js';
import { section } from '../ui/section.js';

/** Extensions of archives, which are not part of a data set's name. */
const ENDINGS = /\.(zip|tar|tar\.gz|tgz|tar\.zst|tzst|parquet)$/i;

/**
 * A name for the data set in a file of this name, which the server accepts.
 * @param {string} file
 */
export function nameOf(file) {
  return file.replace(ENDINGS, '').replaceAll(/[^A-Za-z0-9._-]+/g, '-').replace(/^[^A-Za-z0-9]+/, '').slice(0, 64);
}

export class DatasetUpload {
  /** @type {{ done: Promise<Schemas['DatasetDetails']>, abort: () => void } | null} */
  #request = null;
  #onUploaded;

  /**
   * @param {object} options
   * @param {(details: Schemas['DatasetDetails']) => void} options.onUploaded
   * @param {AbortSignal} options.signal
   */
  constructor({ onUploaded, signal }) {
    this.#onUploaded = onUploaded;
    this.file = h('input', { type: 'file', id: 'data-file', required: true, accept: '.zip,.tar,.gz,.tgz,.zst,.tzst', onchange: () => this.#suggest() });
    this.name = h('input', { type: 'text', id: 'data-name', required: true, maxLength: 64, spellcheck: false, pattern: '[A-Za-z0-9][A-Za-z0-9._\\-]*',
      title: 'Letters, digits and characters of _.-, the first a letter or a digit' });
    this.send = h('button', { class: 'primary' }, 'Upload');
    this.stop = h('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => this.#request?.abort() }, 'Stop');
    this.bar = progressBar('Upload');
    this.bar.element.hidden = true;
    this.message = h('div', { class: 'upload-message', role: 'status' });
    this.notTaken = h('p', { class: 'note', role: 'status' });
    const form = h('form', { class: 'data-upload', onsubmit: (/** @type {SubmitEvent} */ event) => this.#submit(event) },
      h('p', { class: 'drop-hint' }, 'Drop a zip or tar of images anywhere on this page, or choose one. A directory per class is enough.'),
      h('div', { class: 'fields' },
        h('label', { for: 'data-file' }, 'Archive (.zip, .tar, .tar.gz, .tar.zst)', this.file),
        h('label', { for: 'data-name' }, 'Name', this.name)),
      h('div', { class: 'actions' }, this.send, this.stop), this.bar.element, this.message, this.notTaken);
    this.form = form;
    this.element = section('Upload a data set', {}, form);
    signal.addEventListener('abort', () => this.#request?.abort());
  }

  /**
   * Uploads a dropped file as if it had been chosen.
   * @param {FileList} files
   */
  take(files) {
    const [first, ...others] = files;
    if (this.#request) {
      setText(this.notTaken, `${first.name} was not taken, because another upload is running. Drop it again afterwards.`);
      return;
    }
    setText(this.notTaken, others.length ? `Only ${first.name} is uploaded, and not ${others.map(({ name }) => name).join(', ')}: pack all files as one archive.` : '');
    this.file.files = files;
    this.#suggest();
    this.element.scrollIntoView({ block: 'nearest' });
    this.form.requestSubmit();
  }

  #suggest() {
    const file = this.file.files?.[0];
    if (file) this.name.value = nameOf(file.name);
  }

  /** @param {SubmitEvent} event */
  async #submit(event) {
    event.preventDefault();
    const file = this.file.files?.[0];
    if (!file || this.#request) return;
    this.#setBusy(true);
    try {
      const name = this.name.value.trim();
      const onProgress = (/** @type {number} */ sent) => {
        this.bar.update(sent / file.size);
        setText(this.message, sent < file.size ? `${share(sent / file.size)} of ${bytes(file.size)}` : 'Uploaded. The server is unpacking and reading it…');
      };
      this.#request = file.size > PIECE ? putInPieces(name, file, onProgress) : putFile(paths.dataset(name), file, onProgress);
      const details = await this.#request.done;
      fill(this.message, h('p', {}, h('a', { href: `#/data/${encodeURIComponent(details.id)}` }, h('code', {}, details.id)),
        ` has ${count(details.images)} images of ${count(details.class_count)} classes. `,
        h('a', { href: `#/new?dataset=${encodeURIComponent(details.name)}` }, 'New job on it')));
      this.#onUploaded(details);
    } catch (error) {
      const faults = (error.errors ?? []).map((/** @type {Fault} */ fault) => h('li', {}, fault.detail));
      fill(this.message, h('p', { class: 'error-text' }, error.message), faults.length > 1 ? h('ul', { class: 'upload-faults' }, faults) : null);
    } finally {
      this.#request = null;
      this.#setBusy(false);
    }
  }

  /** @param {boolean} isBusy */
  #setBusy(isBusy) {
    this.send.disabled = isBusy;
    this.stop.hidden = !isBusy;
    this.bar.element.hidden = !isBusy;
    if (isBusy) this.bar.update(0);
  }
}
