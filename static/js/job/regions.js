// What the regions told: where the teacher disagrees with its own view of the whole image, and what for.

import { api } from '../api/client.js';
import { fill, h, setStyle } from '../ui/dom.js';
import { percent } from '../ui/format.js';

/** So many pairs of classes are shown; the file has more. */
const SHOWN = 8;

export class JobRegions {
  #asked = false;

  /** `charts` are those by scale. A job without regions has no such section. */
  constructor(job, charts, signal) {
    this.signal = signal;
    const { scales = [] } = job.spec.distillation;
    this.report = h('div', { class: 'region-report' },
      h('p', { class: 'note' }, 'Where on the image the teacher disagrees with itself, and what for, is told once the job has succeeded.'),
      maps(scales.map((scale) => ({ scale }))));
    this.element = h('section', { class: 'card regions', 'aria-labelledby': 'regions-title', hidden: charts.length === 0 },
      h('h2', { id: 'regions-title' }, 'What the regions tell'), h('div', { class: 'charts' }, charts), this.report);
  }

  /** Reads the report of a job that has one, once. */
  async update(job) {
    if (this.#asked || !job.result || this.element.hidden) return;
    this.#asked = true;
    try {
      this.#show(await api.regions(job.id, this.signal));
    } catch (error) {
      // A job of an earlier version has none.
      if (!this.signal.aborted) fill(this.report, h('p', { class: 'note' }, `There is no report of the regions: ${error.message}`));
    }
  }

  #show({ images, complementary_fraction: all, scales, votes }) {
    fill(this.report,
      h('p', { class: 'note' }, `As the teacher sees the ${images.toLocaleString('en-US')} evaluation images: ${share(all)} of all regions are complementary.`),
      maps(scales),
      votes.length ? table(votes.slice(0, SHOWN)) : null);
  }
}

const share = (fraction) => percent(fraction * 100, 1);

/** The image planes of a report's scales, or of those of a job that has no report yet. */
function maps(scales) {
  return h('div', { class: 'region-maps' }, scales.filter(({ scale }) => scale > 1).map((one) => (one.map ? map(one) : blank(one))), scaleOfHeat());
}

/** The image plane, each region the darker the oftener it is complementary. */
function map({ scale, complementary_fraction: mean, map: rows }) {
  const largest = Math.max(...rows.flat(), 1e-9);
  const cells = rows.flatMap((row, y) => row.map((value, x) => {
    const cell = h('span', { class: 'region', title: `row ${y + 1}, column ${x + 1}: ${share(value)}` }, scale <= 4 ? `${Math.round(value * 100)}` : '');
    setStyle(cell, '--heat', (value / largest).toFixed(3));
    return cell;
  }));
  const label = `Share of complementary regions in percent, ${scale} by ${scale}, row by row: ${rows.flat().map((value) => Math.round(value * 100)).join(', ')}`;
  return plane(scale, cells, `${scale}×${scale}: ${share(mean)}`, { role: 'img', 'aria-label': label });
}

function plane(scale, cells, caption, attributes) {
  const grid = h('div', { class: 'region-map', ...attributes }, cells);
  setStyle(grid, '--scale', scale);
  return h('figure', {}, grid, h('figcaption', { class: 'note' }, caption));
}

/** Regions of which nothing is known yet. */
function blank({ scale }) {
  return plane(scale, Array.from({ length: scale ** 2 }, () => h('span', { class: 'region' })), `${scale}×${scale}`, { 'aria-hidden': 'true' });
}

function scaleOfHeat() {
  return h('div', { class: 'heat-scale', 'aria-hidden': 'true' }, h('span', { class: 'note' }, 'never'), h('span', { class: 'heat-ramp' }), h('span', { class: 'note' }, 'most often, by scale'));
}

function table(votes) {
  const name = (label, number) => label ?? `class ${number}`;
  return h('div', { class: 'table-scroll', tabindex: '0', role: 'region', 'aria-label': 'What complementary regions speak for' }, h('table', {},
    h('thead', {}, h('tr', {}, ['Whole image taken for', 'Region speaks for', 'Regions', 'Of these, the region is right'].map((text) => h('th', { scope: 'col' }, text)))),
    h('tbody', {}, votes.map((vote) => h('tr', {},
      h('td', {}, name(vote.predicted_name, vote.predicted)),
      h('td', {}, name(vote.vote_name, vote.vote)),
      h('td', { class: 'number' }, vote.regions.toLocaleString('en-US')),
      h('td', { class: 'number' }, share(vote.right / vote.regions)))))));
}
