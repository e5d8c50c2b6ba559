// @ts-nocheck
// The form for a specification: sections of fields, all made from the server's schema.

import { h } from '../ui/dom.js';
import { Field, Schemas, Variants, fieldsOf } from './fields.js';
import { Teacher, architectureField, datasetField, more } from './networks.js';
import { Scales } from './scales.js';
import { METHODS } from './presets.js';
import { valueAt, withValue } from '../json/pointers.js';

const elements = (fields) => fields.map(({ element }) => element);

export class JobForm {
  #fields = [];
  #spec = {};

  /** `onChange(spec)` gets every new state of the specification. */
  constructor(document, have, onChange) {
    this.schemas = new Schemas(document);
    this.job = this.schemas.resolve(this.schemas.all.JobSpecRequest);
    this.onChange = onChange;
    this.set = (pointer, value) => onChange(withValue(this.#spec, pointer, value));
    this.element = h('form', { class: 'job-form', novalidate: true, 'aria-label': 'Job', onsubmit: (event) => event.preventDefault() },
      this.#networks(have), this.#distillation(), this.#training(), this.#queue());
  }

  #part(name) {
    return this.schemas.resolve(this.job.properties[name]);
  }

  #add(...fields) {
    this.#fields.push(...fields);
    return fields;
  }

  /** The fields of a part of the job. */
  #fieldsOf(name, options) {
    return this.#add(...fieldsOf(this.schemas, this.#part(name), `/${name}`, this.set, options));
  }

