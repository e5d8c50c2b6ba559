// Fields for the teacher, the student and the data set: lists of what the server has.

import { api } from '../api/client.js';
import { withRest } from '../ui/combobox.js';
import { h, setText } from '../ui/dom.js';
import { bytes, count, percent, whole } from '../ui/format.js';
import { choice } from './controls.js';
import { aboutNetwork } from './exported.js';
import { Field } from './fields.js';
import { notOffered, notesOfCheckpoint, notesOfDataset } from './notes.js';
import { Picker } from './picker.js';
import { studentFrom, teacherFrom } from './presets.js';

/** @import { Inventory } from './inventory.js' */
/** @typedef {'checkpoint' | 'job' | 'none'} Kind of teacher */

/** @type {[kind: Kind, label: string][]} */
const KINDS = [['checkpoint', 'Uploaded checkpoint'], ['job', 'Student of a job'], ['none', 'None: plain training']];

/** Checkpoints that a search offers at once. */
const MAX_OFFERED = 50;

const nameOf = (/** @type {Schemas['Checkpoint']} */ one) => one.name ?? one.id.slice(0, 12);

const aboutCheckpoint = (/** @type {Schemas['Checkpoint']} */ one) => one.network ? `${aboutNetwork(one.network)} · ${one.id.slice(0, 12)}` : [
  one.architecture ?? one.fits[0]?.architecture ?? 'fits nothing known',
  one.num_classes ? `${one.num_classes} classes` : null, bytes(one.size_bytes), one.id.slice(0, 12),
].filter(Boolean).join(' · ');

const aboutJob = (/** @type {Schemas['JobSummary']} */ job) => [
  job.student, job.dataset, job.status === 'succeeded' ? percent(job.best_top1) : job.status,
].filter(Boolean).join(' · ');

const aboutArchitecture = (/** @type {Schemas['Architecture']} */ one) => `${one.name} · ${count(one.parameters)} parameters · ${count(one.macs)} MACs · ${one.feature_map_side}×${one.feature_map_side} map`;

const aboutDataset = (/** @type {Dataset} */ one) => `${one.name} · ${one.classes} classes · ${one.splits.map(({ name, images }) => `${name} ${whole(images)}`).join(', ')}`;

/** The student's network: an architecture, or an uploaded one. */
export class StudentField extends Field {
  /** @type {{ architecture?: string, checkpoint?: string } | undefined} */
  #shown;

  /**
   * @param {Inventory} have
   * @param {(student: object) => void} onStudent gets the field `student`
   */
  constructor(have, onStudent) {
    super({
      pointer: '/student/architecture', key: 'architecture', label: 'Student',
      onChange: (chosen) => onStudent(studentFrom(this.#shown, chosen, (id) => this.#isNetwork(id))),
      schema: { description: 'The network to train. Parameters and operations of architectures are for 100 classes and the image size they were designed for. Exported networks stand below them once they are uploaded.' },
      control: { build: (field) => choice([], field, 'choose…') },
    });
    this.have = have;
    this.choice = /** @type {ReturnType<typeof choice>} */ (this.control);
  }

  /** @param {string | undefined} id */
  #isNetwork(id) {
    return this.have.checkpoints.some((one) => one.id === id && one.network);
  }

  /** @param {{ architecture?: string, checkpoint?: string } | undefined} student */
  showStudent(student) {
    const { architectures, checkpoints } = this.have;
    this.#shown = student;
    this.choice.setOptions([
      ...architectures.map((one) => /** @type {[string, string]} */ ([one.name, aboutArchitecture(one)])),
      ...checkpoints.flatMap((one) => (one.network ? [/** @type {[string, string]} */ ([one.id, `${nameOf(one)} · ${aboutNetwork(one.network)}`])] : [])),
    ]);
    const network = this.#isNetwork(student?.checkpoint) ? student?.checkpoint : undefined;
    this.show(student?.architecture ?? network);
  }
}

/**
 * The data set, what was passed over or guessed in it, and the directories that are none.
 * @param {Inventory} have
 * @param {(name: unknown) => void} onChange
 */
export function datasetField(have, onChange) {
  const { datasets, unusable, unread } = have;
  const none = unread.has('data sets') ? 'They could not be read.' : 'None yet: upload one on the page Data, or put a directory of images into the server’s --datasets-dir.';
  const description = datasets.length ? 'An uploaded data set, or a directory in the server’s --datasets-dir.' : none;
  const field = new Field({
    pointer: '/dataset/name', key: 'name', label: 'Data set', schema: { description }, onChange, notesOf: (name) => notesOfDataset(have, name),
    control: { build: (built) => choice(datasets.map((one) => [one.name, aboutDataset(one)]), built, 'choose…') },
  });
  const others = notOffered(unusable);
  if (others) field.element.append(others);
  return field;
}

/** The teacher: a checkpoint, a job, or none. */
export class Teacher {
  pointer = '/teacher';
  /** @type {Kind | null} */
  #kind = null;
  /**
   * What was chosen last of each kind, for a user who looks at the other one.
   * @type {{ checkpoint?: object, job?: object }}
   */
  #last = {};

