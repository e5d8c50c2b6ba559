// The classes of the evaluation split, sorted by any column.

import { fill, h } from '../ui/dom.js';
import { percent, whole } from '../ui/format.js';
import { scrollBox, section } from '../ui/section.js';
import { classDifference, className, f1Of, precisionOf, sortedClasses, takenFor } from './data.js';

/** @import { ClassRow, Column, Report } from './data.js' */

/** @type {[Column, string][]} */
const COLUMNS = [['class', 'Class'], ['images', 'Images'], ['student', 'Student'], ['teacher', 'Teacher'], ['difference', 'Difference'], ['agreement', 'Same prediction'],
  ['precision', 'Precision'], ['f1', 'F1']];
/** Columns that need a teacher. */
const OF_BOTH = ['teacher', 'difference', 'agreement'];

export class ClassTable {
  /** @type {Column} */
  #column = 'student';
  #isDescending = false;
  #report;
  #onPick;
  #taken;

  /**
   * @param {Report} report
   * @param {(label: number) => void} onPick shows the mistakes of a class
   */
  constructor(report, onPick) {
    this.#report = report;
    this.#onPick = onPick;
    this.#taken = takenFor(report);
    this.columns = COLUMNS.filter(([column]) => report.teacher || !OF_BOTH.includes(column));
    this.box = scrollBox('Classes, table', { class: 'class-table' });
    this.element = section('Classes', {},
      h('p', { class: 'note' }, 'Percent of the images of a class that are recognised. Precision, the percent of the predictions of a class that are right, and F1 are the student’s. Choose a heading to sort, and a class to see its mistakes.'), this.box);
    this.#show();
  }

  /** @param {Column} column */
  #sort(column) {
    this.#isDescending = column === this.#column ? !this.#isDescending : column === 'images';
    this.#column = column;
    this.#show();
    /** @type {HTMLElement | null} */ (this.box.querySelector('[aria-sort] button'))?.focus();
  }

  #show() {
    const heading = (/** @type {[Column, string]} */ [column, title]) => h('th', { scope: 'col', class: column === 'class' ? null : 'number', 'aria-sort': this.#order(column) },
      h('button', { type: 'button', class: 'sort-button', onclick: () => this.#sort(column) }, title));
    const rows = sortedClasses(this.#report.classes, this.#column, this.#isDescending).map((row) => this.#row(row));
    fill(this.box, h('table', { class: 'data-table' },
      h('thead', {}, h('tr', {}, this.columns.map(heading), h('th', { scope: 'col' }, 'Most often taken for'))),
      h('tbody', {}, rows)));
  }

  /** @param {Column} column */
  #order(column) {
    if (column !== this.#column) return null;
    return this.#isDescending ? 'descending' : 'ascending';
  }

  /** @param {ClassRow} row */
  #row(row) {
    const taken = this.#taken.get(row.class);
    const difference = classDifference(row);
    const values = {
      images: whole(row.images), student: percent(row.student, 1), teacher: percent(row.teacher, 1), agreement: percent(row.agreement, 1),
      precision: percent(precisionOf(row), 1), f1: percent(f1Of(row), 1),
      difference: difference === null ? '–' : `${difference > 0 ? '+' : ''}${difference.toFixed(1)}`,
    };
    const cells = this.columns.filter(([column]) => column !== 'class')
      .map(([column]) => h('td', { class: 'number' }, values[/** @type {keyof typeof values} */ (column)]));
    return h('tr', {},
      h('th', { scope: 'row' }, h('button', { type: 'button', class: 'quiet small', onclick: () => this.#onPick(row.class) }, className(row))),
      cells, h('td', {}, taken ? `${className(this.#report.classes[taken.predicted])} (${whole(taken.student)})` : '–'));
  }
}
