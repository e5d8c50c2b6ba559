// What a specification can name: architectures, data sets, checkpoints.

import { ageElement, copyButton, fill, h } from '../ui/dom.js';
import { age, bytes, count, whole } from '../ui/format.js';
import { now } from '../api/client.js';

function section(title, size, content, open = false) {
  return h('details', { class: 'card help', open }, h('summary', {}, h('h2', {}, title), h('span', { class: 'note' }, String(size))), content);
}

export function architecturesHelp(architectures) {
  const columns = ['Name', 'Parameters', 'MACs', 'Input', 'Final map'];
  return section('Architectures', architectures.length, h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Architectures' }, h('table', {},
    h('thead', {}, h('tr', {}, columns.map((name) => h('th', { scope: 'col' }, name)))),
    h('tbody', {}, architectures.map((one) => h('tr', {},
      h('th', { scope: 'row' }, h('code', {}, one.name)),
      h('td', {}, count(one.parameters)), h('td', {}, count(one.macs)), h('td', {}, `${one.input_side} px`),
      h('td', {}, `${one.feature_map_side}×${one.feature_map_side}`)))))));
}

export function datasetsHelp(datasets) {
  const body = datasets.length === 0
    ? h('p', { class: 'note' }, 'None yet. Put a directory with images below the server’s --datasets-dir.')
    : h('ul', { class: 'plain' }, datasets.map((one) => h('li', {}, h('code', {}, one.name), copyButton(() => one.name), h('div', { class: 'note' },
      `${one.classes} classes · ${one.splits.map(({ name, images }) => `${name} ${whole(images)}`).join(', ')} · ${one.format} · ${bytes(one.size_bytes)}`))));
  return section('Data sets', datasets.length, body, true);
}

/** `element` for the page; `update` when there are new ones. */
export function checkpointsHelp(onUse) {
  const element = h('div', {});
  const item = (one) => h('li', {},
    h('div', {}, h('strong', {}, one.name ?? one.architecture ?? one.format), ' ', h('button', { type: 'button', class: 'quiet', onclick: () => onUse(one) }, 'Use as the teacher')),
    h('div', { class: 'note' }, h('code', {}, one.id), ' ', [
      one.architecture ?? (one.fits.length ? `fits ${one.fits.map(({ architecture }) => architecture).join(', ')}` : 'fits no known architecture'),
      one.num_classes ? `${one.num_classes} classes` : null, bytes(one.size_bytes),
    ].filter(Boolean).join(' · '), ' · ', ageElement(one.created_at, (time) => age(time, now()))));
  return {
    element,
    update(checkpoints) {
      const body = checkpoints.length === 0
        ? h('p', { class: 'note' }, 'None yet. Upload one below, or let a job with method “none” make a teacher.')
        : h('ul', { class: 'plain scroll', tabindex: '0', 'aria-label': 'Checkpoints' }, checkpoints.map(item));
      fill(element, section('Checkpoints', checkpoints.length, body, true));
    },
  };
}
