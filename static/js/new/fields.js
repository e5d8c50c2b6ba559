// Form fields made from the server's own schema (OpenAPI 3.1) and its extensions: x-order, x-methods, x-null, x-rare.
// An empty field takes the value that the server fills in, which the field shows as a hint.

import { escapePart } from '../json/pointers.js';
import { fill, h, setText } from '../ui/dom.js';
import { controlFor } from './controls.js';

/** @import { ControlMaker, Schema } from './controls.js' */
/** @typedef {(pointer: string, value: unknown) => void} Setter changes the document; undefined removes */
/** @typedef {(value: unknown) => string[]} NotesOf what to know about a value */

/** The schemas of an OpenAPI document. */
export class SchemaSet {
  /** @param {{ components: { schemas: Record<string, Schema> } }} document */
  constructor(document) {
    this.all = document.components.schemas;
  }

  /**
   * Resolves references within the document; keywords beside a reference win.
   * @param {Schema} schema
   * @returns {Schema}
   */
  resolve(schema) {
    const { $ref, anyOf = [], ...beside } = schema;
    if ($ref) return { ...this.resolve(this.all[$ref.split('/').at(-1)]), ...beside };
    const [only, ...others] = anyOf.filter((/** @type {Schema} */ { type }) => type !== 'null');
    return only && others.length === 0 ? { ...this.resolve(only), ...beside } : schema;
  }
}

/**
 * `learning_rate` → "Learning rate"
 * @param {string} key
 */
