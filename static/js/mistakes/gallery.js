// Evaluation images with both predictions, and what the networks see in their regions.

import { api } from '../api/client.js';
import { fill, h, setStyle, setText } from '../ui/dom.js';
import { whole } from '../ui/format.js';
import { section } from '../ui/section.js';
import { className, regionsOf } from './data.js';

/** @import { Matrix, Report } from './data.js' */
/** @typedef {Schemas['PredictedImage']} Image */
/** @typedef {Schemas['NetworkPrediction']} Prediction */

const PAGE = 24;
/** Cells of finer scales have no room for a name. */
const MAX_NAMED_SCALE = 2;
const SIDE = 192;

/** @type {[string, string, string][]} value, with a teacher, without one */
const OUTCOMES = [
  ['student_wrong', 'Student wrong, teacher right', 'Student wrong'], ['both_wrong', 'Both wrong', ''],
  ['teacher_wrong', 'Student right, teacher wrong', ''], ['right', 'Both right', 'Student right'], ['', 'All', 'All'],
];

export class Gallery {
  #id;
  #report;
  #signal;
  /** The `next` of the last page that is shown. */
  #next = /** @type {number | null | undefined} */ (null);
  /** Counts the choices, so that an answer to an earlier one is not shown. */
  #choice = 0;
  /** Those that are shown, with their elements. @type {{ image: Image, overlay: HTMLElement }[]} */
  #shown = [];
  /** @type {readonly number[]} */
  #scales = [];

