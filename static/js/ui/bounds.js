// Constraints: the most that a student may cost, as fields and in an address.

import { readNumber } from '../json/numbers.js';
import { h, setText } from './dom.js';
import { isNumber } from './format.js';

/** @import { CostName, Costs } from '../compare/costs.js' */
/** @typedef {Partial<Record<CostName, string>>} TypedBounds what the fields hold, which may be no numbers yet */

/** @type {Record<CostName, { label: string, title: string }>} */
const BOUNDS = {
  latency_ms: { label: 'ms for one image', title: 'Median time for one image on the server’s CPU, with one thread' },
  latency_64_ms: { label: 'ms for 64 images', title: 'Median time for 64 images at a time, for all of them' },
  size_mb: { label: 'MB', title: 'Size of the weights in megabytes of 1,000,000 bytes' },
  parameters: { label: 'parameters', title: 'Number of trained parameters' },
};
const NAMES = /** @type {CostName[]} */ (Object.keys(BOUNDS));

/**
 * The bounds in an address. Invalid ones count as missing.
 * @param {URLSearchParams} parameters
 * @returns {Costs}
 */
export function parseBounds(parameters) {
  /** @type {Costs} */
  const bounds = {};
  for (const name of NAMES) {
    const most = Number(parameters.get(name) ?? '');
    if (isNumber(most) && most > 0) bounds[name] = most;
  }
  return bounds;
}

/**
 * The address of a sweep's page with bounds.
 * @param {string} id
 * @param {Costs} bounds
 */
export function sweepAddress(id, bounds) {
  const parameters = new URLSearchParams();
  for (const name of NAMES) {
    if (isNumber(bounds[name])) parameters.set(name, String(bounds[name]));
  }
  const text = parameters.toString();
  return `#/sweeps/${encodeURIComponent(id)}${text ? `?${text}` : ''}`;
}

/**
 * What is typed, as bounds, and what is wrong with it.
 * @param {TypedBounds} typed
 */
export function readBounds(typed) {
  /** @type {Costs} */
  const bounds = {};
  /** @type {Partial<Record<CostName, string>>} */
  const faults = {};
  for (const name of NAMES) {
    const text = typed[name] ?? '';
    const { value, fault } = readNumber(text);
    const wrong = fault ?? (value !== undefined && value <= 0 ? `${text.trim()} is not above 0` : undefined);
    if (wrong !== undefined) faults[name] = wrong;
    else if (value !== undefined) bounds[name] = value;
  }
  return { bounds, faults };
}

/** Fields for the bounds. */
export class BoundFields {
  /** @param {{ event: 'input' | 'change', onChange: () => void }} options */
  constructor({ event, onChange }) {
    this.fault = h('span', { class: 'error-text', role: 'status' });
    const changed = () => {
      this.#mark();
      onChange();
    };
    this.inputs = NAMES.map((name) => ({
      name, input: h('input', { type: 'text', inputmode: 'decimal', autocomplete: 'off', spellcheck: 'false', size: 7, maxlength: 40, [`on${event}`]: changed }),
    }));
    this.element = h('div', { class: 'bounds', role: 'group', 'aria-label': 'What a student may cost' }, h('span', {}, 'A student has at most'),
      this.inputs.map(({ name, input }) => h('label', { title: BOUNDS[name].title }, input, ' ', BOUNDS[name].label)), this.fault);
  }

  get typed() {
    /** @type {TypedBounds} */
    const typed = {};
    for (const { name, input } of this.inputs) {
      if (input.value.trim() !== '') typed[name] = input.value;
    }
    return typed;
  }

  /** Replaces what the fields hold. */
  set typed(typed) {
    for (const { name, input } of this.inputs) input.value = typed[name] ?? '';
    this.#mark();
  }

  /** The bounds, or null if what is typed is none. */
  get bounds() {
    const { bounds, faults } = readBounds(this.typed);
    return Object.keys(faults).length === 0 ? bounds : null;
  }

  /** @param {Costs} bounds */
  show(bounds) {
    for (const { name, input } of this.inputs) input.value = isNumber(bounds[name]) ? String(bounds[name]) : '';
    this.#mark();
  }

  #mark() {
    const { faults } = readBounds(this.typed);
    for (const { name, input } of this.inputs) input.setAttribute('aria-invalid', String(name in faults));
    setText(this.fault, Object.values(faults).join(' · '));
  }
}
