// Fields for the teacher, the student and the data set: lists of what the server has.

import { h } from '../ui/dom.js';
import { bytes, count, percent, whole } from '../ui/format.js';
import { choice } from './controls.js';
import { Field } from './fields.js';
import { teacherFrom } from './presets.js';

/** @import { Inventory } from './inventory.js' */
/** @typedef {'checkpoint' | 'job' | 'none'} Kind of teacher */

/** @type {[kind: Kind, label: string][]} */
const KINDS = [['checkpoint', 'Uploaded checkpoint'], ['job', 'Student of a job'], ['none', 'None: plain training']];

const aboutCheckpoint = (/** @type {Schemas['Checkpoint']} */ one) => [
  one.name, one.architecture ?? one.fits[0]?.architecture ?? 'fits nothing known',
  one.num_classes ? `${one.num_classes} classes` : null, bytes(one.size_bytes), one.id.slice(0, 12),
].filter(Boolean).join(' · ');

const aboutJob = (/** @type {Schemas['Job']} */ job) => [job.name, job.spec.student.architecture, job.result ? percent(job.result.best_top1) : job.status].join(' · ');

const aboutArchitecture = (/** @type {Schemas['Architecture']} */ one) => `${one.name} · ${count(one.parameters)} parameters · ${count(one.macs)} MACs · ${one.feature_map_side}×${one.feature_map_side} map`;

const aboutDataset = (/** @type {Dataset} */ one) => `${one.name} · ${one.classes} classes · ${one.splits.map(({ name, images }) => `${name} ${whole(images)}`).join(', ')}`;

/**
 * The student's architecture.
 * @param {Schemas['Architecture'][]} architectures
 * @param {(name: unknown) => void} onChange
 */
export function architectureField(architectures, onChange) {
  return new Field({
    pointer: '/student/architecture', key: 'architecture', label: 'Student', onChange,
    schema: { description: 'The network to train. Parameters and operations are for 100 classes and the image size it was designed for.' },
    control: { build: (field) => choice(architectures.map((one) => [one.name, aboutArchitecture(one)]), field, 'choose…') },
  });
}

/**
 * @param {Dataset[]} datasets
 * @param {(name: unknown) => void} onChange
 */
export function datasetField(datasets, onChange) {
  const description = datasets.length ? 'A directory in the server’s --datasets-dir.' : 'None yet: put a directory of images into the server’s --datasets-dir.';
  return new Field({
    pointer: '/dataset/name', key: 'name', label: 'Data set', schema: { description }, onChange,
    control: { build: (field) => choice(datasets.map((one) => [one.name, aboutDataset(one)]), field, 'choose…') },
  });
}

/** The teacher: a checkpoint, a job, or none. */
export class Teacher {
  /** @type {Kind | null} */
  #kind = null;
  /** @type {ReturnType<typeof choice> | undefined} */
  #checkpoints;
  /** @type {ReturnType<typeof choice> | undefined} */
  #jobs;

  /**
   * @param {Inventory} have
   * @param {(teacher: object | null | undefined) => void} onChange gets the field `teacher`; undefined for no teacher, null for
   *   one that is still to be chosen
   */
  constructor(have, onChange) {
    this.have = have;
    this.onChange = onChange;
    this.kinds = KINDS.map(([kind]) => h('input', { type: 'radio', name: 'teacher-kind', value: kind, onchange: () => this.#turn(kind) }));
    this.checkpoint = new Field({
      pointer: '/teacher/checkpoint', key: 'checkpoint', schema: { description: 'Uploaded files that fit a known architecture. Drop another anywhere on this page.' },
      control: { build: (field) => (this.#checkpoints = choice([], field, 'choose…')) }, onChange: (id) => this.#chooseCheckpoint(id),
    });
    this.job = new Field({
      pointer: '/teacher/job', key: 'job', schema: { description: 'The new job waits until that one has succeeded.' },
      control: { build: (field) => (this.#jobs = choice([], field, 'choose…')) }, onChange: (id) => onChange(id ? { job: id } : null),
    });
    this.note = h('p', { class: 'field-help' }, 'The network learns from the labels alone. It can be a teacher later.');
    this.element = h('fieldset', { class: 'field', 'data-pointer': '/teacher' }, h('legend', {}, 'Teacher'),
      h('div', { class: 'segments' }, this.kinds.map((input, index) => h('label', {}, input, KINDS[index][1]))), this.checkpoint.element, this.job.element, this.note);
    this.refresh();
  }

  get fields() {
    return [this.checkpoint, this.job];
  }

  /** Offers what the server has now. */
  refresh() {
    this.#checkpoints?.setOptions(this.have.checkpoints.map((one) => [one.id, aboutCheckpoint(one)]));
    this.#jobs?.setOptions(this.have.jobs.map((one) => [one.id, aboutJob(one)]));
  }

  /** @param {Kind} kind */
  #turn(kind) {
    this.#kind = kind;
    if (kind === 'none') {
      this.onChange(undefined);
    } else if (kind === 'checkpoint') {
      const first = this.have.checkpoints.find(({ fits }) => fits.length > 0);
      this.onChange(first ? teacherFrom(first) : null);
    } else {
      const [first] = this.have.jobs;
      this.onChange(first ? { job: first.id } : null);
    }
  }

  /** @param {string | undefined} id */
  #chooseCheckpoint(id) {
    const one = this.have.checkpoints.find((known) => known.id === id);
    this.onChange(one ? teacherFrom(one) : null);
  }

  /**
   * @param {{ job?: string, checkpoint?: string } | undefined} teacher
   * @param {boolean} isPlain whether the method has no teacher
   */
  show(teacher, isPlain) {
    if (teacher?.job) this.#kind = 'job';
    else if (teacher) this.#kind = 'checkpoint';
    else if (isPlain) this.#kind = 'none';
    else if (this.#kind === 'none' || this.#kind === null) this.#kind = 'checkpoint';
    for (const input of this.kinds) input.checked = input.value === this.#kind;
    this.checkpoint.element.hidden = this.#kind !== 'checkpoint';
    this.job.element.hidden = this.#kind !== 'job';
    this.note.hidden = this.#kind !== 'none';
    // An id with a blank stands for a checkpoint still to be chosen.
    this.checkpoint.show(teacher?.checkpoint?.includes(' ') ? undefined : teacher?.checkpoint);
    this.job.show(teacher?.job);
  }
}

/**
 * Fields that few users need, folded away.
 * @param {string} title
 * @param {Field[]} fields
 */
export function more(title, fields) {
  return h('details', { class: 'more-fields' }, h('summary', {}, title), h('div', { class: 'fields' }, fields.map(({ element }) => element)));
}
