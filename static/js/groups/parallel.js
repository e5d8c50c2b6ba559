// Parallel coordinates: an axis for each setting and one for the accuracy, and a line for each group, in SVG.

import { svg } from '../charts/svg.js';
import { h, setText } from '../ui/dom.js';
import { percent, whole } from '../ui/format.js';
import { scrollBox } from '../ui/section.js';
import { shortNames, shortValue } from '../ui/settings.js';
import { parallelAxis } from './data.js';

/** @import { ParallelAxis } from './data.js' */
/** @typedef {Pick<Schemas['Group'], 'values' | 'top1' | 'n'>} Group */

const HEIGHT = 340;
const PLOT = { left: 90, right: 40, top: 40, bottom: HEIGHT - 20 };
/** Least pixels between two axes: a plot that needs more than its page has is scrolled. */
const LEAST_GAP = 76;
/** Pixels that stay free beside a text. */
const FREE = 6;
/** Most lines: more hide one another. */
export const MAX_LINES = 200;
/** Longest text beside an axis, in characters. Where axes are close, it is shorter. */
const LONGEST = 16;
/** The same of its tool tip. */
const LONGEST_TITLE = 1000;

export class ParallelCoordinates {
  /** @type {string[]} */
  #by = [];
  /** @type {Group[]} */
  #all = [];
  /**
   * Those that are drawn.
   * @type {Group[]}
   */
  #groups = [];
  #width = 720;
  /** What is drawn, to draw nothing twice. */
  #drawn = '';
  /** What the heading says while no line is pointed at. */
  #rest = '';

  /** @param {AbortSignal} signal */
  constructor(signal) {
    this.where = h('span', { class: 'chart-where', role: 'status' });
    this.plot = svg('svg', { class: 'scatter parallel', height: HEIGHT, role: 'img', 'aria-label': 'No groups yet' });
    this.element = h('section', { class: 'card chart', 'aria-label': 'Parallel coordinates', 'data-lines': 0 },
      h('header', {}, h('h3', {}, 'Parallel coordinates'), this.where), scrollBox('Parallel coordinates, chart', {}, this.plot));
    const observer = new ResizeObserver(() => this.show(this.#by, this.#all));
    observer.observe(this.plot);
    signal.addEventListener('abort', () => observer.disconnect());
  }

  /**
   * Draws the most accurate groups.
   * @param {string[]} by what the jobs are grouped by
   * @param {Group[]} all
   */
  show(by, all) {
    const groups = [...all].sort((one, other) => other.top1 - one.top1).slice(0, MAX_LINES);
    this.plot.style.minWidth = `${PLOT.left + PLOT.right + by.length * LEAST_GAP}px`;
    // 0 while it is hidden, where no text can be measured.
    const width = this.plot.clientWidth;
    this.#width = width || this.#width;
    const drawn = JSON.stringify([width, by, all.length, groups.map(({ values, top1, n }) => [values, top1, n])]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#by = by;
    this.#all = all;
    this.#groups = groups;
    this.plot.setAttribute('viewBox', `0 0 ${this.#width} ${HEIGHT}`);
    this.plot.replaceChildren();
    this.element.dataset.lines = String(groups.length);
    this.#rest = all.length > groups.length ? `The best ${groups.length} of ${whole(all.length)}` : '';
    setText(this.where, this.#rest);
    if (groups.length === 0) return;
    const names = shortNames(by);
    const axes = [...names.map((name, index) => parallelAxis(name, groups.map(({ values }) => values[index]))),
      parallelAxis('top-1', groups.map(({ top1 }) => Number(top1.toFixed(2))))];
    const accuracy = axes[axes.length - 1].places;
    // The best lie over the others.
    const order = groups.map((_, index) => index).sort((one, other) => (accuracy[one] ?? 0) - (accuracy[other] ?? 0));
    for (const index of order) this.#line(axes, index, names);
    axes.forEach((_, index) => this.#axis(axes, index));
    this.plot.setAttribute('aria-label', `${groups.length} groups by ${names.join(', ')}; the table has the same values`);
  }

  /**
   * @param {number} index
   * @param {number} count
   */
  #x(index, count) {
    const width = this.#width - PLOT.left - PLOT.right;
    return PLOT.left + (count > 1 ? (index * width) / (count - 1) : width / 2);
  }

  /** @param {number} place from 0 to 1 */
  #y(place) {
    return PLOT.bottom - place * (PLOT.bottom - PLOT.top);
  }

  /**
   * A line with gaps where the group has no value.
   * @param {ParallelAxis[]} axes
   * @param {number} index of the group
   * @param {string[]} names
   */
  #line(axes, index, names) {
    const group = this.#groups[index];
    let path = '';
    let isOpen = false;
    axes.forEach(({ places }, axis) => {
      const place = places[index];
      if (place !== null) path += `${isOpen ? 'L' : 'M'}${this.#x(axis, axes.length).toFixed(1)} ${this.#y(place).toFixed(1)}`;
      isOpen = place !== null;
    });
    const text = `${names.map((name, key) => `${name} ${shortValue(group.values[key])}`).join(', ')}: ${percent(group.top1)}, ${group.n === 1 ? '1 job' : `${group.n} jobs`}`;
    const share = axes[axes.length - 1].places[index] ?? 0.5;
    const line = svg('path', { d: path, class: 'parallel-line', 'stroke-opacity': (0.15 + 0.85 * share ** 2).toFixed(2) }, svg('title', {}, text));
    line.addEventListener('pointerenter', () => setText(this.where, text));
    line.addEventListener('pointerleave', () => setText(this.where, this.#rest));
    this.plot.append(line);
  }

  /**
   * An axis with its name and values, none of which reaches the next ones.
   * @param {ParallelAxis[]} axes
   * @param {number} index
   */
  #axis(axes, index) {
    const { name, ticks } = axes[index];
    const x = this.#x(index, axes.length);
    const gap = axes.length > 1 ? this.#x(1, axes.length) - this.#x(0, axes.length) : x;
    this.plot.append(svg('line', { class: 'parallel-axis', x1: x, x2: x, y1: PLOT.top, y2: PLOT.bottom }));
    this.#text(name, Math.min(gap, 2 * x, 2 * (this.#width - x)) - FREE, { class: 'scatter-name', x, y: PLOT.top - 18, 'text-anchor': 'middle' });
    for (const { text, place } of ticks) {
      this.#text(text, (index === 0 ? x : gap) - 2 * FREE, { class: 'scatter-tick parallel-tick', x: x - FREE, y: this.#y(place) + 4, 'text-anchor': 'end' });
    }
  }

  /**
   * A text that is cut where it has no room. Its tool tip has more of it.
   * @param {string} text
   * @param {number} room in pixels
   * @param {Record<string, string | number>} attributes
   */
  #text(text, room, attributes) {
    const element = svg('text', attributes);
    this.plot.append(element);
    const put = (/** @type {number} */ kept) => { element.textContent = kept < text.length ? `${text.slice(0, kept - 1)}…` : text; };
    let kept = Math.min(text.length, LONGEST);
    put(kept);
    for (let length = element.getComputedTextLength(); length > room && kept > 2; length = element.getComputedTextLength()) {
      kept = Math.max(Math.min(kept - 1, Math.floor((kept * room) / length)), 2);
      put(kept);
    }
    if (kept < text.length) element.append(svg('title', {}, shortValue(text, LONGEST_TITLE)));
  }
}
