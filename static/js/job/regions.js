// Where in the image the teacher disagrees with its prediction for the whole image, and in favour of which classes.

import { api } from '../api/client.js';
import { fill, h, setStyle, setText } from '../ui/dom.js';
import { percent, whole } from '../ui/format.js';
import { scrollBox, section } from '../ui/section.js';
import { isFinal } from '../ui/status.js';

/**
 * `map` has the shares of complementary regions by row and column.
 * @typedef {{ scale: number, complementary_fraction: number, map: number[][] }} ScaleMap
 */
/**
 * @typedef {{ predicted: number, predicted_name?: string, vote: number, vote_name?: string, regions: number,
 *   right: number }} Vote
 */
/**
 * The artifact regions.json.
 * @typedef {{ images: number, complementary_fraction: number, scales: ScaleMap[], votes: Vote[] }} RegionReport
 */

/** Pairs of classes that are shown; the file has more. */
const SHOWN_VOTES = 8;
/** Larger maps have no room for numbers. */
const MAX_NUMBERED_SCALE = 4;

const share = (/** @type {number} */ fraction) => percent(fraction * 100, 1);

export class JobRegions {
  #isLoaded = false;

  /**
   * @param {Schemas['Job']} job
   * @param {HTMLElement[]} charts by scale
   * @param {AbortSignal} signal
   */
  constructor(job, charts, signal) {
    this.signal = signal;
    const { scales = [] } = job.spec.distillation;
    this.note = h('p', { class: 'note' }, 'Once the job has succeeded, this shows where in the image the teacher disagrees with its own prediction, and in favour of which classes.');
    this.report = h('div', { class: 'region-report' }, this.note,
      maps((scales ?? []).filter((scale) => scale > 1).map(emptyMap)));
    this.element = section('Regions', { class: 'regions' }, h('div', { class: 'charts' }, charts), this.report);
  }

  /** @param {Schemas['Job']} job */
  async update(job) {
    if (!job.result && isFinal(job.status)) setText(this.note, `This job is ${job.status}, so there is no report on its regions.`);
    if (this.#isLoaded || !job.result) return;
    this.#isLoaded = true;
    try {
      this.#show(await api.regions(job.id, this.signal));
    } catch (error) {
      // Jobs of earlier versions have no report.
      if (!this.signal.aborted) fill(this.report, h('p', { class: 'note' }, `There is no report on the regions: ${error.message}`));
    }
  }

  /** @param {RegionReport} report */
  #show({ images, complementary_fraction: all, scales, votes }) {
    fill(this.report,
      h('p', { class: 'note' }, `On the ${whole(images)} evaluation images, the teacher contradicts its own prediction in ${share(all)} of all regions.`),
      maps(scales.filter(({ scale }) => scale > 1).map(fullMap)),
      votes.length ? table(votes.slice(0, SHOWN_VOTES)) : null);
  }
}

/** @param {HTMLElement[]} figures */
function maps(figures) {
  const ramp = h('div', { class: 'heat-scale', 'aria-hidden': 'true' },
    h('span', { class: 'note' }, 'never'), h('span', { class: 'heat-ramp' }), h('span', { class: 'note' }, 'most often, by scale'));
  return h('div', { class: 'region-maps' }, figures, ramp);
}

/**
 * The image plane; the more often a region is complementary, the darker it is.
 * @param {ScaleMap} report
 */
function fullMap({ scale, complementary_fraction: mean, map: rows }) {
  const largest = Math.max(...rows.flat(), 1e-9);
  const cells = rows.flatMap((row, y) => row.map((value, x) => {
    const text = scale <= MAX_NUMBERED_SCALE ? `${Math.round(value * 100)}` : '';
    const cell = h('span', { class: 'region', title: `row ${y + 1}, column ${x + 1}: ${share(value)}` }, text);
    setStyle(cell, '--heat', (value / largest).toFixed(3));
    return cell;
  }));
  const label = `Share of complementary regions in percent, ${scale} by ${scale}, row by row: ${rows.flat().map((value) => Math.round(value * 100)).join(', ')}`;
  return plane(scale, cells, `${scale}×${scale}: ${share(mean)}`, { role: 'img', 'aria-label': label });
}

/** @param {number} scale */
function emptyMap(scale) {
  return plane(scale, Array.from({ length: scale ** 2 }, () => h('span', { class: 'region' })), `${scale}×${scale}`, { 'aria-hidden': 'true' });
}

/**
 * @param {number} scale
 * @param {HTMLElement[]} cells
 * @param {string} caption
 * @param {Record<string, string>} attributes
 */
function plane(scale, cells, caption, attributes) {
  const grid = h('div', { class: 'region-map', ...attributes }, cells);
  setStyle(grid, '--scale', scale);
  return h('figure', {}, grid, h('figcaption', { class: 'note' }, caption));
}

/** @param {Vote[]} votes */
function table(votes) {
  const name = (/** @type {string | undefined} */ label, /** @type {number} */ number) => label ?? `class ${number}`;
  return scrollBox('What complementary regions predict', { class: 'table-scroll' }, h('table', {},
    h('thead', {}, h('tr', {}, ['Whole image predicts', 'Region predicts', 'Regions', 'Region is right'].map((text) => h('th', { scope: 'col' }, text)))),
    h('tbody', {}, votes.map((vote) => h('tr', {},
      h('td', {}, name(vote.predicted_name, vote.predicted)),
      h('td', {}, name(vote.vote_name, vote.vote)),
      h('td', { class: 'number' }, whole(vote.regions)),
      h('td', { class: 'number' }, share(vote.right / vote.regions)))))));
}
