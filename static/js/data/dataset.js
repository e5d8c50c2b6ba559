// One data set: how the server reads it, and its images.

import { api, now } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { noteList } from '../new/notes.js';
import { ageElement, ask, copyButton, fill, h } from '../ui/dom.js';
import { age, bytes, significant, whole } from '../ui/format.js';
import { scrollBox, section } from '../ui/section.js';
import { Pictures } from './pictures.js';

/** @import { Child } from '../ui/dom.js' */
/** @typedef {Schemas['DatasetDetails']} Details */

/** Milliseconds until the server is asked again whether it has decoded the images. */
const AGAIN = 2000;

/** @param {PageContext} context */
export async function datasetPage({ root, id = '', signal, setTitle }) {
  fill(root, h('h1', {}, id), h('p', { class: 'note', role: 'status' }, 'Loading…'));
  /** @type {Details} */
  let details;
  try {
    details = await api.dataset(id, signal);
  } catch (error) {
    if (!signal.aborted) fill(root, h('h1', {}, id), h('p', { class: 'error-text', role: 'alert' }, error.message), h('p', {}, h('a', { href: '#/data' }, 'All data sets')));
    return;
  }
  setTitle(details.id);
  const findings = h('div', {});
  const pictures = new Pictures(details, signal);
  const isLatest = !details.version || details.versions[0]?.id === details.id;
  const start = h('a', { class: 'button primary', href: `#/new?dataset=${encodeURIComponent(isLatest ? details.name : details.id)}` }, 'New job on it');
  fill(root, h('h1', {}, details.name), h('div', { class: 'actions' }, start), h('div', { class: 'data-grid' },
    facts(details), section('Findings', {}, findings), classes(details), pictures.element, versions(details)));
  pictures.show();
  follow(details, findings, signal);
}

/**
 * Shows what decoding the images has shown, as soon as the server has done it.
 * @param {Details} details
 * @param {HTMLElement} findings
 * @param {AbortSignal} signal
 */
function follow(details, findings, signal) {
  const show = (/** @type {Details} */ current) => {
    fill(findings, found(current));
    if (!current.statistics && !current.statistics_fault) poller.soon();
  };
  const poller = new Poller({
    interval: AGAIN, signal,
    request: async (stop) => show(await api.dataset(details.id, stop)),
    // The rest of the page does not depend on it.
    onError: () => {},
  });
  show(details);
}

/** @param {Details} details */
function facts({ id, version, format, images, class_count: count, size_bytes: size, splits, unlabelled_splits: unlabelled }) {
  const list = (/** @type {typeof splits} */ some) => some.map((split) => `${split.name}: ${whole(split.images)} images, ${bytes(split.size_bytes)}`).join(' · ');
  /** @type {[string, Child][]} */
  const rows = [
    ['Name in a job', [h('code', {}, id), ' ', copyButton(() => id)]],
    ['Where', version ? 'uploaded' : 'a directory in the server’s --datasets-dir'],
    ['Format', format],
    ['Images', whole(images)],
    ['Classes', whole(count)],
    ['Size', bytes(size)],
    ['Splits', list(splits)],
    ...(unlabelled.length ? [/** @type {[string, Child]} */ (['Without labels', list(unlabelled)])] : []),
  ];
  return section('How the server reads it', {}, h('dl', { class: 'figures dataset-facts' }, rows.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))));
}

/**
 * @param {Details} details
 * @returns {Child}
 */
