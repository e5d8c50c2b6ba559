// Uploads a checkpoint, with progress.

import { paths } from '../api/client.js';
import { putFile } from '../api/put.js';
import { fill, h, progressBar, setText } from '../ui/dom.js';
import { bytes, count, share } from '../ui/format.js';
import { refusal } from '../ui/refusal.js';
import { exportHelp, networkFacts } from './exported.js';
import { noteList } from './notes.js';

/** @typedef {Schemas['Checkpoint']} Checkpoint */

export class UploadForm {
  /** @type {{ done: Promise<Checkpoint>, abort: () => void } | null} */
  #request = null;
  #onUploaded;
  #onTeacher;
  #onStudent;

  /**
   * @param {object} options
   * @param {Schemas['Architecture'][]} options.architectures
   * @param {(checkpoint: Checkpoint) => void} options.onUploaded
   * @param {(checkpoint: Checkpoint) => void} options.onTeacher when the user chooses the checkpoint as the teacher
   * @param {(checkpoint: Checkpoint) => void} options.onStudent when the user chooses an exported network as the
   *   student
   * @param {AbortSignal} options.signal
   */
  constructor({ architectures, onUploaded, onTeacher, onStudent, signal }) {
    this.#onUploaded = onUploaded;
    this.#onTeacher = onTeacher;
    this.#onStudent = onStudent;
    this.file = h('input', { type: 'file', id: 'teacher-file', required: true, accept: '.pth,.pt,.pt2,.th,.bin,.tar,.safetensors' });
    this.architecture = h('select', { id: 'teacher-architecture' }, h('option', { value: '' }, 'detect'),
      architectures.map(({ name }) => h('option', { value: name }, name)));
    this.classes = h('input', { type: 'number', id: 'teacher-classes', min: 2, max: 1000000, placeholder: 'detect' });
    this.stateDict = h('input', { type: 'text', id: 'teacher-state-dict', placeholder: 'the usual one', maxLength: 200, spellcheck: false,
      title: 'Where the file has several networks: the key of the one to store, such as state_dict_ema or teacher' });
    this.send = h('button', { class: 'primary' }, 'Upload');
    this.stop = h('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => this.#request?.abort() }, 'Stop');
    this.bar = progressBar('Upload');
    this.bar.element.hidden = true;
    this.message = h('div', { class: 'upload-message', role: 'status' });
    this.notTaken = h('p', { class: 'note', role: 'status' });
    this.element = h('form', { class: 'upload', onsubmit: (event) => this.#submit(event) },
      h('p', { class: 'drop-hint' }, 'Drop a checkpoint or an exported network anywhere on this page, or choose one.'),
      h('div', { class: 'fields' },
        h('label', { for: 'teacher-file', class: 'wide' }, 'Checkpoint (.pth, .pt, .safetensors) or network (.pt2)', this.file),
        h('label', { for: 'teacher-architecture' }, 'Architecture', this.architecture),
        h('label', { for: 'teacher-classes' }, 'Classes', this.classes),
        h('label', { for: 'teacher-state-dict' }, 'State dict', this.stateDict)),
      h('div', { class: 'actions' }, this.send, this.stop), this.bar.element, this.message, this.notTaken, exportHelp(signal));
    signal.addEventListener('abort', () => this.#request?.abort());
  }

  /**
   * Uploads a dropped file as if it had been chosen.
   * @param {FileList} files
   * @param {readonly FileSystemEntry[]} entries
   */
  take(files, entries) {
    const [first, ...others] = files;
    if (this.#request) {
      setText(this.notTaken, `${first.name} was not taken, because another upload is running. Drop it again afterwards.`);
      return;
    }
    if (entries[0]?.isDirectory) {
      setText(this.notTaken, `${first.name} is a folder: drop the file of weights that is in it. A folder of images belongs on the page Data.`);
      return;
    }
    setText(this.notTaken, others.length ? `Only ${first.name} is uploaded, and not ${others.map(({ name }) => name).join(', ')}: drop one file after the other.` : '');
    this.file.files = files;
    this.element.scrollIntoView({ block: 'nearest' });
    this.element.requestSubmit();
  }

  /** @param {SubmitEvent} event */
  async #submit(event) {
    event.preventDefault();
    const file = this.file.files?.[0];
    if (!file || this.#request) return;
    const path = paths.upload({ name: file.name, architecture: this.architecture.value, num_classes: this.classes.value,
      state_dict: this.stateDict.value.trim() });
    this.#setBusy(true);
    try {
      this.#request = putFile(path, file, (sent) => {
        this.bar.update(sent / file.size);
        setText(this.message, sent < file.size ? `${share(sent / file.size)} of ${bytes(file.size)}` : 'Uploaded. The server is reading it…');
      });
      const checkpoint = await this.#request.done;
      this.#describe(checkpoint);
      this.#onUploaded(checkpoint);
    } catch (error) {
      fill(this.message, refusal(error));
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

  /** @param {Checkpoint} checkpoint */
  #describe(checkpoint) {
    const use = (/** @type {string} */ text, /** @type {() => void} */ onclick) => h('button', { type: 'button', class: 'quiet', onclick }, text);
    const asTeacher = () => use('Use as teacher', () => this.#onTeacher(checkpoint));
    if (checkpoint.network) {
      fill(this.message, h('p', {}, h('code', {}, checkpoint.id), ' is an exported network.'), networkFacts(checkpoint.network), noteList(checkpoint.notes),
        h('div', { class: 'actions' }, asTeacher(), use('Use as student', () => this.#onStudent(checkpoint))));
      return;
    }
    const fits = checkpoint.fits.map(({ architecture, num_classes: classes }) => `${architecture} (${classes} classes)`);
    fill(this.message,
      h('p', {}, h('code', {}, checkpoint.id), ` ${checkpoint.format}, ${count(checkpoint.parameters)} parameters. `,
        fits.length ? `It fits ${fits.join(', ')}.` : `It fits no known architecture.${closest(checkpoint)}`),
      noteList(checkpoint.notes),
      fits.length ? asTeacher() : null);
  }
}

/** @param {Checkpoint} checkpoint */
function closest({ guess }) {
  return guess ? ` ${share(guess.agreement)} of its tensors match the closest, ${guess.architecture}: ${guess.difference}.` : '';
}
