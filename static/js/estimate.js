// The answer of a dry run, for people.

import { h } from './dom.js';
import { bytes, count, prettyJson } from './format.js';

export function estimate({ spec, classes, teacher, student, warnings, memory }) {
  return h('div', { class: 'ok-box' },
    h('p', {}, h('strong', {}, 'This can run.'), ` ${spec.training.epochs} epochs on ${classes} classes; about ${bytes(memory.total_bytes)} of device memory.`),
    warnings.map((warning) => h('p', { class: 'warning-line' }, warning)),
    h('div', { class: 'scroll' }, h('table', {},
      h('thead', {}, h('tr', {}, ['', 'Architecture', 'Parameters', 'MACs', 'Final map'].map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, teacher ? network('Teacher', teacher) : null, network('Student', student)))),
    h('details', {}, h('summary', {}, 'With every default filled in'), h('pre', { tabindex: '0' }, prettyJson(spec))));
}

function network(role, { architecture, parameters, macs, feature_map: [channels, height, width] }) {
  return h('tr', {}, h('th', { scope: 'row' }, role),
    [architecture, count(parameters), count(macs), `${channels} × ${height}×${width}`].map((text) => h('td', {}, text)));
}