  #networks(have) {
    const set = (pointer) => (value) => this.set(pointer, value);
    this.teacher = new Teacher(have, (teacher) => this.#setTeacher(teacher));
    const [architecture, name] = this.#add(
      architectureField(have.architectures, set('/student/architecture')), datasetField(have.datasets, set('/dataset/name')));
    const [usual, rare] = split(this.#fieldsOf('dataset', { skip: ['name'] }));
    const others = [...this.#fieldsOf('student', { skip: ['architecture'] }), ...this.#fieldsOf('teacher', { skip: ['checkpoint', 'job'] })];
    return section('Networks and data', this.teacher.element, architecture.element, h('div', { class: 'fields data' }, name.element, elements(usual)),
      more('More about the networks and the data', [...others, ...rare]));
  }

  #distillation() {
    const { properties } = this.#part('distillation');
    const schema = this.schemas.resolve(properties.method);
    const description = `${schema.description} A change brings the published settings of that method.`;
    const [method] = this.#add(new Field({
      pointer: '/distillation/method', key: 'method', schema: { ...schema, description },
      control: { build: (field) => methodChoice(schema, field) }, onChange: (value) => this.#setMethod(value),
    }));
    this.defaultMethod = schema.default;
    this.scales = new Scales(this.schemas.resolve(properties.scales), (value) => this.set('/distillation/scales', value));
    const ofMethod = this.#fieldsOf('distillation', { skip: ['method', 'scales'] });
    const weights = this.#add(...fieldsOf(this.schemas, properties.weights, '/distillation/weights', this.set));
    return section('Distillation', method.element, this.scales.element, h('div', { class: 'fields' }, elements(ofMethod)),
      h('fieldset', { class: 'group' }, h('legend', {}, 'Weights of the loss'), h('div', { class: 'fields' }, elements(weights))));
  }

  #training() {
    const { properties } = this.#part('training');
    const [usual, rare] = split(this.#fieldsOf('training'));
    this.variants = ['optimizer', 'schedule'].map((name) => new Variants(this.schemas, this.schemas.resolve(properties[name]), `/training/${name}`, this.set));
    return section('Training', h('div', { class: 'fields' }, elements(usual)), elements(this.variants), more('More about training', rare));
  }

  #queue() {
    const fields = this.#add(...fieldsOf(this.schemas, this.job, '', this.set, { controls: { labels: { build: labelsControl } } }));
    return section('Name and queue', h('div', { class: 'fields' }, elements(fields)));
  }

  #setTeacher(teacher) {
    const without = withValue(this.#spec, '/teacher', teacher ?? undefined);
    const isPlain = valueAt(this.#spec, '/distillation/method') === 'none';
    // Plain training has no teacher, and everything else has one.
    if (teacher === undefined) this.onChange(withValue(without, '/distillation', { method: 'none' }));
    else this.onChange(isPlain ? withValue(without, '/distillation', undefined) : without);
  }

  #setMethod(method) {
    const scales = valueAt(this.#spec, '/distillation/scales');
    const keepsScales = this.scales.areChosenBy(method) && Array.isArray(scales) && scales.length > 1;
    const distillation = method === undefined ? undefined : { method, ...(keepsScales ? { scales } : {}) };
    const next = withValue(this.#spec, '/distillation', distillation);
    this.onChange(method === 'none' ? withValue(next, '/teacher', undefined) : next);
  }

  /** `dryRun` is the server's answer about the specification, if any: what it fills in, and facts about the networks. */
  show(spec, dryRun) {
    this.#spec = spec;
    const resolved = dryRun?.spec;
    const at = (pointer) => [valueAt(spec, pointer), valueAt(resolved, pointer)];
    const method = valueAt(spec, '/distillation/method') ?? this.defaultMethod;
    this.teacher.show(spec.teacher, method === 'none');
    for (const field of this.#fields) {
      field.show(...at(field.pointer));
      // A value that the method does not use stays visible, so that it can be removed.
      field.element.hidden = !field.isUsedBy(method) && valueAt(spec, field.pointer) === undefined;
    }
    for (const variant of this.variants) {
      variant.show(...at(variant.pointer));
      for (const field of variant.inner) field.show(...at(field.pointer));
    }
    const sides = [dryRun?.student, dryRun?.teacher].filter(Boolean).map(({ feature_map: [, height] }) => height);
    this.scales.show(...at('/distillation/scales'), Math.min(...sides));
    this.scales.element.hidden = !this.scales.areChosenBy(method);
  }

  /** Shows each fault at its field. Returns those without a field. */
  showFaults(faults) {
    const fields = [...this.#fields, this.scales, ...this.teacher.fields, ...this.variants.flatMap((variant) => variant.fields)];
    const homeless = [];
    const said = new Map();
    for (const fault of faults) {
      const field = fields.filter(({ pointer, element }) => !element.hidden && (fault.pointer === pointer || fault.pointer.startsWith(`${pointer}/`)))
        .sort((a, b) => b.pointer.length - a.pointer.length)[0];
      if (field) said.set(field, [...(said.get(field) ?? []), fault.detail]);
      else homeless.push(fault);
    }
    for (const field of fields) field.setFault((said.get(field) ?? []).join(' '));
    for (const [field] of said) field.element.closest('details')?.setAttribute('open', '');
    return homeless;
  }

  /** To the field of a pointer, or to the first with a fault. */
  goToFault(pointer) {
    const fields = [...this.element.querySelectorAll('[data-pointer]')];
    const near = fields.filter(({ dataset }) => pointer === dataset.pointer || pointer?.startsWith(`${dataset.pointer}/`)).at(-1);
    const field = near ?? this.element.querySelector('[data-pointer]:has(> .field-fault:not([hidden]))');
    field?.closest('details')?.setAttribute('open', '');
    field?.scrollIntoView({ block: 'center' });
    field?.querySelector('input, select')?.focus({ preventScroll: true });
  }
}

/** The fields that most jobs set or look at, and the others. */
function split(fields) {
  return [fields.filter(({ schema }) => !schema['x-rare']), fields.filter(({ schema }) => schema['x-rare'])];
}

function section(title, ...children) {
  const id = `section-${title.toLowerCase().replaceAll(' ', '-')}`;
  return h('section', { class: 'card form-section', 'aria-labelledby': id }, h('h2', { id }, title), children);
}

function methodChoice(schema, field) {
  const element = h('select', {}, schema.enum.map((method) => h('option', { value: method }, METHODS[method] ? `${METHODS[method]} (${method})` : method)));
  element.addEventListener('change', () => field.take({ value: element.value }));
  return { element, show: (value, filled) => { element.value = value ?? filled ?? schema.default; } };
}

/** `team: vision, sweep: scales` */
function labelsControl(field) {
  const element = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', placeholder: 'team: vision, sweep: scales' });
  element.addEventListener('input', () => field.take(readLabels(element.value)));
  return {
    element,
    show(value) {
      if (document.activeElement !== element) element.value = Object.entries(value ?? {}).map(([key, label]) => `${key}: ${label}`).join(', ');
    },
  };
}

function readLabels(text) {
  const pairs = text.split(',').map((pair) => pair.trim()).filter(Boolean);
  if (pairs.length === 0) return { value: undefined };
  const broken = pairs.find((pair) => !/^[^:]+:\s*\S/.test(pair));
  if (broken) return { fault: `${broken}: write a name, a colon and a value` };
  return { value: Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf(':')).trim(), pair.slice(pair.indexOf(':') + 1).trim()])) };
}
