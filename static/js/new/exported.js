// Networks that come as files: what the server found in one, and how to make one.

import { copyButton, fill, h } from '../ui/dom.js';
import { count, isNumber, whole } from '../ui/format.js';
import { snippetText } from '../job/snippets.js';

/** @import { Child } from '../ui/dom.js' */
/** @typedef {Schemas['ExportedNetwork']} ExportedNetwork */

const size = (/** @type {number[]} */ [height, width]) => `${height}×${width}`;

/**
 * The network in a line.
 * @param {ExportedNetwork} network
 */
export function aboutNetwork({ input: [, ...side], classes, parameters, macs, feature_map: map }) {
  return [`exported for ${size(side)} pixels`, `${whole(classes)} classes`, `${count(parameters)} parameters`, `${count(macs)} MACs`,
    map ? `${size(map.shape.slice(1))} map` : 'no feature map'].join(' · ');
}

/**
 * What the server found in the file.
 * @param {ExportedNetwork} network
 */
export function networkFacts({ input: [, ...side], batch: [, mostImages], classes, parameters, macs, mode, operators, feature_map: map, head, schema, torch }) {
  const short = (/** @type {string} */ name) => name.replace(/^aten\./, '').replace(/\.[^.]*$/, '');
  const kinds = Object.entries(operators);
  const total = kinds.reduce((sum, [, times]) => sum + times, 0);
  /** @type {[name: string, value: Child][]} */
  const facts = [
    ['Images', `${size(side)} pixels`],
    ['Classes', whole(classes)],
    ['Parameters', count(parameters)],
    ['MACs', count(macs)],
    ['Exported in', `${mode} mode`],
    ['Written by', `PyTorch ${torch ?? 'of an unknown version'}, schema ${schema}`],
    ['Largest batch', isNumber(mostImages) ? whole(mostImages) : 'any'],
    ['Feature map', map ? `${whole(map.shape[0])} × ${size(map.shape.slice(1))}, ${map.layout.replaceAll('_', ' ')}` : 'none: methods with several scales cannot use it'],
    ...(map ? /** @type {[string, Child][]} */ ([['Head', `after ${head.begins_after}: ${head.operators.map(short).join(' → ') || 'nothing'}${head.is_linear ? '' : ' (not linear)'}`]]) : []),
    ...(head.keeps_classifier ? /** @type {[string, Child][]} */ ([['New classifier', `not possible, because ${head.keeps_classifier}`]]) : []),
    ['Operators', h('span', { title: kinds.map(([name, times]) => `${name} ×${times}`).join('\n') }, `${whole(total)} of ${whole(kinds.length)} kinds`)],
  ];
  return h('dl', { class: 'network-facts' }, facts.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

/**
 * How to export a network, folded away; the program is loaded when it is opened.
 * @param {AbortSignal} signal
 */
export function exportHelp(signal) {
  const program = h('div', { class: 'program' });
  let isAsked = false;
  const load = async () => {
    if (isAsked) return;
    isAsked = true;
    try {
      const text = (await snippetText('export.py', signal)).trimEnd();
      fill(program, copyButton(() => text), h('pre', { tabindex: '0', 'aria-label': 'Python that exports a network' }, text));
    } catch (error) {
      if (signal.aborted) return;
      isAsked = false;
      fill(program, h('p', { class: 'error-text' }, error.message));
    }
  };
  return h('details', { class: 'more-fields export-help', ontoggle: load }, h('summary', {}, 'A network that is not in the list'),
    h('p', { class: 'field-help' }, 'Any classifier of PyTorch can be a teacher or a student: export it, and upload the file. It holds the network as data, and no code.'), program);
}
