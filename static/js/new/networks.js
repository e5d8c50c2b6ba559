// Who teaches, who learns and from which images: lists of what the server has, with what each of them is.

import { Field, choice } from './fields.js';
import { fill, h } from '../ui/dom.js';
import { bytes, count, percent, whole } from '../ui/format.js';
import { teacherFrom } from './presets.js';

const KINDS = [['checkpoint', 'Uploaded checkpoint'], ['job', 'Student of a job'], ['none', 'None: plain training']];

const aboutCheckpoint = (one) => [
  one.name, one.architecture ?? one.fits[0]?.architecture ?? 'fits nothing known',
  one.num_classes ? `${one.num_classes} classes` : null, bytes(one.size_bytes), one.id.slice(0, 12),
].filter(Boolean).join(' · ');

const aboutJob = (job) => [job.name, job.spec.student.architecture, job.result ? percent(job.result.best_top1) : job.status].join(' · ');

const aboutArchitecture = (one) => `${one.name} · ${count(one.parameters)} parameters · ${count(one.macs)} MACs · ${one.feature_map_side}×${one.feature_map_side} map`;

const aboutDataset = (one) => `${one.name} · ${one.classes} classes · ${one.splits.map(({ name, images }) => `${name} ${whole(images)}`).join(', ')}`;

/** The student's architecture. */
export function architectureField(architectures, onChange) {
  return new Field({
    pointer: '/student/architecture', key: 'architecture', label: 'Student', onChange,
    schema: { description: 'The network to train. Parameters and operations are for 100 classes at the size that it was made for.' },
    control: { build: (field) => choice(architectures.map((one) => [one.name, aboutArchitecture(one)]), field, 'choose…') },
  });
}

/** The data set. */
export function datasetField(datasets, onChange) {
  const description = datasets.length ? 'A directory below the server’s --datasets-dir.' : 'None yet: put a directory with images below the server’s --datasets-dir.';
  return new Field({
    pointer: '/dataset/name', key: 'name', label: 'Data set', schema: { description }, onChange,
    control: { build: (field) => choice(datasets.map((one) => [one.name, aboutDataset(one)]), field, 'choose…') },
  });
}

/** The teacher: a checkpoint, a job, or none. */
export class Teacher {
  #kind = null;

  /** `onChange(teacher)` gets what stands at `/teacher`; undefined for none, null for one that is still to be chosen. */
  constructor(have, onChange) {
    this.have = have;
    this.onChange = onChange;
    this.kinds = KINDS.map(([kind, label]) => h('label', {},
      h('input', { type: 'radio', name: 'teacher-kind', value: kind, onchange: () => this.#turn(kind) }), label));
    this.checkpoint = new Field({
      pointer: '/teacher/checkpoint', key: 'checkpoint', schema: { description: 'Uploaded files that fit one of the architectures. Drop another anywhere on this page.' },
      control: { build: (field) => choice([], field, 'choose…') }, onChange: (id) => this.#chooseCheckpoint(id),
    });
    this.job = new Field({
      pointer: '/teacher/job', key: 'job', schema: { description: 'The new job waits while that one runs.' },
      control: { build: (field) => choice([], field, 'choose…') }, onChange: (id) => onChange(id ? { job: id } : null),
    });
    this.note = h('p', { class: 'field-help' }, 'The network learns from the labels alone. Its student can teach later.');
    this.element = h('fieldset', { class: 'field', 'data-pointer': '/teacher' }, h('legend', {}, 'Teacher'),
      h('div', { class: 'segments' }, this.kinds), this.checkpoint.element, this.job.element, this.note);
    this.refresh();
  }

  get fields() {
    return [this.checkpoint, this.job];
  }

  /** Takes over what the server has by now. */
  refresh() {
    this.checkpoint.control.setOptions(this.have.checkpoints.map((one) => [one.id, aboutCheckpoint(one)]));
    this.job.control.setOptions(this.have.jobs.map((one) => [one.id, aboutJob(one)]));
  }

  #turn(kind) {
    this.#kind = kind;
    const first = kind === 'checkpoint' ? this.have.checkpoints.find(({ fits }) => fits.length) : this.have.jobs[0];
    if (kind === 'none') this.onChange(undefined);
    else this.onChange(first ? (kind === 'checkpoint' ? teacherFrom(first) : { job: first.id }) : null);
  }

  #chooseCheckpoint(id) {
    const one = this.have.checkpoints.find((known) => known.id === id);
    this.onChange(one ? teacherFrom(one) : null);
  }

  show(teacher, isPlain) {
    if (teacher?.job) this.#kind = 'job';
    else if (teacher) this.#kind = 'checkpoint';
    else if (isPlain) this.#kind = 'none';
    else if (this.#kind === 'none' || this.#kind === null) this.#kind = 'checkpoint';
    for (const label of this.kinds) label.firstElementChild.checked = label.firstElementChild.value === this.#kind;
    this.checkpoint.element.hidden = this.#kind !== 'checkpoint';
    this.job.element.hidden = this.#kind !== 'job';
    this.note.hidden = this.#kind !== 'none';
    this.checkpoint.show(teacher?.checkpoint?.includes(' ') ? undefined : teacher?.checkpoint);
    this.job.show(teacher?.job);
  }
}

/** Fields that few need, behind a line that opens them. */
export function more(title, fields) {
  const details = h('details', { class: 'more-fields' }, h('summary', {}, title));
  details.append(fill(h('div', { class: 'fields' }), fields.map(({ element }) => element)));
  return details;
}
