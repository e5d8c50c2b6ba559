// The student in other formats: where to download each, and how the server checked it.

import { api, paths } from '../api/client.js';
import { curl } from '../ui/commands.js';
import { copyButton, fill, h } from '../ui/dom.js';
import { bytes, isNumber, percent, whole } from '../ui/format.js';
import { scrollBox } from '../ui/section.js';

/** @typedef {'onnx' | 'int8' | 'pt2' | 'bundle'} ExportFormat */
/** @typedef {{ student: number, exported: number }} Top1 */
/**
 * @typedef {{ images: number, available?: number, relative_difference: number, top1_agreement: number,
 *   top1?: Top1 | null }} Parity
 */
/**
 * @typedef {{ size_bytes: number, sha256: string, runtime?: { name: string, version: string } | null,
 *   not_checked?: string | null, parity?: Parity | null }} Report
 */

/** @type {[format: ExportFormat, name: string, meaning: string][]} */
const FORMATS = [
  ['onnx', 'ONNX', 'float32, for ONNX Runtime and whatever reads ONNX'],
  ['int8', 'ONNX, int8', 'a quarter of the size; its report says what that costs in accuracy'],
  ['pt2', '.pt2', 'for torch.export.load: the uploaded network with the student’s weights'],
  ['bundle', 'Bundle', 'a zip: the student in several formats, labels, preprocessing, a model card, and Python that runs it'],
];

/**
 * A table of the formats that a student has.
 * @param {string} id
 * @param {boolean} isExported whether the student came as a file of `torch.export`
 * @param {AbortSignal} signal
 */
export function exportsTable(id, isExported, signal) {
  const heads = ['Format', 'Check', h('span', { class: 'visually-hidden' }, 'Command')];
  const formats = FORMATS.filter(([format]) => format !== 'pt2' || isExported);
  return scrollBox('Table of exports', {}, h('table', { class: 'plain-table exports' },
    h('thead', {}, h('tr', {}, heads.map((head) => h('th', { scope: 'col' }, head)))),
    h('tbody', {}, formats.map(([format, name, meaning]) => h('tr', {},
      h('th', { scope: 'row' }, h('a', { href: paths.export(id, format), download: '' }, name), h('div', { class: 'note' }, meaning)),
      h('td', {}, report(id, format, name, signal)),
      h('td', {}, copyButton(() => curl(paths.export(id, format), '-OJ'), 'Copy curl')))))));
}

/**
 * A button that asks for the report: the server writes the file for it, which can take minutes.
 * @param {string} id
 * @param {ExportFormat} format
 * @param {string} name
 * @param {AbortSignal} signal
 */
function report(id, format, name, signal) {
  const said = h('div', { 'aria-live': 'polite' });
  const ask = async () => {
    fill(said, h('span', { class: 'note' }, 'The server writes and checks it …'));
    try {
      const found = await api.exportReport(id, format, signal);
      if (!signal.aborted) fill(said, h('a', { href: paths.exportReport(id, format) }, 'Report'), ': ', reportText(found));
    } catch (error) {
      if (!signal.aborted) fill(said, h('span', { class: 'error-text' }, error.message), ' ', button);
    }
  };
  const button = h('button', { type: 'button', class: 'quiet', 'aria-label': `Show report on ${name}`, onclick: ask }, 'Show report');
  return fill(said, button);
}

/**
 * What a report says, in a sentence or two.
 * @param {Report} found
 */
export function reportText({ size_bytes: size, runtime, not_checked: reason, parity }) {
  if (!parity) return `${bytes(size)}. Not checked: ${reason ?? 'no reason was given'}.`;
  const by = runtime ? `${runtime.name} ${runtime.version}` : 'Another program';
  const difference = isNumber(parity.relative_difference) ? parity.relative_difference.toExponential(1) : 'unknown';
  const accuracy = parity.top1 ? `, top-1 ${percent(parity.top1.exported)} instead of ${percent(parity.top1.student)}` : '';
  const left = (parity.available ?? 0) > parity.images ? ` (of ${whole(parity.available)}: more would have taken too long)` : '';
  return `${bytes(size)}. ${by} ran it on ${whole(parity.images)} images${left}: same class for ${percent(parity.top1_agreement)}${accuracy}; `
    + `logits differ by at most ${difference} of the largest.`;
}
