// @ts-nocheck
// Fields made from the server's own schema (OpenAPI 3.1). What is left empty takes the value that the server fills in,
// which stands in the field as a hint.

import { fill, h, setText } from '../ui/dom.js';
import { escapePart } from '../json/pointers.js';
import { readNumber, readNumbers } from '../json/numbers.js';

/** Resolves references of the document, with what stands beside them. */
export class Schemas {
  constructor(document) {
    this.all = document.components.schemas;
  }

  resolve(schema) {
    if (schema.anyOf) {
      const real = schema.anyOf.filter(({ type }) => type !== 'null');
      if (real.length === 1) return { ...this.resolve(real[0]), nullable: real.length < schema.anyOf.length };
    }
    if (!schema.$ref) return schema;
    const { $ref, ...beside } = schema;
    return { ...this.resolve(this.all[$ref.split('/').at(-1)]), ...beside };
  }
}

/** `learning_rate` → "Learning rate" */
export function titleOf(key) {
  const words = key.replaceAll('_', ' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** JSON objects have no order; people read the important first. What is not named here comes last. */
const ORDER = [
  'epochs', 'batch_size', 'seed', 'augmentation', 'cross_entropy', 'distillation', 'consistent', 'complementary', 'temperature',
  'warmup_epochs', 'grouping', 'alpha', 'beta', 'gamma', 'learning_rate', 'momentum', 'weight_decay', 'nesterov', 'milestones',
];

function place(key) {
  const index = ORDER.indexOf(key);
  return index < 0 ? ORDER.length : index;
}

/** Text in which backquotes mark code, as the server's descriptions have it. */
export function described(text) {
  return text.split('`').map((piece, index) => (index % 2 ? h('code', {}, piece) : piece));
}

const typesOf = (schema) => [schema.type].flat().filter((type) => type !== 'null');
const isNullable = (schema) => schema.nullable === true || [schema.type].flat().includes('null');

/** One field: a label, a control, what it means, and what is wrong with it. */
export class Field {
  /** `onChange(value)` gets undefined for an empty field; `control.build(field)` makes another control than the schema's. */
  constructor({ pointer, key, schema, control, onChange, label = titleOf(key) }) {
    this.pointer = pointer;
    this.onChange = onChange;
    this.id = `field${pointer.replaceAll(/[^\w]/g, '-')}`;
    this.control = control?.build(this) ?? controlFor(schema, this);
    this.input = this.control.element;
    this.input.id = this.id;
    this.fault = h('p', { class: 'field-fault', id: `${this.id}-fault`, hidden: true });
    this.help = h('p', { class: 'field-help', id: `${this.id}-help` }, described(schema.description ?? ''));
    this.input.setAttribute('aria-describedby', `${this.fault.id} ${this.help.id}`);
    this.element = h('div', { class: 'field', 'data-pointer': pointer }, h('label', { for: this.id }, label), this.input, this.fault, this.help);
  }

  /** Shows a value of the document, and beside or instead of it what the server would fill in. */
  show(value, filled) {
    this.control.show(value, filled);
  }

  setFault(text) {
    setText(this.fault, text);
    this.fault.hidden = !text;
    if (text) this.input.setAttribute('aria-invalid', 'true');
    else this.input.removeAttribute('aria-invalid');
  }

  /** A reading of a text, which may be none yet. */
  take({ value, fault }) {
    this.setFault(fault ?? '');
    if (!fault) this.onChange(value);
  }
}

function controlFor(schema, field) {
  const [type] = typesOf(schema);
  if (schema.enum) return choice(schema.enum.map((value) => [value, value]), field);
  if (type === 'boolean') return choice([[true, 'yes'], [false, 'no']], field);
  if (type === 'array') return textControl((text) => readNumbers(text, { whole: schema.items?.type === 'integer' }), (value) => value.join(', '), field);
  if (type === 'integer' || type === 'number') {
    const read = (text) => (isNullable(schema) && text.trim() === 'none' ? { value: null } : readNumber(text, { whole: type === 'integer' }));
    return textControl(read, (value) => (value === null ? 'none' : String(value)), field, 'decimal');
  }
  return textControl((text) => ({ value: text === '' ? undefined : text }), String, field, 'text');
}

function textControl(read, write, field, inputmode = 'text') {
  const element = h('input', { type: 'text', inputmode, autocomplete: 'off', spellcheck: 'false' });
  element.addEventListener('input', () => field.take(read(element.value)));
  return {
    element,
    show(value, filled) {
      // What is being typed stays as it is typed: 0, for 0,05.
      if (document.activeElement !== element) element.value = value === undefined ? '' : write(value);
      element.placeholder = filled === undefined ? '' : write(filled);
    },
  };
}

/** A list of `[value, label]` to choose from; the first entry leaves the choice to the server, or is still none. */
export function choice(/** @type {[any, string][]} */ options, /** @type {any} */ field, /** @type {string | null} */ nothing = null) {
  let known = [];
  const none = h('option', { value: '' }, nothing ?? 'as published');
  const element = h('select', {});
  const setOptions = (next) => {
    const before = element.value;
    known = next;
    fill(element, none, known.map(([value, label]) => h('option', { value: JSON.stringify(value) }, label)));
    element.value = before;
  };
  setOptions(options);
  element.addEventListener('change', () => field.take({ value: element.value === '' ? undefined : JSON.parse(element.value) }));
  return {
    element,
    setOptions,
    show(value, filled) {
      const label = known.find(([one]) => one === filled)?.[1];
      if (nothing === null) setText(none, label === undefined ? 'as published' : `${label} (default)`);
      const wanted = value === undefined ? '' : JSON.stringify(value);
      // What the list does not have is shown all the same: the server says what is wrong with it.
      if (wanted && ![...element.options].some((option) => option.value === wanted)) element.append(h('option', { value: wanted }, String(value)));
      element.value = wanted;
    },
  };
}

/** The fields of an object, in the order of its schema: `skip` names those that are shown elsewhere. */
export function fieldsOf(schemas, schema, pointer, onChange, skip = []) {
  const { properties = {} } = schemas.resolve(schema);
  const shown = Object.entries(properties).filter(([key]) => !skip.includes(key)).sort(([a], [b]) => place(a) - place(b));
  return shown.map(([key, property]) => {
    const here = `${pointer}/${escapePart(key)}`;
    return new Field({ pointer: here, key, schema: schemas.resolve(property), onChange: (value) => onChange(here, value) });
  });
}

/** An object that is one of several by its `type`: the type, and the fields of the one that is in force. */
export class Variants {
  #shown = null;

  constructor(schemas, schema, pointer, label, onChange) {
    Object.assign(this, { schemas, pointer, onChange });
    this.variants = new Map(schema.anyOf.map((variant) => [schemas.resolve(variant).properties.type.enum[0], schemas.resolve(variant)]));
    const types = { enum: [...this.variants.keys()], description: schema.description };
    // The fields of another type would only be refused.
    this.type = new Field({ pointer: `${pointer}/type`, key: 'type', label, schema: types, onChange: (value) => onChange(pointer, value === undefined ? undefined : { type: value }) });
    this.rest = h('div', { class: 'fields' });
    this.element = h('div', { class: 'variants' }, this.type.element, this.rest);
    this.inner = [];
  }

  get fields() {
    return [this.type, ...this.inner];
  }

  show(value, filled) {
    const type = value?.type ?? filled?.type ?? this.variants.keys().next().value;
    this.type.show(value?.type, filled?.type);
    if (type === this.#shown) return;
    this.#shown = type;
    const variant = this.variants.get(type);
    this.inner = variant ? fieldsOf(this.schemas, variant, this.pointer, this.onChange, ['type']) : [];
    fill(this.rest, this.inner.map(({ element }) => element));
  }
}
