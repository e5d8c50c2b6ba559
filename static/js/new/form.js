// The form for a specification: sections of fields, all made from the server's schema.

import { valueAt, withValue } from '../json/pointers.js';
import { h } from '../ui/dom.js';
import { section } from '../ui/section.js';
import { labelsControl, methodChoice } from './controls.js';
import { Field, SchemaSet, Variants, fieldsOf } from './fields.js';
import { StudentField, Teacher, datasetField, more } from './networks.js';
import { notesOfCheckpoint } from './notes.js';
import { Scales } from './scales.js';

/** @import { Child } from '../ui/dom.js' */
/** @import { Inventory } from './inventory.js' */
/** @import { Spec } from './presets.js' */
/**
 * A field, or what can show a fault like one.
 * @typedef {{ pointer: string, element: HTMLElement, setFault: (text: string) => void }} FaultPlace
 */

const elements = (/** @type {{ element: HTMLElement }[]} */ fields) => fields.map(({ element }) => element);
const formSection = (/** @type {string} */ title, /** @type {...Child} */ ...children) => section(title, { class: 'form-section' }, children);

export class JobForm {
  /** @type {Field[]} */
  #fields = [];
  /** @type {Spec} */
  #spec = {};
  #schemas;
  #job;
  #onChange;

  /**
   * The settings of the last method with a teacher, for a user who looks at plain training.
   * @type {unknown}
   */
  #distilled;

