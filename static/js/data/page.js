// The data sets that jobs can name, and a place to upload one.

import { api } from '../api/client.js';
import { notOffered } from '../new/notes.js';
import { fill, h, setText } from '../ui/dom.js';
import { acceptDrops } from '../ui/drops.js';
import { bytes, whole } from '../ui/format.js';
import { scrollBox, section } from '../ui/section.js';
import { UnfinishedUploads } from './unfinished.js';
import { DatasetUpload } from './upload.js';

const COLUMNS = ['Name', 'Version', 'Format', 'Images', 'Classes', 'Size'];

/** @param {PageContext} context */
export function dataPage({ root, signal, setTitle, announce }) {
  const list = h('div', {});
  const note = h('p', { class: 'note', role: 'status' }, 'Loading…');
  const refresh = async () => {
    try {
      const { data, unusable, unfinished: waiting } = await api.datasets(signal);
      upload.setKnown(data);
      unfinished.show(waiting);
      fill(list, data.length ? table(data) : null, notOffered(unusable));
      setText(note, data.length ? '' : 'None yet. Upload a folder or an archive, or put a directory of images into the server’s --datasets-dir.');
      setTitle(`${data.length} data sets`);
    } catch (error) {
      if (!signal.aborted) setText(note, error.message);
    }
  };
  const upload = new DatasetUpload({ signal, onUploaded: ({ id }) => announce(`${id} was uploaded`), onEnded: refresh });
  const unfinished = new UnfinishedUploads(refresh);
  acceptDrops(root, upload, signal);
  fill(root, h('h1', {}, 'Data'), h('div', { class: 'data-grid' }, upload.element, unfinished.element, section('Data sets', {}, note, list)));
  refresh();
}

/** @param {Dataset[]} datasets */
function table(datasets) {
  const row = (/** @type {Dataset} */ { name, version, format, images, classes, size_bytes: size }) => h('tr', {},
    h('th', { scope: 'row' }, h('a', { href: `#/data/${encodeURIComponent(name)}` }, name)),
    h('td', {}, version ? h('code', {}, version) : 'directory'), h('td', {}, format),
    h('td', { class: 'number' }, whole(images)), h('td', { class: 'number' }, whole(classes)), h('td', { class: 'number' }, bytes(size)));
  return scrollBox('Table of data sets', {}, h('table', { class: 'data-table' },
    h('thead', {}, h('tr', {}, COLUMNS.map((name, place) => h('th', { scope: 'col', class: place > 2 ? 'number' : null }, name)))),
    h('tbody', {}, datasets.map(row))));
}
