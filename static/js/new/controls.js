// The inputs of form fields. A control shows a value, and what the server fills in if there is none.

import { readNumber, readNumbers } from '../json/numbers.js';
import { fill, h, setText } from '../ui/dom.js';
import { readLabels, writeLabels } from './labels.js';
import { readNames, writeNames } from './names.js';
import { METHODS } from './presets.js';

/** @import { Reading } from '../json/numbers.js' */
/** @import { Field } from './fields.js' */

/**
 * A JSON schema of the OpenAPI document, with its references resolved.
 * @typedef {any} Schema
 */
/**
 * @typedef {object} Control
 * @property {HTMLElement} element
 * @property {HTMLElement} [input] the part of `element` that takes the focus, if not all of it
 * @property {(value: any, filled: any) => void} show
 * @property {(value: any) => string | undefined} [faultOf] what is wrong with a value that could not be read
 */
/** @typedef {{ build: (field: Field) => Control }} ControlMaker */
/** @typedef {[value: unknown, label: string][]} Options */

/**
 * The control for a schema.
 * @param {Schema} schema
 * @param {Field} field
 * @returns {Control}
 */
export function controlFor(schema, field) {
  const types = [schema.type].flat().filter((one) => one !== 'null');
  const [type] = types;
  if (schema.enum) return choice(schema.enum.map((/** @type {string} */ value) => [value, value]), field);
  if (type === 'boolean') return choice([[true, 'yes'], [false, 'no']], field);
  if (type === 'array' && schema.items?.type === 'string') {
    return textControl(field, { read: readNames, write: writeNames });
  }
  if (type === 'array') {
    const whole = schema.items?.type === 'integer';
    // Some lists can be a name instead.
    const isName = (/** @type {string} */ text) => types.includes('string') && new RegExp(schema.pattern).test(text.trim());
    return textControl(field, { read: (text) => (isName(text) ? { value: text.trim() } : readNumbers(text, { whole })), write: (value) => (Array.isArray(value) ? value.join(', ') : JSON.stringify(value)) });
  }
  if (type === 'integer' || type === 'number') {
    const whole = type === 'integer';
    return textControl(field, {
      inputmode: 'decimal',
      read: (text) => (schema['x-null'] && text.trim() === 'none' ? { value: null } : readNumber(text, { whole })),
      write: (value) => (value === null ? 'none' : String(value)),
    });
  }
  return textControl(field, { read: (text) => ({ value: text === '' ? undefined : text }), write: String });
}

/**
 * A field for text. Text that cannot be read becomes the value as it is, so that it stays in the field, in the JSON and
 * in the draft until it is corrected; no number takes its place.
 * @param {Field} field
 * @param {object} options
 * @param {(text: string) => Reading<unknown>} options.read
 * @param {(value: any) => string} options.write a value that is no text
 * @param {string} [options.inputmode]
 * @param {string} [options.placeholder] shown while the server fills in nothing
 * @returns {Control}
 */
function textControl(field, { read, write, inputmode = 'text', placeholder = '' }) {
  const textOf = (/** @type {unknown} */ value) => (value === undefined ? '' : typeof value === 'string' ? value : write(value));
  const take = () => {
    const { value, fault } = read(element.value);
    field.onChange(fault === undefined ? value : element.value);
  };
  const element = h('input', { type: 'text', inputmode, autocomplete: 'off', spellcheck: 'false', oninput: take });
  return {
    element,
    show(value, filled) {
      // What is being typed stays as typed: "0," on the way to "0,05".
      if (document.activeElement !== element) element.value = textOf(value);
      element.placeholder = textOf(filled) || placeholder;
    },
    faultOf: (value) => (typeof value === 'string' ? read(value).fault : undefined),
  };
}

/**
 * A list to choose from. Its first entry leaves the choice to the server or, with `nothing`, says that nothing is
 * chosen.
 * @param {Options} options
 * @param {Field} field
 * @param {string | null} [nothing]
 */
export function choice(options, field, nothing = null) {
  let known = options;
  const none = h('option', { value: '' }, nothing ?? 'as published');
  const element = h('select', { onchange: () => { field.onChange(element.value === '' ? undefined : JSON.parse(element.value)); } });
  const setOptions = (/** @type {Options} */ next) => {
    const before = element.value;
    known = next;
    fill(element, none, known.map(([value, label]) => h('option', { value: JSON.stringify(value) }, label)));
    element.value = before;
  };
  setOptions(options);
  return {
    element,
    setOptions,
    /**
     * @param {unknown} value
     * @param {unknown} [filled]
     */
    show(value, filled) {
      const label = known.find(([one]) => one === filled)?.[1];
      if (nothing === null) setText(none, label === undefined ? 'as published' : `${label} (default)`);
      const wanted = value === undefined ? '' : JSON.stringify(value);
      // A value that is not in the list is shown too: the server says what is wrong with it.
      if (wanted && ![...element.options].some((option) => option.value === wanted)) element.append(h('option', { value: wanted }, String(value)));
      element.value = wanted;
    },
  };
}

/**
 * The choice of the method, which always has a value.
 * @param {Schema} schema
 * @param {Field} field
 * @returns {Control}
 */
export function methodChoice(schema, field) {
  const names = schema.enum.map((/** @type {string} */ method) => h('option', { value: method }, METHODS[method] ? `${METHODS[method]} (${method})` : method));
  const element = h('select', { onchange: () => { field.onChange(element.value); } }, names);
  return { element, show: (value, filled) => { element.value = value ?? filled ?? schema.default; } };
}

/**
 * Labels as text: `team: vision, sweep: scales`.
 * @param {Field} field
 */
export function labelsControl(field) {
  return textControl(field, { placeholder: 'team: vision, sweep: scales', read: readLabels, write: writeLabels });
}
