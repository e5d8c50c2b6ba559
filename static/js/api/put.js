// Sends a file, with progress, which fetch cannot report.

import { ApiError, api, idempotencyKey, paths, problem } from './client.js';

/** Bytes of a piece of a large file. */
export const PIECE = 32 << 20;
/** Most times that a piece is sent before the upload fails. */
const TRIES = 6;

/** @typedef {{ done: Promise<any>, abort: () => void }} Upload `done` is what the server answers */

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
  return { done, abort: () => xhr.abort() };
}

/**
 * Sends a data set in pieces. A piece is sent again after a while if its connection breaks or the server is busy.
 * @param {string} name
 * @param {File} file
 * @param {(sent: number) => void} onProgress
 * @returns {Upload}
 */
export function putInPieces(name, file, onProgress) {
  const upload = idempotencyKey();
  let isStopped = false;
  /** @type {Upload | null} */
  let current = null;
  const send = async () => {
    let tries = 0;
    for (let start = 0; ;) {
      const end = Math.min(start + PIECE, file.size);
      current = putFile(paths.dataset(name, `?upload=${upload}`), file.slice(start, end), (sent) => onProgress(start + sent),
        { 'content-range': `bytes ${start}-${end - 1}/${file.size}` });
      try {
        const answer = await current.done;
        if (end === file.size) return answer;
        [start, tries] = [end, 0];
      } catch (error) {
        tries += 1;
        const mayPass = error instanceof ApiError && [0, 408, 409, 503].includes(error.status);
        if (isStopped || !mayPass || tries === TRIES) throw error;
        await new Promise((resolve) => { setTimeout(resolve, 500 * 2 ** tries); });
        const received = await receivedOf(name, upload);
        // Not the refusal of a piece that the server has, whose answer was lost.
        if (error.status === 409 && received === start) throw error;
        // If the server has all bytes, it did not put them together: the last piece makes it do so.
        start = Math.min(received ?? start, PIECE * Math.floor((file.size - 1) / PIECE));
      }
    }
  };
  return { done: send(), abort: () => { isStopped = true; current?.abort(); } };
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
