// Gives the server a teacher: a file, streamed with progress (fetch cannot tell how much was sent).

import { paths, problem } from '../api/client.js';
import { fill, h, progressBar, setText } from '../ui/dom.js';
import { bytes, count, share } from '../ui/format.js';

/** `onUploaded(checkpoint)` runs for each that was stored; `onUse(checkpoint)` when the user picks it as a teacher. */
export function uploadForm({ architectures, onUploaded, onUse, signal }) {
  const file = h('input', { type: 'file', id: 'teacher-file', required: true, accept: '.pth,.pt,.th,.bin,.tar,.safetensors' });
  const architecture = h('select', { id: 'teacher-architecture' }, h('option', { value: '' }, 'recognise it'),
    architectures.map(({ name }) => h('option', { value: name }, name)));
  const classes = h('input', { type: 'number', id: 'teacher-classes', min: 2, max: 1000000, placeholder: 'recognise it' });
  const send = h('button', { class: 'primary' }, 'Upload');
  const stop = h('button', { type: 'button', class: 'quiet', hidden: true }, 'Stop');
  const bar = progressBar('Upload');
  bar.element.hidden = true;
  const message = h('div', { class: 'upload-message', role: 'status' });
  const form = h('form', { class: 'upload' },
    h('p', { class: 'drop-hint' }, 'Drop a checkpoint anywhere on this page, or choose one.'),
    h('div', { class: 'fields' },
      h('label', { for: 'teacher-file', class: 'wide' }, 'Checkpoint (.pth, .pt, .safetensors)', file),
      h('label', { for: 'teacher-architecture' }, 'Architecture', architecture),
      h('label', { for: 'teacher-classes' }, 'Classes', classes)),
    h('div', { class: 'actions' }, send, stop), bar.element, message);

  let request = null;
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const chosen = file.files[0];
    if (!chosen || request) return;
    const path = paths.upload({ name: chosen.name, architecture: architecture.value, num_classes: classes.value });
    busy(true);
    try {
      request = put(path, chosen, (sent) => {
        bar.update(sent / chosen.size);
        setText(message, sent < chosen.size ? `${share(sent / chosen.size)} of ${bytes(chosen.size)}` : 'Sent; the server reads it…');
      });
      const checkpoint = await request.done;
      fill(message, described(checkpoint, onUse));
      onUploaded(checkpoint);
    } catch (error) {
      fill(message, h('p', { class: 'error-text' }, error.message));
    } finally {
      request = null;
      busy(false);
    }
  });
  stop.addEventListener('click', () => request?.abort());
  signal.addEventListener('abort', () => request?.abort());

  function busy(isBusy) {
    send.disabled = isBusy;
    stop.hidden = !isBusy;
    bar.element.hidden = !isBusy;
    if (isBusy) bar.update(0);
  }
  /** As if it had been chosen and sent by hand. */
  function take(files) {
    if (request) return;
    file.files = files;
    form.scrollIntoView({ block: 'nearest' });
    form.requestSubmit();
  }
  return { element: form, take };
}

/** Lets files be dropped anywhere on `area`, which shows that it takes them. */
export function acceptDrops(area, upload, signal) {
  const hasFiles = (event) => event.dataTransfer?.types.includes('Files');
  const show = (isOver) => area.classList.toggle('takes-drop', isOver);
  area.addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = 'copy';
    show(true);
  }, { signal });
  area.addEventListener('dragleave', (event) => { if (!area.contains(event.relatedTarget)) show(false); }, { signal });
  area.addEventListener('drop', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(false);
    if (event.dataTransfer.files.length) upload.take(event.dataTransfer.files);
  }, { signal });
  signal.addEventListener('abort', () => show(false));
}

function put(path, file, onProgress) {
  const xhr = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    xhr.upload.addEventListener('progress', ({ loaded }) => onProgress(loaded));
    xhr.addEventListener('load', async () => {
      if (xhr.status >= 200 && xhr.status < 300) resolve(JSON.parse(xhr.responseText));
      else reject(await problem(xhr.status, xhr.responseText));
    });
    xhr.addEventListener('error', () => reject(new Error('The connection broke. Upload it again.')));
    xhr.addEventListener('abort', () => reject(new Error('Stopped.')));
    xhr.open('PUT', path);
    xhr.setRequestHeader('content-type', 'application/octet-stream');
    xhr.send(file);
  });
  return { done, abort: () => xhr.abort() };
}

function described(checkpoint, onUse) {
  const fits = checkpoint.fits.map(({ architecture, num_classes: classes }) => `${architecture} (${classes} classes)`);
  return [
    h('p', {}, h('code', {}, checkpoint.id), ` ${checkpoint.format}, ${count(checkpoint.parameters)} parameters. `,
      fits.length ? `It fits ${fits.join(', ')}.` : `It fits no known architecture.${nearest(checkpoint.guess)}`),
    fits.length ? h('button', { type: 'button', class: 'quiet', onclick: () => onUse(checkpoint) }, 'Use as the teacher') : null,
  ];
}

function nearest(guess) {
  return guess ? ` The nearest is ${guess.architecture}, with ${share(guess.agreement)} of its tensors: ${guess.difference}.` : '';
}