  /**
   * @param {Inventory} have
   * @param {(teacher: object | null | undefined) => void} onChange gets the field `teacher`; undefined for no teacher,
   *   null for one that is still to be chosen
   * @param {AbortSignal} signal
   */
  constructor(have, onChange, signal) {
    this.have = have;
    this.onChange = onChange;
    this.kinds = KINDS.map(([kind]) => h('input', { type: 'radio', name: 'teacher-kind', value: kind, onchange: () => this.#turn(kind) }));
    this.checkpoint = new Field({
      pointer: '/teacher/checkpoint', key: 'checkpoint', schema: { description: 'Uploaded files that fit a known architecture, and exported networks. Drop another anywhere on this page.' },
      onChange: (id) => this.#chooseCheckpoint(id), notesOf: (id) => notesOfCheckpoint(have, id),
      control: { build: (field) => new Picker({
        label: 'Search the checkpoints', none: 'No uploaded checkpoint matches.', signal, onChange: field.onChange,
        find: async (text) => this.#findCheckpoints(text), describe: async (id) => this.#describeCheckpoint(id),
      }) },
    });
    this.job = new Field({
      pointer: '/teacher/job', key: 'job', schema: { description: 'A job that has not succeeded yet can be chosen too: the new one waits for it.' },
      onChange: (id) => onChange(id ? { job: id } : null),
      control: { build: (field) => new Picker({
        label: 'Search the jobs', none: 'No job with a student, or that will have one, matches.', signal, onChange: field.onChange,
        find: findTeachers, describe: describeJob,
      }) },
    });
    this.note = h('p', { class: 'field-help' }, 'The network learns from the labels alone. It can be a teacher later.');
    this.fault = h('p', { class: 'field-fault', hidden: true });
    this.element = h('fieldset', { class: 'field', 'data-pointer': this.pointer }, h('legend', {}, 'Teacher'),
      h('div', { class: 'segments' }, this.kinds.map((input, index) => h('label', {}, input, KINDS[index][1]))), this.fault,
      this.checkpoint.element, this.job.element, this.note);
  }

  get fields() {
    return [this.checkpoint, this.job];
  }

  /** @param {string} text */
  setFault(text) {
    setText(this.fault, text);
    this.fault.hidden = !text;
  }

  /** @param {string} text */
  #findCheckpoints(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.have.checkpoints.filter((one) => {
      const all = `${one.id} ${nameOf(one)} ${aboutCheckpoint(one)}`.toLowerCase();
      return (one.fits.length > 0 || one.network) && words.every((word) => all.includes(word));
    });
    const options = found.slice(0, MAX_OFFERED).map((one) => ({ value: one.id, text: nameOf(one), note: aboutCheckpoint(one) }));
    return withRest(options, found.length - options.length);
  }

  /** @param {string} id */
  #describeCheckpoint(id) {
    const one = this.have.checkpoints.find((known) => known.id === id);
    return one ? [h('strong', {}, nameOf(one)), ' ', h('span', { class: 'note' }, aboutCheckpoint(one))] : id;
  }

  /** @param {Kind} kind */
  #turn(kind) {
    this.#kind = kind;
    this.onChange(kind === 'none' ? undefined : this.#last[kind] ?? null);
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
    if (teacher && this.#kind && this.#kind !== 'none') this.#last[this.#kind] = teacher;
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
 * @param {string} text
 * @param {AbortSignal} signal
 */
async function findTeachers(text, signal) {
  const { data, total } = await api.possibleTeachers(text, signal);
  return withRest(data.map((job) => ({ value: job.id, text: job.name, note: aboutJob(job) })), total - data.length);
}

/**
 * @param {string} id
 * @param {AbortSignal} signal
 */
async function describeJob(id, signal) {
  const { data: [job] } = await api.summaries({ id }, signal);
  return job ? [h('a', { href: `#/jobs/${encodeURIComponent(id)}` }, job.name), ' ', h('span', { class: 'note' }, aboutJob(job))] : id;
}

/**
 * Fields that few users need, folded away.
 * @param {string} title
 * @param {Field[]} fields
 */
export function more(title, fields) {
  return h('details', { class: 'more-fields' }, h('summary', {}, title), h('div', { class: 'fields' }, fields.map(({ element }) => element)));
}
