// @ts-nocheck
// Form fields made from the server's own schema (OpenAPI 3.1) and its extensions: x-order, x-methods, x-null, x-rare.
// An empty field takes the value that the server fills in, which the field shows as a hint.

import { fill, h, setText } from '../ui/dom.js';
import { escapePart } from '../json/pointers.js';
import { readNumber, readNumbers } from '../json/numbers.js';

/** Resolves references within the document; keywords beside a reference win. */
export class Schemas {
  constructor(document) {
    this.all = document.components.schemas;
  }

  resolve(schema) {
    const { $ref, anyOf = [], ...beside } = schema;
    if ($ref) return { ...this.resolve(this.all[$ref.split('/').at(-1)]), ...beside };
    const [only, ...others] = anyOf.filter(({ type }) => type !== 'null');
    return only && others.length === 0 ? { ...this.resolve(only), ...beside } : schema;
  }
}

/** `learning_rate` → "Learning rate" */
export function titleOf(key) {
  const words = key.replaceAll('_', ' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Text with code between backquotes, as in the server's descriptions. */
export function described(text) {
  return text.split('`').map((piece, index) => (index % 2 ? h('code', {}, piece) : piece));
}

const typesOf = (schema) => [schema.type].flat().filter((type) => type !== 'null');

const helpOf = ({ description = '', 'x-null': meaning }) => (meaning ? `${description} Write none for ${meaning}.` : description);

/** One field: a label, a control, its description, and its fault, if any. */
export class Field {
  /** `onChange(value)` gets undefined for an empty field; `control.build(field)` replaces the control that the schema makes. */
  constructor({ pointer, key, schema, control, onChange, label = schema.title ?? titleOf(key) }) {
    this.pointer = pointer;
    this.schema = schema;
    this.onChange = onChange;
    this.id = `field${pointer.replaceAll(/[^\w]/g, '-')}`;
    this.control = control?.build(this) ?? controlFor(schema, this);
    this.input = this.control.element;
    this.input.id = this.id;
    this.fault = h('p', { class: 'field-fault', id: `${this.id}-fault`, hidden: true });
    this.help = h('p', { class: 'field-help', id: `${this.id}-help` }, described(helpOf(schema)));
    this.input.setAttribute('aria-describedby', `${this.fault.id} ${this.help.id}`);
    this.element = h('div', { class: 'field', 'data-pointer': pointer }, h('label', { for: this.id }, label), this.input, this.fault, this.help);
  }

  /** Whether jobs of a method have the field. */
  isUsedBy(method) {
    return this.schema['x-methods']?.includes(method) ?? true;
  }

  /** Shows a value of the document, or what the server would fill in. */
  show(value, filled) {
    this.control.show(value, filled);
  }

  setFault(text) {
    setText(this.fault, text);
    this.fault.hidden = !text;
    if (text) this.input.setAttribute('aria-invalid', 'true');
    else this.input.removeAttribute('aria-invalid');
  }

  /** Takes what was read from the control: a value, or the fault of what is still being typed. */
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
    const read = (text) => (schema['x-null'] && text.trim() === 'none' ? { value: null } : readNumber(text, { whole: type === 'integer' }));
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
      // What is being typed stays as typed: "0," on the way to "0,05".
      if (document.activeElement !== element) element.value = value === undefined ? '' : write(value);
      element.placeholder = filled === undefined ? '' : write(filled);
    },
  };
}

/** A list of `[value, label]` to choose from. The first entry leaves the choice to the server, or says `nothing` is chosen. */
export function choice(options, field, nothing = null) {
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
      // A value that is not in the list is shown too: the server says what is wrong with it.
      if (wanted && ![...element.options].some((option) => option.value === wanted)) element.append(h('option', { value: wanted }, String(value)));
      element.value = wanted;
    },
  };
}

/**
 * The fields of an object in the order of its schema, without nested objects and the names to `skip`, which are shown
 * elsewhere. `controls` holds controls by name for fields that the schema alone does not make.
 */
export function fieldsOf(schemas, object, pointer, onChange, { skip = [], controls = {} } = {}) {
  const { properties = {}, 'x-methods': methods } = schemas.resolve(object);
  return Object.entries(properties)
    .map(([key, property]) => [key, { ...(methods && { 'x-methods': methods }), ...schemas.resolve(property) }])
    .filter(([key, schema]) => !skip.includes(key) && !schema.properties && !schema.anyOf)
    .sort(([, a], [, b]) => a['x-order'] - b['x-order'])
    .map(([key, schema]) => {
      const here = `${pointer}/${escapePart(key)}`;
      return new Field({ pointer: here, key, schema, control: controls[key], onChange: (value) => onChange(here, value) });
    });
}

/** An object with a `type` that decides its fields: the choice of the type, and the fields of the chosen one. */
export class Variants {
  #shown = null;

  constructor(schemas, schema, pointer, onChange) {
    Object.assign(this, { schemas, pointer, onChange });
    this.variants = new Map(schema.anyOf.map((variant) => [schemas.resolve(variant).properties.type.enum[0], schemas.resolve(variant)]));
    const types = { title: schema.title, description: schema.description, enum: [...this.variants.keys()] };
    // A change drops the fields of the previous type: the server would refuse them.
    this.type = new Field({ pointer: `${pointer}/type`, key: 'type', schema: types, onChange: (value) => onChange(pointer, value === undefined ? undefined : { type: value }) });
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
    this.inner = variant ? fieldsOf(this.schemas, variant, this.pointer, this.onChange, { skip: ['type'] }) : [];
    fill(this.rest, this.inner.map(({ element }) => element));
  }
}
