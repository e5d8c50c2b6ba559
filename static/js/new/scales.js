// The scales of SDD as check boxes, each with a drawing of its regions.

import { fill, h, setStyle, setText } from '../ui/dom.js';
import { described } from './fields.js';

/** @import { Schema } from './controls.js' */

const OFFERED = [1, 2, 3, 4, 5, 6, 7, 8];

/** The field `/distillation/scales`. */
export class Scales {
  pointer = '/distillation/scales';
  /** @type {Map<number, { box: HTMLInputElement, chip: HTMLElement }>} */
  #chips = new Map();

  /**
   * @param {Schema} schema
   * @param {(scales: number[] | undefined) => void} onChange gets undefined for the published scales
   */
  constructor(schema, onChange) {
    this.schema = schema;
    this.onChange = onChange;
    this.chips = h('div', { class: 'chips' });
    this.total = h('p', { class: 'field-help', id: 'scales-total' });
    this.fault = h('p', { class: 'field-fault', id: 'scales-fault', hidden: true });
    this.reset = h('button', { type: 'button', class: 'quiet small', onclick: () => onChange(undefined) }, 'As published');
    this.element = h('fieldset', { class: 'field scales', 'data-pointer': this.pointer, 'aria-describedby': 'scales-fault scales-help scales-total' },
      h('legend', {}, 'Scales'), h('div', { class: 'chip-line' }, this.chips, this.reset), this.total, this.fault,
      h('p', { class: 'field-help', id: 'scales-help' }, described(schema.description)));
    OFFERED.forEach((scale) => this.#add(scale));
  }

  /**
   * Whether jobs of a method choose scales. The others have scale 1 only.
   * @param {string} method
   */
  areChosenBy(method) {
    return method.startsWith('sdd_');
  }

  /** @param {number} scale */
  #add(scale) {
    const box = h('input', { type: 'checkbox', value: scale, onchange: () => this.#changed() });
    const drawing = h('span', { class: 'chip-regions', 'aria-hidden': 'true' });
    setStyle(drawing, '--scale', scale);
    const chip = h('label', { class: 'chip' }, box, drawing, `${scale}×${scale}`);
    this.#chips.set(scale, { box, chip });
    const sorted = [...this.#chips].sort(([one], [other]) => one - other);
    fill(this.chips, sorted.map(([, entry]) => entry.chip));
  }

  #changed() {
    const chosen = [...this.#chips].filter(([, { box }]) => box.checked).map(([scale]) => scale).sort((one, other) => one - other);
    this.onChange(chosen.length ? chosen : undefined);
  }

  /**
   * @param {unknown} value
   * @param {number[] | undefined} filled
   * @param {number} side of the smallest final feature map; not finite if unknown
   */
  show(value, filled, side) {
    const chosen = Array.isArray(value) ? value : filled ?? [];
    for (const scale of chosen) if (Number.isInteger(scale) && !this.#chips.has(scale)) this.#add(scale);
    for (const [scale, { box, chip }] of this.#chips) {
      const isTooFine = Number.isFinite(side) && scale > side;
      box.checked = chosen.includes(scale);
      chip.classList.toggle('too-fine', isTooFine);
      chip.title = isTooFine ? `finer than the ${side}×${side} feature map, so its regions overlap` : '';
    }
    this.reset.disabled = value === undefined;
    const counts = chosen.map((scale) => scale * scale);
    const total = counts.reduce((sum, count) => sum + count, 0);
    const unknown = value === undefined ? 'As published, once both networks are known.' : 'No regions.';
    setText(this.total, total ? `${counts.join(' + ')} = ${total} regions, each with its own logits${value === undefined ? ' (as published for such a pair)' : ''}` : unknown);
  }

  /** @param {string} text */
  setFault(text) {
    setText(this.fault, text);
    this.fault.hidden = !text;
  }
}