  /**
   * @param {ConstructorParameters<typeof SchemaSet>[0]} document OpenAPI
   * @param {Inventory} have
   * @param {(spec: Spec) => void} onChange gets every new state of the specification
   * @param {AbortSignal} signal
   */
  constructor(document, have, onChange, signal) {
    this.#schemas = new SchemaSet(document);
    this.#job = this.#schemas.resolve(this.#schemas.all.JobSpecRequest);
    this.#onChange = onChange;
    this.teacher = new Teacher(have, (teacher) => this.#setTeacher(teacher), signal);
    this.student = new StudentField(have, (student) => this.#set('/student', student));
    const distillation = this.#part('distillation').properties;
    this.method = this.#schemas.resolve(distillation.method);
    this.scales = new Scales(this.#schemas.resolve(distillation.scales), (value) => this.#set('/distillation/scales', value));
    const training = this.#part('training').properties;
    this.variants = ['optimizer', 'schedule'].map((name) =>
      new Variants(this.#schemas, this.#schemas.resolve(training[name]), `/training/${name}`, (pointer, value) => this.#set(pointer, value)));
    this.element = h('form', { class: 'job-form', novalidate: true, 'aria-label': 'Job', onsubmit: (event) => event.preventDefault() },
      this.#networks(have), this.#distillation(distillation.weights), this.#training(), this.#queue());
  }

  /**
   * @param {string} pointer
   * @param {unknown} value
   */
  #set(pointer, value) {
    this.#onChange(withValue(this.#spec, pointer, value));
  }

  /** @param {string} name */
  #part(name) {
    return this.#schemas.resolve(this.#job.properties[name]);
  }

  /** @param {...Field} fields */
  #add(...fields) {
    this.#fields.push(...fields);
    return fields;
  }

  /**
   * The fields of an object of the schema.
   * @param {any} schema
   * @param {string} pointer
   * @param {Parameters<typeof fieldsOf>[4]} [options]
   */
  #fieldsOf(schema, pointer, options) {
    return this.#add(...fieldsOf(this.#schemas, schema, pointer, (at, value) => this.#set(at, value), options));
  }

  /** @param {Inventory} have */
  #networks(have) {
    const set = (/** @type {string} */ pointer) => (/** @type {unknown} */ value) => this.#set(pointer, value);
    const [name] = this.#add(datasetField(have, set('/dataset/name')));
    const [usual, rare] = split(this.#fieldsOf(this.#part('dataset'), '/dataset', { skip: ['name'] }));
    const others = [
      ...this.#fieldsOf(this.#part('student'), '/student', { skip: ['architecture'], notes: { checkpoint: (id) => notesOfCheckpoint(have, id) } }),
      ...this.#fieldsOf(this.#part('teacher'), '/teacher', { skip: ['checkpoint', 'job'] }),
    ];
    return formSection('Networks and data', this.teacher.element, this.student.element, h('div', { class: 'fields data' }, name.element, elements(usual)),
      more('More about the networks and the data', [...others, ...rare]));
  }

  /** @param {any} weightsSchema */
  #distillation(weightsSchema) {
    const description = `${this.method.description} A change brings the published settings of that method.`;
    const [method] = this.#add(new Field({
      pointer: '/distillation/method', key: 'method', schema: { ...this.method, description },
      control: { build: (field) => methodChoice(this.method, field) }, onChange: (value) => this.#setMethod(value),
    }));
    const ofMethod = this.#fieldsOf(this.#part('distillation'), '/distillation', { skip: ['method', 'scales'] });
    const weights = this.#fieldsOf(weightsSchema, '/distillation/weights');
    return formSection('Distillation', method.element, this.scales.element, h('div', { class: 'fields' }, elements(ofMethod)),
      h('fieldset', { class: 'group' }, h('legend', {}, 'Weights of the loss'), h('div', { class: 'fields' }, elements(weights))));
  }

  #training() {
    const [usual, rare] = split(this.#fieldsOf(this.#part('training'), '/training'));
    return formSection('Training', h('div', { class: 'fields' }, elements(usual)), elements(this.variants), more('More about training', rare));
  }

  #queue() {
    const fields = this.#fieldsOf(this.#job, '', { controls: { labels: { build: labelsControl } } });
    return formSection('Name and queue', h('div', { class: 'fields' }, elements(fields)));
  }

  /** @param {object | null | undefined} teacher */
  #setTeacher(teacher) {
    const spec = withValue(this.#spec, '/teacher', teacher ?? undefined);
    const isPlain = valueAt(this.#spec, '/distillation/method') === 'none';
    // Plain training has no teacher, and everything else has one.
    if (teacher === undefined) {
      if (!isPlain) this.#distilled = valueAt(this.#spec, '/distillation');
      this.#onChange(withValue(spec, '/distillation', { method: 'none' }));
    } else {
      this.#onChange(isPlain ? withValue(spec, '/distillation', this.#distilled) : spec);
    }
  }

  /** @param {string | undefined} method */
  #setMethod(method) {
    const scales = valueAt(this.#spec, '/distillation/scales');
    const keepsScales = method !== undefined && this.scales.areChosenBy(method) && Array.isArray(scales) && scales.length > 1;
    const distillation = method === undefined ? undefined : { method, ...(keepsScales ? { scales } : {}) };
    const spec = withValue(this.#spec, '/distillation', distillation);
    this.#onChange(method === 'none' ? withValue(spec, '/teacher', undefined) : spec);
  }

  /**
   * @param {Spec} spec
   * @param {Schemas['DryRun'] | null} dryRun the server's answer about it, if any: what it fills in, and facts about
   *   the networks
   */
  show(spec, dryRun) {
    this.#spec = spec;
    const filled = (/** @type {string} */ pointer) => valueAt(dryRun?.spec, pointer);
    const method = valueAt(spec, '/distillation/method') ?? this.method.default;
    this.teacher.show(spec.teacher, method === 'none');
    for (const field of this.#fields) {
      const value = valueAt(spec, field.pointer);
      field.show(value, filled(field.pointer));
      // A value that the method does not use stays visible, so that it can be removed.
      field.element.hidden = !field.isUsedBy(method) && value === undefined;
    }
    this.student.showStudent(valueAt(spec, '/student'));
    for (const variant of this.variants) {
      variant.show(valueAt(spec, variant.pointer), filled(variant.pointer));
      for (const field of variant.inner) field.show(valueAt(spec, field.pointer), filled(field.pointer));
    }
    const sides = [dryRun?.student, dryRun?.teacher].flatMap((network) => network?.feature_map?.slice(1) ?? []);
    this.scales.show(valueAt(spec, this.scales.pointer), filled(this.scales.pointer), Math.min(...sides));
    this.scales.element.hidden = !this.scales.areChosenBy(method);
  }

  /** The faults of fields whose text cannot be read. */
  get unreadable() {
    return [...this.#fields, ...this.variants.flatMap((variant) => variant.fields)].flatMap((field) => field.unreadable);
  }

  /**
   * Shows each fault at the field closest to its pointer.
   * @param {Fault[]} faults
   */
  showFaults(faults) {
    /** @type {FaultPlace[]} */
    const places = [...this.#fields, this.student, this.scales, this.teacher, ...this.teacher.fields, ...this.variants.flatMap((variant) => variant.fields)];
    /** @type {Map<FaultPlace, string[]>} */
    const found = new Map();
    for (const fault of faults) {
      const [place] = places.filter(({ pointer, element }) => !element.hidden && isAt(fault.pointer, pointer))
        .sort((one, other) => other.pointer.length - one.pointer.length);
      if (place) found.set(place, [...(found.get(place) ?? []), fault.detail]);
    }
    for (const place of places) place.setFault((found.get(place) ?? []).join(' '));
    for (const { element } of found.keys()) element.closest('details')?.setAttribute('open', '');
  }

  /**
   * Goes to the field of a pointer, or to the first with a fault.
   * @param {string} [pointer]
   */
  goToFault(pointer) {
    /** @type {HTMLElement[]} */
    const fields = [...this.element.querySelectorAll('[data-pointer]')].filter((element) => element instanceof HTMLElement);
    const closest = pointer === undefined ? undefined : fields.findLast(({ dataset }) => isAt(pointer, dataset.pointer ?? ''));
    const field = closest ?? this.element.querySelector('[data-pointer]:has(> .field-fault:not([hidden]))');
    field?.closest('details')?.setAttribute('open', '');
    field?.scrollIntoView({ block: 'center' });
    /** @type {HTMLElement[]} */
    const inputs = [...field?.querySelectorAll('input, select, button') ?? []].filter((element) => element instanceof HTMLElement);
    inputs.find((element) => element.offsetParent !== null)?.focus({ preventScroll: true });
  }
}

/**
 * Whether a pointer leads to a field or into its value.
 * @param {string} pointer
 * @param {string} field
 */
function isAt(pointer, field) {
  return pointer === field || pointer.startsWith(`${field}/`);
}

/**
 * The fields that most jobs set or look at, and the others.
 * @param {Field[]} fields
 */
function split(fields) {
  return [fields.filter(({ schema }) => !schema['x-rare']), fields.filter(({ schema }) => schema['x-rare'])];
}