  /**
   * @param {string} id of the job
   * @param {Report} report
   * @param {AbortSignal} signal
   */
  constructor(id, report, signal) {
    this.#id = id;
    this.#report = report;
    this.#signal = signal;
    const again = () => this.show();
    const classes = () => [h('option', { value: '' }, 'any class'), report.classes.map((row) => h('option', { value: row.class }, className(row)))];
    const outcomes = OUTCOMES.map(([value, both, alone]) => [value, report.teacher ? both : alone]).filter(([, text]) => text);
    this.outcome = h('select', { id: 'mistakes-outcome', onchange: again }, outcomes.map(([value, text]) => h('option', { value }, text)));
    this.label = h('select', { id: 'mistakes-label', onchange: again }, classes());
    this.predicted = h('select', { id: 'mistakes-predicted', onchange: again }, classes());
    this.taught = h('select', { id: 'mistakes-taught', onchange: again }, classes());
    this.scale = h('select', { id: 'mistakes-scale', onchange: () => this.#drawRegions() });
    this.votes = h('select', { id: 'mistakes-votes', onchange: () => this.#drawRegions() },
      h('option', { value: 'teacher' }, 'of the teacher'), h('option', { value: 'student' }, 'of the student'));
    this.regionChoice = h('div', { class: 'picture-filter', hidden: true },
      h('label', { for: 'mistakes-scale' }, 'Regions', this.scale), h('label', { for: 'mistakes-votes' }, 'Predictions for them', this.votes),
      h('p', { class: 'note' }, 'Hatched regions are complementary: the teacher’s prediction for them disagrees with that for the whole image. A green frame marks predictions that are the label.'));
    this.status = h('p', { class: 'note', role: 'status' });
    this.list = h('ul', { class: 'pictures predictions' });
    this.more = h('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => this.#load() }, 'Show more');
    this.element = section('Images', {},
      h('div', { class: 'picture-filter' },
        h('label', { for: 'mistakes-outcome' }, 'Who is wrong', this.outcome), h('label', { for: 'mistakes-label' }, 'Label', this.label),
        h('label', { for: 'mistakes-predicted' }, 'Student predicts', this.predicted),
        report.teacher ? h('label', { for: 'mistakes-taught' }, 'Teacher predicts', this.taught) : null),
      this.regionChoice, this.status, this.list, h('div', { class: 'actions' }, this.more));
  }

  /**
   * Shows the images of a cell of a matrix.
   * @param {{ label: number, predicted: number }} cell
   * @param {Matrix} matrix
   */
  pickCell({ label, predicted }, matrix) {
    const [chosen, other] = matrix === 'teacher' ? [this.taught, this.predicted] : [this.predicted, this.taught];
    this.outcome.value = '';
    this.label.value = String(label);
    chosen.value = String(predicted);
    other.value = '';
    this.#reveal();
  }

  /**
   * Shows the student's mistakes of a class.
   * @param {number} label
   */
  pickClass(label) {
    this.outcome.value = 'student_wrong';
    this.label.value = String(label);
    [this.predicted.value, this.taught.value] = ['', ''];
    this.#reveal();
  }

  #reveal() {
    this.element.scrollIntoView({ block: 'nearest' });
    this.show();
  }

  /** Shows the first images that are chosen. */
  show() {
    this.#choice += 1;
    this.#next = null;
    this.#shown = [];
    fill(this.list);
    return this.#load();
  }

  async #load() {
    const choice = this.#choice;
    this.more.hidden = true;
    setText(this.status, 'Loading…');
    const parameters = {
      outcome: this.outcome.value, label: this.label.value, predicted: this.predicted.value, teacher_predicted: this.taught.value,
      pictured: 'true', after: this.#next, limit: PAGE,
    };
    try {
      const page = await api.predictions(this.#id, parameters, this.#signal);
      if (choice !== this.#choice) return;
      this.#offerScales(page.scales);
      this.list.append(...page.data.map((image) => this.#figure(image)));
      this.#drawRegions();
      this.#next = page.next;
      this.more.hidden = !page.has_more;
      const images = page.images === 1 ? '1 image' : `${whole(page.images)} images`;
      const pictures = page.pictured < page.images ? ` ${whole(page.pictured)} of them have a picture.` : '';
      setText(this.status, `${images} of the split ${page.split}.${pictures}`);
    } catch (error) {
      if (choice === this.#choice && !this.#signal.aborted) setText(this.status, error.message);
    }
  }

  /** @param {readonly number[]} scales */
  #offerScales(scales) {
    if (this.#scales.length || !scales.length) return;
    this.#scales = scales;
    const finer = scales.filter((scale) => scale > 1);
    fill(this.scale, h('option', { value: 0 }, 'none'), finer.map((scale) => h('option', { value: scale }, `${scale}×${scale}`)));
    this.scale.value = String(finer[0] ?? 0);
    this.regionChoice.hidden = finer.length === 0;
  }

  /** @param {Image} image */
  #figure(image) {
    const name = image.class ?? `class ${image.label}`;
    const overlay = h('div', { class: 'votes' });
    this.#shown.push({ image, overlay });
    const line = (/** @type {string} */ network, /** @type {Prediction | null | undefined} */ made) => (made
      ? h('span', { class: made.predicted === image.label ? 'right' : 'wrong' },
        `${made.predicted === image.label ? '✓' : '✗'} ${network}: ${made.class ?? `class ${made.predicted}`} ${(100 * made.confidence).toFixed(0)} %`)
      : null);
    return h('li', {}, h('figure', {},
      h('div', { class: 'prediction-picture' }, h('img', { src: image.picture, alt: `${name}, image ${image.position}`, width: SIDE, height: SIDE }), overlay),
      h('figcaption', {}, h('strong', {}, name), line('student', image.student), line('teacher', image.teacher))));
  }

  /** Lays the chosen regions over the images. */
  #drawRegions() {
    const scale = Number(this.scale.value);
    const network = this.votes.value === 'student' ? 'student' : 'teacher';
    for (const { image, overlay } of this.#shown) {
      fill(overlay, scale && image.regions ? votes(image, this.#scales, scale, network, this.#report) : null);
      setStyle(overlay, '--scale', Math.max(scale, 1));
    }
  }
}

/**
 * @param {Image} image
 * @param {readonly number[]} scales
 * @param {number} scale
 * @param {'student' | 'teacher'} network
 * @param {Report} report
 */
function votes({ regions, label }, scales, scale, network, { classes }) {
  if (!regions) return null;
  const { first, count } = regionsOf(scales, scale);
  return Array.from({ length: count }, (_, place) => {
    const at = first + place;
    const name = (/** @type {number} */ vote) => className(classes[vote]);
    const isComplementary = regions.complementary[at];
    const text = `row ${Math.floor(place / scale) + 1}, column ${(place % scale) + 1}: teacher ${name(regions.teacher[at])}, student ${name(regions.student[at])}${isComplementary ? '; complementary' : ''}`;
    const cell = h('span', { class: 'vote', title: text, role: 'img', 'aria-label': text },
      scale <= MAX_NAMED_SCALE ? h('span', { class: 'vote-name', 'aria-hidden': 'true' }, name(regions[network][at])) : null);
    if (isComplementary) cell.dataset.complementary = '';
    if (regions[network][at] === label) cell.dataset.right = '';
    return cell;
  });
}
