// The confusion matrices of student and teacher, and their difference.

import { fill, h, setStyle } from '../ui/dom.js';
import { whole } from '../ui/format.js';
import { scrollBox, section } from '../ui/section.js';
import { cellValue, className, matrixClasses, topMistakes } from './data.js';

/** @import { Cell, ClassRow, Matrix, Report } from './data.js' */
/** @typedef {(cell: { label: number, predicted: number }, matrix: Matrix) => void} OnPick */

/** Pairs of classes in the list. */
const LISTED = 10;
/** @type {[Matrix, string][]} */
const MATRICES = [['student', 'Student'], ['teacher', 'Teacher'], ['difference', 'Difference']];

export class ConfusionMatrix {
  /** @type {Matrix} */
  #matrix = 'student';
  #report;
  #onPick;
  /** @type {Map<string, Cell>} */
  #cells;

  /**
   * @param {Report} report
   * @param {OnPick} onPick shows the images of a cell
   */
  constructor(report, onPick) {
    this.#report = report;
    this.#onPick = onPick;
    this.#cells = new Map(report.cells.map((cell) => [`${cell.label} ${cell.predicted}`, cell]));
    this.table = scrollBox('Confusion matrix', { class: 'table-scroll' });
    this.list = h('div', {});
    this.element = section('Confusion', { actions: report.teacher ? this.#choice() : null },
      this.#hint(), h('div', { class: 'confusion-parts' }, this.table, this.list));
    this.#show();
  }

  #choice() {
    const choose = (/** @type {Matrix} */ matrix) => {
      this.#matrix = matrix;
      this.#show();
    };
    return h('fieldset', { class: 'segments' }, h('legend', {}, 'Matrix'), MATRICES.map(([matrix, title]) => h('label', {},
      h('input', { type: 'radio', name: 'confusion-matrix', value: matrix, checked: matrix === this.#matrix, onchange: () => choose(matrix) }), title)));
  }

  #hint() {
    const { classes, cells_left_out: left } = this.#report;
    const shown = matrixClasses(this.#report).length;
    const parts = ['Rows are labels, columns are predictions. Choose a number to see its images.'];
    if (shown < classes.length) parts.push(`Of the ${whole(classes.length)} classes, these are the ${shown} that are confused most often.`);
    if (left > 0) parts.push(`${whole(left)} rarer pairs of classes are not in the report.`);
    return h('p', { class: 'note' }, parts.join(' '));
  }

  #show() {
    const classes = matrixClasses(this.#report);
    const valueAt = (/** @type {number} */ label, /** @type {number} */ predicted) => cellValue(this.#cells.get(`${label} ${predicted}`), this.#matrix);
    const mistakes = classes.flatMap((row) => classes.filter((column) => column !== row).map((column) => Math.abs(valueAt(row.class, column.class))));
    const largest = Math.max(...mistakes, 1);
    const body = classes.map((row) => h('tr', {}, h('th', { scope: 'row' }, className(row)),
      classes.map((column) => h('td', {}, this.#cell(row, column, valueAt(row.class, column.class), largest)))));
    fill(this.table, h('table', { class: 'confusion-table', 'data-matrix': this.#matrix },
      h('caption', { class: 'visually-hidden' }, 'Rows are labels, columns are predictions'),
      h('thead', {}, h('tr', {}, h('td', {}), classes.map((column) => h('th', { scope: 'col' }, h('span', {}, className(column)))))),
      h('tbody', {}, body)));
    this.#list();
  }

  /**
   * @param {ClassRow} row
   * @param {ClassRow} column
   * @param {number} value
   * @param {number} largest of the mistakes
   */
  #cell(row, column, value, largest) {
    if (value === 0) return null;
    const isRight = row === column;
    const text = this.#matrix === 'difference' && value > 0 ? `+${whole(value)}` : whole(value);
    const unit = this.#matrix === 'difference' ? 'more images of the student than of the teacher' : `images of the ${this.#matrix}`;
    const button = h('button', {
      type: 'button', class: 'confusion-cell', title: `${className(row)} predicted as ${className(column)}: ${text} ${unit}`,
      'aria-label': `${className(row)} predicted as ${className(column)}: ${text} ${unit}`,
      onclick: () => this.#onPick({ label: row.class, predicted: column.class }, this.#matrix),
    }, text);
    // More of the student's is good on the diagonal only.
    button.dataset.kind = (value > 0) === isRight ? 'good' : 'bad';
    const of = isRight && this.#matrix !== 'difference' ? Math.max(row.images, 1) : largest;
    setStyle(button, '--heat', Math.min(Math.abs(value) / of, 1).toFixed(3));
    return button;
  }

  #list() {
    const names = this.#report.classes;
    const listed = topMistakes(this.#report, this.#matrix, LISTED);
    const title = this.#matrix === 'difference' ? 'What the student confuses more often than the teacher' : `What the ${this.#matrix} confuses most often`;
    const item = (/** @type {Cell & { value: number }} */ { label, predicted, value }) => h('li', {},
      h('button', { type: 'button', class: 'quiet small', onclick: () => this.#onPick({ label, predicted }, this.#matrix) },
        `${className(names[label])} → ${className(names[predicted])}`), ` ${whole(value)}`);
    fill(this.list, h('h3', {}, title), listed.length ? h('ol', { class: 'confused' }, listed.map(item)) : h('p', { class: 'note' }, 'Nothing.'));
  }
}
