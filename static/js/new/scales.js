// @ts-nocheck
// The scales of SDD as chips, each with a drawing of its regions.

import { fill, h, setStyle, setText } from '../ui/dom.js';
import { described } from './fields.js';

const OFFERED = [1, 2, 3, 4, 5, 6, 7, 8];

/** A field for `/distillation/scales`. */
export class Scales {
  pointer = '/distillation/scales';
  #chips = new Map();

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

  /** Whether jobs of a method choose scales: the others have scale 1 only. */
  areChosenBy(method) {
    return (this.schema['x-defaults']?.[method] ?? []).length > 1;
  }

  #add(scale) {
    const box = h('input', { type: 'checkbox', value: scale, onchange: () => this.#changed() });
    const drawing = h('span', { class: 'chip-regions', 'aria-hidden': 'true' });
    setStyle(drawing, '--scale', scale);
    const chip = h('label', { class: 'chip' }, box, drawing, `${scale}×${scale}`);
    this.#chips.set(scale, { box, chip });
    const sorted = [...this.#chips].sort(([a], [b]) => a - b);
    fill(this.chips, sorted.map(([, entry]) => entry.chip));
  }

  #changed() {
    const chosen = [...this.#chips].filter(([, { box }]) => box.checked).map(([scale]) => scale).sort((a, b) => a - b);
    this.onChange(chosen.length ? chosen : undefined);
  }

  /** `side` is that of the smallest final feature map: finer scales repeat its cells. */
  show(value, filled, side) {
    const chosen = Array.isArray(value) ? value : filled ?? [];
    for (const scale of chosen) if (Number.isInteger(scale) && !this.#chips.has(scale)) this.#add(scale);
    for (const [scale, { box, chip }] of this.#chips) {
      box.checked = chosen.includes(scale);
      chip.classList.toggle('too-fine', Number.isFinite(side) && scale > side);
      chip.title = Number.isFinite(side) && scale > side ? `finer than the ${side}×${side} feature map: cells are repeated` : '';
    }
    this.reset.disabled = value === undefined;
    const regions = chosen.reduce((sum, scale) => sum + scale * scale, 0);
    setText(this.total, chosen.length ? `${chosen.map((scale) => scale * scale).join(' + ')} = ${regions} regions, each with logits of its own${value === undefined ? ' (as published)' : ''}` : 'No regions.');
  }

  setFault(text) {
    setText(this.fault, text);
    this.fault.hidden = !text;
  }
}