function found({ notes, statistics, statistics_fault: fault, statistics_progress: progress }) {
  const list = (/** @type {string[]} */ lines) => noteList(lines);
  if (fault) return [list(notes), h('p', { class: 'error-text' }, fault)];
  if (!statistics) {
    const read = progress ? ` ${whole(progress.read)} of ${whole(progress.images)}` : '';
    return [list(notes), h('p', { class: 'note', role: 'status' }, `The server is decoding the images…${read}`)];
  }
  const numbers = (/** @type {number[] | null | undefined} */ values) => values?.map(significant).join(', ') ?? '–';
  const side = (/** @type {number[]} */ [width, height]) => `${whole(width)}×${whole(height)}`;
  const sizes = statistics.splits.flatMap(({ split, sizes: found }) => (found ? [`${split} ${found.is_uniform ? '' : `${side(found.smallest)} to `}${side(found.largest)}`] : []));
  const formats = statistics.splits.flatMap(({ split, formats: some }) => {
    const counts = Object.entries(some).map(([format, images]) => `${whole(images)} ${format}`);
    return counts.length ? [`${split} ${counts.join(', ')}`] : [];
  });
  const broken = statistics.splits.flatMap(({ split, examples }) => examples.map(({ position, file, reason }) => `image ${position} of ${split}${file ? `, ${file}` : ''}: ${reason}`));
  return [
    list(notes), list(statistics.warnings),
    h('p', {}, `Mean ${numbers(statistics.mean)} · standard deviation ${numbers(statistics.std)} of the training images (red, green, blue).`),
    h('p', {}, `Width×height in pixels: ${sizes.join(' · ') || '–'}.`),
    formats.length ? h('p', {}, `Images by format: ${formats.join(' · ')}.`) : null,
    broken.length ? h('details', { class: 'more-fields' }, h('summary', {}, 'Images that cannot be decoded'), list(broken)) : null,
    statistics.warnings.length || notes.length ? null : h('p', { class: 'note' }, 'Nothing was passed over, every image can be decoded, and none is in two splits.'),
  ];
}

/** @param {Details} details */
function classes({ classes: { listed, more }, splits }) {
  const row = (/** @type {Schemas['DatasetClass']} */ { label, name, images }) => h('tr', {},
    h('td', { class: 'number' }, label), h('th', { scope: 'row' }, name ?? '–'),
    splits.map((split) => h('td', { class: 'number' }, whole(images[split.name] ?? 0))));
  return section('Classes', {},
    more ? h('p', { class: 'note' }, `The first ${whole(listed.length)} classes; ${whole(more)} more are not listed.`) : null,
    scrollBox('Table of classes', { class: 'class-table' }, h('table', { class: 'data-table' },
      h('thead', {}, h('tr', {}, h('th', { scope: 'col', class: 'number' }, 'Number'), h('th', { scope: 'col' }, 'Class'), splits.map((split) => h('th', { scope: 'col', class: 'number' }, split.name)))),
      h('tbody', {}, listed.map(row)))));
}

/** @param {Details} details */
function versions({ name, versions: all }) {
  if (all.length === 0) return null;
  const problem = h('p', { class: 'error-text', role: 'alert' });
  const remove = async (/** @type {string} */ id) => {
    const isSure = await ask({ title: `Delete ${id}?`, detail: 'Finished jobs keep their students. It is not deleted while an unfinished job needs it.', yes: 'Delete', danger: true });
    if (!isSure) return;
    try {
      await api.removeDataset(id);
      location.hash = '#/data';
    } catch (error) {
      fill(problem, error.message);
    }
  };
  const row = (/** @type {Schemas['DatasetVersion']} */ { id, images, size_bytes: size, uploaded_at: at }) => h('tr', {},
    h('th', { scope: 'row' }, h('a', { href: `#/data/${encodeURIComponent(id)}` }, h('code', {}, id))),
    h('td', { class: 'number' }, whole(images)), h('td', { class: 'number' }, bytes(size)), h('td', {}, ageElement(at, (time) => age(time, now()))),
    h('td', {}, h('button', { type: 'button', class: 'danger', onclick: () => remove(id) }, 'Delete')));
  return section('Versions', {}, h('p', { class: 'note' }, `${name} means the version that was uploaded last. A job keeps the version with which it was posted.`), problem,
    scrollBox('Table of versions', {}, h('table', { class: 'data-table' },
      h('thead', {}, h('tr', {}, ['Version', 'Images', 'Stored size', 'Uploaded'].map((title) => h('th', { scope: 'col' }, title)), h('td', {}))),
      h('tbody', {}, all.map(row)))));
}
