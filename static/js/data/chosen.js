// What the user has chosen or dropped, as one file to send: an archive as it is, and anything else packed.

import { whole } from '../ui/format.js';
import { packTar } from './tar.js';

/** @import { PackedFile } from './tar.js' */

/**
 * @typedef {object} Chosen
 * @property {Blob} file what is sent
 * @property {string} name for the data set; empty if only the user can say
 * @property {string} identity the same for the same choice, so that a broken upload can go on
 * @property {string} note what was made of the choice
 */

/** Archives, which are sent as they are. */
const ARCHIVE = /\.(zip|tar|tar\.gz|tgz|tar\.zst|tzst)$/i;
/** Extensions that are not part of a data set's name. */
const ENDINGS = /\.(zip|tar|tar\.gz|tgz|tar\.zst|tzst|parquet)$/i;
/** Names of parquet shards that say their split. */
const OF_SPLIT = /^(train|training|test|testing|val|valid|validation|eval|evaluation|dev)[-.]/i;
/** What archivers and systems leave, which the server passes over like hidden files. */
const DEBRIS = new Set(['__MACOSX', '$RECYCLE.BIN']);

/**
 * A name for the data set in a file of this name, which the server accepts.
 * @param {string} file
 */
export function nameOf(file) {
  return file.replace(ENDINGS, '').replaceAll(/[^A-Za-z0-9._-]+/g, '-').replace(/^[^A-Za-z0-9]+/, '').slice(0, 64);
}

/**
 * @param {readonly File[]} files at least one
 * @returns {Chosen}
 */
export function ofFiles(files) {
  const [first, ...others] = files;
  // Shards of WebDataset are tars that lie together in an archive.
  const areShards = files.every(({ name }) => /\.tar$/i.test(name));
  if (ARCHIVE.test(first.name) && (others.length === 0 || !areShards)) {
    const note = others.length ? `Only ${first.name} is uploaded, and not ${others.map(({ name }) => name).join(', ')}: pack all files as one archive.` : '';
    return { file: first, name: nameOf(first.name), identity: identity([{ path: first.name, file: first }]), note };
  }
  if (others.length === 0 && /\.parquet$/i.test(first.name) && !OF_SPLIT.test(first.name)) {
    const chosen = packed([{ path: 'train-00000-of-00001.parquet', file: first }], nameOf(first.name));
    return { ...chosen, note: `${first.name} is taken for the train split, because its name says no other.` };
  }
  return packed(files.map((file) => ({ path: file.name, file })), others.length ? '' : nameOf(first.name));
}

/**
 * The files of a folder, which gives the data set its name. Paths begin with the folder's name.
 * @param {readonly PackedFile[]} files
 * @returns {Chosen}
 */
export function ofFolder(files) {
  const roots = new Set(files.map(({ path }) => path.split('/')[0]));
  const [root] = roots;
  if (roots.size !== 1 || !files[0].path.includes('/')) return packed(files, '');
  return packed(files.map(({ path, file }) => ({ path: path.slice(root.length + 1), file })), nameOf(root));
}

/**
 * @param {readonly PackedFile[]} files
 * @param {string} name
 * @returns {Chosen}
 */
function packed(files, name) {
  const kept = files.filter(({ path }) => !path.split('/').some((part) => part.startsWith('.') || DEBRIS.has(part)));
  const left = files.length - kept.length;
  if (kept.length === 0) throw new Error('There is no file in it.');
  const of = kept.length === 1 ? '1 file' : `${whole(kept.length)} files`;
  return { file: packTar(kept), name, identity: identity(kept), note: `${of} as one archive${left ? `, without ${left} hidden` : ''}.` };
}

/**
 * All files of what was dropped, with their paths.
 * @param {readonly FileSystemEntry[]} entries
 * @param {(files: number) => void} onFile told how many there are so far; ends the reading if it throws
 */
export async function filesBelow(entries, onFile) {
  /** @type {PackedFile[]} */
  const found = [];
  const add = async (/** @type {FileSystemEntry} */ entry, /** @type {string} */ above) => {
    const path = `${above}${entry.name}`;
    if (entry.isDirectory) {
      for (const child of await children(/** @type {FileSystemDirectoryEntry} */ (entry))) await add(child, `${path}/`);
      return;
    }
    /** @type {File} */
    const file = await new Promise((resolve, reject) => { /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject); });
    found.push({ path, file });
    onFile(found.length);
  };
  for (const entry of entries) await add(entry, '');
  return found;
}

/** @param {FileSystemDirectoryEntry} directory */
async function children(directory) {
  const reader = directory.createReader();
  /** @type {FileSystemEntry[]} */
  const all = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (some.length === 0) return all;
    all.push(...some);
  }
}

/**
 * A number of 16 hexadecimal digits for files, by names, sizes and times: two of FNV-1a's 32 bits, one of them backwards.
 * @param {readonly PackedFile[]} files
 */
function identity(files) {
  const text = files.map(({ path, file }) => `${path} ${file.size} ${file.lastModified}`).toSorted().join('\n');
  let [forwards, backwards] = [0x811c9dc5, 0x811c9dc5];
  for (let at = 0; at < text.length; at += 1) {
    forwards = Math.imul(forwards ^ text.charCodeAt(at), 0x01000193);
    backwards = Math.imul(backwards ^ text.charCodeAt(text.length - 1 - at), 0x01000193);
  }
  return [forwards, backwards].map((half) => (half >>> 0).toString(16).padStart(8, '0')).join('');
}
