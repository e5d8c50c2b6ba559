// @ts-nocheck
// The form for a specification: sections of fields, all made from the server's schema.

import { h, setText } from '../ui/dom.js';
import { Field, Schemas, Variants, fieldsOf } from './fields.js';
import { Teacher, architectureField, datasetField, more } from './networks.js';
import { Scales } from './scales.js';
import { METHODS } from './presets.js';
import { valueAt, withValue } from '../json/pointers.js';

/** What most jobs leave as it is. */
const RARE = {
  dataset: ['train_split', 'eval_split', 'image_column', 'label_column', 'image_size', 'mean', 'std'],
  training: ['clip_grad_norm', 'checkpoint_every_epochs', 'eval_every_epochs', 'precision'],
};

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

  /** Fields of an object, those that are rarely needed apart. */
  #split(name, skip = []) {
    const rare = RARE[name] ?? [];
    const all = this.#add(...fieldsOf(this.schemas, this.#part(name), `/${name}`, this.set, skip));
    const isRare = ({ pointer }) => rare.includes(pointer.split('/').at(-1));
    return { usual: all.filter((field) => !isRare(field)), rare: all.filter(isRare) };
  }

  #networks(have) {
    const student = this.#part('student');
    const set = (pointer) => (value) => this.set(pointer, value);
    this.teacher = new Teacher(have, (teacher) => this.#setTeacher(teacher));
    const [architecture, name] = this.#add(
      architectureField(have.architectures, set('/student/architecture')), datasetField(have.datasets, set('/dataset/name')));
    const data = this.#split('dataset', ['name']);
    const others = this.#add(...fieldsOf(this.schemas, student, '/student', this.set, ['architecture']),
      ...fieldsOf(this.schemas, this.#part('teacher'), '/teacher', this.set, ['checkpoint', 'job']));
    const fields = (list) => list.map(({ element }) => element);
    for (const other of others) if (other.pointer.startsWith('/teacher')) setText(other.element.querySelector('label'), `Teacher’s ${other.pointer.split('/').at(-1)}`);
    setText(others[0].element.querySelector('label'), 'Student’s first weights');
    return section('Networks and data', this.teacher.element, architecture.element, h('div', { class: 'fields data' }, name.element, fields(data.usual)),
      more('More about the networks and the data', [...others, ...data.rare]));
  }

  #distillation() {
    const schema = this.#part('distillation');
    const [method] = this.#add(new Field({
      pointer: '/distillation/method', key: 'method', onChange: (value) => this.#setMethod(value),
      schema: { ...this.schemas.resolve(schema.properties.method), description: 'How the student learns from the teacher. A change brings the published settings of that method.' },
      control: { build: (field) => methodChoice(this.schemas.resolve(schema.properties.method).enum, field) },
    }));
    this.scales = new Scales(schema.properties.scales.description, (value) => this.set('/distillation/scales', value));
    this.ofMethod = this.#add(...fieldsOf(this.schemas, schema, '/distillation', this.set, ['method', 'scales', 'weights']));
    this.weights = this.#add(...fieldsOf(this.schemas, schema.properties.weights, '/distillation/weights', this.set));
    return section('Distillation', method.element, this.scales.element,
      h('div', { class: 'fields' }, this.ofMethod.map(({ element }) => element)),
      h('fieldset', { class: 'group' }, h('legend', {}, 'Weights of the loss'), h('div', { class: 'fields' }, this.weights.map(({ element }) => element))));
  }

  #training() {
    const schema = this.#part('training');
    const { usual, rare } = this.#split('training', ['optimizer', 'schedule']);
    const variants = (name, label) => new Variants(this.schemas, this.schemas.resolve(schema.properties[name]), `/training/${name}`, label, this.set);
    this.variants = [variants('optimizer', 'Optimiser'), variants('schedule', 'Learning-rate schedule')];
    return section('Training', h('div', { class: 'fields' }, usual.map(({ element }) => element)), this.variants.map(({ element }) => element),
      more('More about training', rare));
  }

  #queue() {
    const { properties } = this.job;
    const plain = ['name', 'priority', 'max_attempts'].map((key) => new Field({
      pointer: `/${key}`, key, schema: this.schemas.resolve(properties[key]), onChange: (value) => this.set(`/${key}`, value),
    }));
    const labels = new Field({
      pointer: '/labels', key: 'labels', schema: { description: `${properties.labels.description} As in: team: vision, sweep: scales` },
      onChange: (value) => this.set('/labels', value), control: { build: labelsControl },
    });
    this.#add(...plain, labels);
    return section('Name and queue', h('div', { class: 'fields' }, [...plain, labels].map(({ element }) => element)));
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
    const keepsScales = method?.startsWith('sdd_') && Array.isArray(scales) && scales.length > 1;
    const distillation = method === undefined ? undefined : { method, ...(keepsScales ? { scales } : {}) };
    const next = withValue(this.#spec, '/distillation', distillation);
    this.onChange(method === 'none' ? withValue(next, '/teacher', undefined) : next);
  }

  /** `dryRun` is the server's answer about it, as far as there is one: what it fills in, and the networks' facts. */
  show(spec, dryRun) {
    this.#spec = spec;
    const resolved = dryRun?.spec;
    const at = (pointer) => [valueAt(spec, pointer), valueAt(resolved, pointer)];
    const method = valueAt(spec, '/distillation/method') ?? 'sdd_kd';
    this.teacher.show(spec.teacher, method === 'none');
    for (const field of this.#fields) field.show(...at(field.pointer));
    for (const variant of this.variants) {
      variant.show(...at(variant.pointer));
      for (const field of variant.inner) field.show(...at(field.pointer));
    }
    const sides = [dryRun?.student, dryRun?.teacher].filter(Boolean).map(({ feature_map: [, height] }) => height);
    this.scales.show(...at('/distillation/scales'), Math.min(...sides));
    this.scales.element.hidden = !method.startsWith('sdd_');
    const hide = (field, isNeeded) => { field.element.hidden = !isNeeded && valueAt(spec, field.pointer) === undefined; };
    for (const field of this.ofMethod) hide(field, isUsed(field, method, resolved));
    // Without a teacher there is no other loss to weigh.
    for (const field of this.weights) hide(field, method !== 'none' || field.pointer.endsWith('/cross_entropy'));
  }

  /** Puts each fault at its field. Returns those that have none. */
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

/** The answer holds exactly the fields that its method uses; without one the description tells whose field it is. */
function isUsed({ pointer, help }, method, resolved) {
  if (resolved?.distillation.method === method) return valueAt(resolved, pointer) !== undefined;
  const [, whose] = /^(DKD|NKD): /.exec(help.textContent) ?? [];
  return method !== 'none' && (!whose || method.endsWith(whose.toLowerCase()));
}

function section(title, ...children) {
  const id = `section-${title.toLowerCase().replaceAll(' ', '-')}`;
  return h('section', { class: 'card form-section', 'aria-labelledby': id }, h('h2', { id }, title), children);
}

function methodChoice(methods, field) {
  const element = h('select', {}, methods.map((method) => h('option', { value: method }, METHODS[method] ? `${METHODS[method]} (${method})` : method)));
  element.addEventListener('change', () => field.take({ value: element.value }));
  return { element, show: (value, filled) => { element.value = value ?? filled ?? 'sdd_kd'; } };
}

/** `team: vision, sweep: scales` */
function labelsControl(field) {
  const element = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false' });
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
