// Uploads a data set: choose or drop an archive, a folder or shards, and watch it arrive.

import { paths } from '../api/client.js';
import { PIECE, putFile, putInPieces } from '../api/put.js';
import { fill, h, progressBar, setText } from '../ui/dom.js';
import { bytes, count, share, whole } from '../ui/format.js';
import { refusal } from '../ui/refusal.js';
import { section } from '../ui/section.js';
import { filesBelow, ofFiles, ofFolder } from './chosen.js';

/** @import { Upload } from '../api/put.js' */
/** @import { Chosen } from './chosen.js' */

/** Files of a dropped folder after which the page says how many it has found. */
const REPORT = 1000;

export class DatasetUpload {
  /** @type {Upload | null} */
  #request = null;
  /** Ends the reading of a dropped folder. @type {AbortController | null} */
  #reading = null;
  /** @type {Chosen | null} */
  #chosen = null;
  /** By name, those that are there. @type {Map<string, Dataset>} */
  #known = new Map();
  #onUploaded;
  #onEnded;

  /**
   * @param {object} options
   * @param {(details: Schemas['DatasetDetails']) => void} options.onUploaded
   * @param {() => void} options.onEnded told when an upload has ended in any way
   * @param {AbortSignal} options.signal
   */
  constructor({ onUploaded, onEnded, signal }) {
    this.#onUploaded = onUploaded;
    this.#onEnded = onEnded;
    /** @type {HTMLInputElement} */
    this.file = h('input', { type: 'file', id: 'data-file', multiple: true, accept: '.zip,.tar,.gz,.tgz,.zst,.tzst,.parquet',
      onchange: () => this.#choose(this.file, () => ofFiles([...this.file.files ?? []])) });
    /** @type {HTMLInputElement} */
    this.folder = h('input', { type: 'file', id: 'data-folder', webkitdirectory: true,
      onchange: () => this.#choose(this.folder, () => ofFolder([...this.folder.files ?? []].map((file) => ({ path: file.webkitRelativePath, file })))) });
    this.name = h('input', { type: 'text', id: 'data-name', required: true, maxLength: 64, spellcheck: false, pattern: '[A-Za-z0-9][A-Za-z0-9._\\-]*',
      title: 'Letters, digits and characters of _.-, the first a letter or a digit', oninput: () => this.#sayWhatIsThere() });
    this.send = h('button', { class: 'primary' }, 'Upload');
    this.stop = h('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => { this.#reading?.abort(); this.#request?.giveUp(); } }, 'Stop');
    this.bar = progressBar('Upload');
    this.bar.element.hidden = true;
    this.message = h('div', { class: 'upload-message', role: 'status' });
    this.notTaken = h('p', { class: 'note', role: 'status' });
    this.sameName = h('p', { class: 'note', role: 'status' });
    const form = h('form', { class: 'data-upload', onsubmit: (/** @type {SubmitEvent} */ event) => this.#submit(event) },
      h('p', { class: 'drop-hint' }, 'Drop a folder of images, a zip, a tar or parquet shards anywhere on this page, or choose them. A directory per class is enough.'),
      h('div', { class: 'fields' },
        h('label', { for: 'data-file' }, 'Archive (.zip, .tar, .tar.gz, .tar.zst) or shards (.parquet, .tar)', this.file),
        h('label', { for: 'data-folder' }, 'or a folder', this.folder),
        h('label', { for: 'data-name' }, 'Name', this.name)),
      this.notTaken, this.sameName, h('div', { class: 'actions' }, this.send, this.stop), this.bar.element, this.message);
    this.form = form;
    this.element = section('Upload a data set', {}, form);
    signal.addEventListener('abort', () => { this.#reading?.abort(); this.#request?.abort(); });
  }

  /** @param {readonly Dataset[]} datasets those that the server has */
  setKnown(datasets) {
    this.#known = new Map(datasets.map((dataset) => [dataset.name, dataset]));
    this.#sayWhatIsThere();
  }

  /**
   * Uploads what was dropped as if it had been chosen.
   * @param {FileList} files
   * @param {FileSystemEntry[]} entries
   */
  async take(files, entries) {
    if (this.#request || this.#reading) {
      setText(this.notTaken, `${files[0].name} was not taken, because another upload is running. Drop it again afterwards.`);
      return;
    }
    this.element.scrollIntoView({ block: 'nearest' });
    const hasFolder = entries.some(({ isDirectory }) => isDirectory);
    if (hasFolder) await this.#read(entries);
    else {
      this.#choose(null, () => ofFiles([...files]));
      if (files.length === 1) this.file.files = files;
    }
    // Without a name, the browser asks for it.
    if (this.#chosen) this.form.requestSubmit();
  }

  /** @param {FileSystemEntry[]} entries */
  async #read(entries) {
    const reading = new AbortController();
    this.#reading = reading;
    this.#setBusy(true);
    try {
      const files = await filesBelow(entries, (found) => {
        reading.signal.throwIfAborted();
        if (found % REPORT === 0) setText(this.message, `Reading the folder… ${whole(found)} files`);
      });
      setText(this.message);
      this.#choose(null, () => ofFolder(files));
    } catch (error) {
      setText(this.message, reading.signal.aborted ? 'Stopped.' : `The folder cannot be read: ${error.message}`);
      this.#chosen = null;
    } finally {
      this.#reading = null;
      this.#setBusy(false);
    }
  }

  /**
   * @param {HTMLInputElement | null} by the input in which it was chosen; null if it was dropped
   * @param {() => Chosen} choose
   */
  #choose(by, choose) {
    for (const input of [this.file, this.folder]) if (input !== by) input.value = '';
    this.#chosen = null;
    setText(this.notTaken);
    if (by?.files?.length === 0) return;
    /** @type {Chosen} */
    let chosen;
    try {
      chosen = choose();
    } catch (error) {
      setText(this.notTaken, error.message);
      return;
    }
    this.#chosen = chosen;
    const { name, note, file } = chosen;
    this.name.value = name;
    setText(this.notTaken, [note, file.size > PIECE ? `${bytes(file.size)}. If the upload breaks off, choose the same again within a day, and it goes on.` : '']
      .filter(Boolean).join(' '));
    this.#sayWhatIsThere();
  }

  /** Says what a data set of the chosen name is now. */
  #sayWhatIsThere() {
    const name = this.name.value.trim();
    const there = this.#known.get(name);
    const isDirectory = there && !there.version;
    setText(this.sameName, !there ? ''
      : isDirectory ? `${name} is a directory of the server: choose another name.`
        : `${name} is there already: this becomes its latest version. Jobs that are posted keep the one that they have.`);
  }

  /** @param {SubmitEvent} event */
  async #submit(event) {
    event.preventDefault();
    const chosen = this.#chosen;
    if (this.#request || this.#reading) return;
    if (!chosen) {
      setText(this.message, 'Choose an archive or a folder first, or drop one on this page.');
      return;
    }
    const { file } = chosen;
    this.#setBusy(true);
    try {
      const name = this.name.value.trim();
      const onProgress = (/** @type {number} */ sent) => {
        const isSent = sent >= file.size;
        this.bar.update(sent / file.size);
        // The server goes on without the page then.
        this.stop.hidden = isSent;
        setText(this.message, isSent ? 'Uploaded. The server is unpacking and reading it…' : `${share(sent / file.size)} of ${bytes(file.size)}`);
      };
      this.#request = file.size > PIECE ? putInPieces(name, chosen, onProgress) : putFile(paths.dataset(name), file, onProgress);
      this.#describe(await this.#request.done);
    } catch (error) {
      fill(this.message, refusal(error));
    } finally {
      this.#request = null;
      this.#setBusy(false);
      this.#onEnded();
    }
  }

  /** @param {Schemas['DatasetDetails']} details */
  #describe(details) {
    const older = details.versions.length - 1;
    const versions = older > 0 ? ` ${details.name} now means this version, and has ${older === 1 ? 'another' : `${whole(older)} others`}.` : '';
    fill(this.message, h('p', {}, h('a', { href: `#/data/${encodeURIComponent(details.id)}` }, h('code', {}, details.id)),
      ` has ${count(details.images)} images of ${count(details.class_count)} classes.${versions} `,
      h('a', { href: `#/new?dataset=${encodeURIComponent(details.name)}` }, 'New job on it')));
    this.#onUploaded(details);
  }

  /** @param {boolean} isBusy */
  #setBusy(isBusy) {
    this.send.disabled = isBusy;
    this.stop.hidden = !isBusy;
    this.bar.element.hidden = !isBusy;
    if (isBusy) this.bar.update(0);
  }
}
