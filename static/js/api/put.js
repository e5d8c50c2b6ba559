// Sends a file, with progress, which fetch cannot report.

import { ApiError, api, paths, problem } from './client.js';

/** Bytes of a piece of a large file. */
export const PIECE = 32 << 20;
/** Most times that a piece is sent before the upload fails. */
const TRIES = 6;

/**
 * `done` is what the server answers. `abort` ends the sending, and `giveUp` also removes what the server has of the file.
 * @typedef {{ done: Promise<any>, abort: () => void, giveUp: () => void }} Upload
 */

/**
 * Sends a file as a whole.
 * @param {string} path
 * @param {Blob} file
 * @param {(sent: number) => void} onProgress
 * @param {Record<string, string>} [headers]
 * @returns {Upload}
 */
export function putFile(path, file, onProgress, headers = {}) {
  const xhr = new XMLHttpRequest();
  /** @type {Promise<any>} */
  const done = new Promise((resolve, reject) => {
    xhr.upload.addEventListener('progress', ({ loaded }) => onProgress(loaded));
    xhr.addEventListener('load', () => {
      if (xhr.status >= 200 && xhr.status < 300) resolve(JSON.parse(xhr.responseText));
      else reject(problem(xhr.status, xhr.responseText));
    });
    xhr.addEventListener('error', () => reject(new ApiError(0, 'The connection broke. Upload the file again.')));
    xhr.addEventListener('abort', () => reject(new Error('Stopped.')));
    xhr.open('PUT', path);
    xhr.setRequestHeader('content-type', 'application/octet-stream');
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.send(file);
  });
  const abort = () => xhr.abort();
  return { done, abort, giveUp: abort };
}

/**
 * Sends a data set in pieces, from where an earlier upload of the same `identity` ended. A piece is sent again after a
 * while if its connection breaks or the server is busy.
 * @param {string} name
 * @param {{ file: Blob, identity: string }} chosen
 * @param {(sent: number) => void} onProgress
 * @returns {Upload}
 */
export function putInPieces(name, { file, identity }, onProgress) {
  const upload = `page-${identity}`;
  const stop = new AbortController();
  let isGivenUp = false;
  /** @type {Upload | null} */
  let current = null;
  const piece = (/** @type {number} */ start, /** @type {number} */ end) => {
    if (stop.signal.aborted) throw new Error('Stopped.');
    current = putFile(paths.dataset(name, `?upload=${upload}`), file.slice(start, end), (sent) => onProgress(start + sent),
      { 'content-range': `bytes ${start}-${end - 1}/${file.size}` });
    return current.done;
  };
  // If the server has all bytes, it did not put them together: the last piece makes it do so.
  const from = (/** @type {number} */ received) => Math.min(received, PIECE * Math.floor((file.size - 1) / PIECE));
  const send = async () => {
    let tries = 0;
    for (let start = from(await receivedOf(name, upload) ?? 0); ;) {
      const end = Math.min(start + PIECE, file.size);
      try {
        const answer = await piece(start, end);
        if (end === file.size) return answer;
        [start, tries] = [end, 0];
      } catch (error) {
        tries += 1;
        const mayPass = error instanceof ApiError && [0, 408, 409, 503].includes(error.status);
        if (stop.signal.aborted || !mayPass || tries === TRIES) throw resumable(error);
        await pause(500 * 2 ** tries, stop.signal);
        const received = await receivedOf(name, upload);
        // Not the refusal of a piece that the server has, whose answer was lost.
        if (error.status === 409 && received === start) throw error;
        start = from(received ?? start);
      }
    }
  };
  const done = send().catch(async (error) => {
    if (isGivenUp) await api.removeUpload(name, upload).catch(() => {});
    throw error;
  });
  const abort = () => {
    stop.abort();
    current?.abort();
  };
  return { done, abort, giveUp: () => { isGivenUp = true; abort(); } };
}

/**
 * Resolves after so many milliseconds, or once the signal is aborted.
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/** @param {Error} error */
function resumable(error) {
  return error instanceof ApiError && error.status === 0
    ? new ApiError(0, 'The connection broke. Choose the same file within a day, under the same name, and the upload goes on where it ended.') : error;
}

/**
 * Bytes of an upload that the server has; 0 if it does not know the upload, and null if it does not answer.
 * @param {string} name
 * @param {string} upload
 */
async function receivedOf(name, upload) {
  try {
    return (await api.datasetUpload(name, upload)).received_bytes;
  } catch (error) {
    return error.status === 404 ? 0 : null;
  }
}