function titleOf(key) {
  const words = key.replaceAll('_', ' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/**
 * Text with code between backquotes, as in the server's descriptions.
 * @param {string} text
 */
export function described(text) {
  return text.split('`').map((piece, index) => (index % 2 ? h('code', {}, piece) : piece));
}

/** @param {Schema} schema */
function helpOf({ description = '', 'x-null': meaning }) {
  return meaning ? `${description} Write none for ${meaning}.` : description;
}

/** One field: a label, a control, its description, and its fault, if any. */
export class Field {
  /** What is wrong with text that could not be read. */
  #unreadable = '';
  /** What else is wrong, such as what the server says. */
  #told = '';
  #noted = '';

  /**
   * @param {object} options
   * @param {string} options.pointer
   * @param {string} options.key
   * @param {Schema} options.schema
   * @param {(value: any) => void} options.onChange gets undefined for an empty field
   * @param {ControlMaker} [options.control] in the place of the one that the schema makes
   * @param {string} [options.label]
   * @param {NotesOf} [options.notesOf]
   */
  constructor({ pointer, key, schema, control, onChange, label = schema.title ?? titleOf(key), notesOf }) {
    this.pointer = pointer;
    this.schema = schema;
    this.onChange = onChange;
    this.notesOf = notesOf;
    const id = `field${pointer.replaceAll(/[^\w]/g, '-')}`;
    this.control = control?.build(this) ?? controlFor(schema, this);
    this.input = this.control.input ?? this.control.element;
    this.input.id = id;
    this.fault = h('p', { class: 'field-fault', id: `${id}-fault`, hidden: true });
    this.help = h('p', { class: 'field-help', id: `${id}-help` }, described(helpOf(schema)));
    this.notes = h('ul', { class: 'notes', id: `${id}-notes`, hidden: true });
    this.input.setAttribute('aria-describedby', [this.fault, this.help, ...(notesOf ? [this.notes] : [])].map((one) => one.id).join(' '));
    this.element = h('div', { class: 'field', 'data-pointer': pointer },
      h('label', { for: id }, label), this.control.element, this.fault, notesOf ? this.notes : null, this.help);
  }

  /**
   * Whether jobs of a method have the field.
   * @param {string} method
   * @returns {boolean}
   */
  isUsedBy(method) {
    return this.schema['x-methods']?.includes(method) ?? true;
  }

  /**
   * The fault of text that could not be read, for as long as the text is there.
   * @returns {Fault[]}
   */
  get unreadable() {
    return this.#unreadable ? [{ pointer: this.pointer, detail: this.#unreadable }] : [];
  }

  /**
   * Shows a value of the document, or what the server would fill in.
   * @param {unknown} value
   * @param {unknown} [filled]
   */
  show(value, filled) {
    this.control.show(value, filled);
    this.#unreadable = this.control.faultOf?.(value) ?? '';
    this.#showFault();
    this.#showNotes(this.notesOf?.(value) ?? []);
  }

  /** @param {string[]} notes */
  #showNotes(notes) {
    const text = notes.join('\n');
    if (text === this.#noted) return;
    this.#noted = text;
    fill(this.notes, notes.map((note) => h('li', {}, note)));
    this.notes.hidden = notes.length === 0;
    // What is to be known about a value is not folded away with it.
    if (notes.length) this.element.closest('details')?.setAttribute('open', '');
  }

  /** @param {string} text */
  setFault(text) {
    this.#told = text;
    this.#showFault();
  }

  #showFault() {
    const text = this.#unreadable || this.#told;
    setText(this.fault, text);
    this.fault.hidden = !text;
    if (text) this.input.setAttribute('aria-invalid', 'true');
    else this.input.removeAttribute('aria-invalid');
  }
}

/**
 * The fields of an object in the order of its schema, without nested objects and the names to `skip`, which are shown
 * elsewhere. `controls` holds controls by name for fields that the schema alone does not make, and `notes` what to know
 * about the values of fields.
 * @param {SchemaSet} schemas
 * @param {Schema} object
 * @param {string} pointer
 * @param {Setter} set
 * @param {{ skip?: string[], controls?: Record<string, ControlMaker>, notes?: Record<string, NotesOf> }} [options]
 */
export function fieldsOf(schemas, object, pointer, set, { skip = [], controls = {}, notes = {} } = {}) {
  const { properties = {}, 'x-methods': methods } = schemas.resolve(object);
  const inherited = methods ? { 'x-methods': methods } : {};
  return Object.entries(properties)
    .map(([key, property]) => ({ key, schema: { ...inherited, ...schemas.resolve(property) } }))
    .filter(({ key, schema }) => !skip.includes(key) && !schema.properties && !schema.anyOf)
    .sort((one, other) => one.schema['x-order'] - other.schema['x-order'])
    .map(({ key, schema }) => {
      const here = `${pointer}/${escapePart(key)}`;
      return new Field({ pointer: here, key, schema, control: controls[key], notesOf: notes[key], onChange: (value) => set(here, value) });
    });
}

/** An object with a `type` that decides its fields: the choice of the type, and the fields of the chosen one. */
export class Variants {
  #schemas;
  #set;
  #variants;
  #shown = '';

  /**
   * @param {SchemaSet} schemas
   * @param {Schema} schema
   * @param {string} pointer
   * @param {Setter} set
   */
  constructor(schemas, schema, pointer, set) {
    this.#schemas = schemas;
    this.#set = set;
    this.pointer = pointer;
    this.#variants = new Map(schema.anyOf.map((/** @type {Schema} */ variant) => {
      const resolved = schemas.resolve(variant);
      return [resolved.properties.type.enum[0], resolved];
    }));
    const types = { title: schema.title, description: schema.description, enum: [...this.#variants.keys()] };
    // A change drops the fields of the previous type: the server would refuse them.
    const change = (/** @type {string | undefined} */ type) => set(pointer, type === undefined ? undefined : { type });
    this.type = new Field({ pointer: `${pointer}/type`, key: 'type', schema: types, onChange: change });
    this.rest = h('div', { class: 'fields' });
    this.element = h('div', { class: 'variants' }, this.type.element, this.rest);
    /**
     * The fields of the chosen type.
     * @type {Field[]}
     */
    this.inner = [];
  }

  get fields() {
    return [this.type, ...this.inner];
  }

  /**
   * @param {{ type?: string } | undefined} value
   * @param {{ type?: string } | undefined} filled
   */
  show(value, filled) {
    const type = value?.type ?? filled?.type ?? this.#variants.keys().next().value;
    this.type.show(value?.type, filled?.type);
    if (type === this.#shown) return;
    this.#shown = type;
    const variant = this.#variants.get(type);
    this.inner = variant ? fieldsOf(this.#schemas, variant, this.pointer, this.#set, { skip: ['type'] }) : [];
    fill(this.rest, this.inner.map(({ element }) => element));
  }
}
