// The jobs that are compared, with their series and the sizes of their networks.

import { api } from '../api/client.js';
import { xOf, toPoint } from '../charts/series.js';
import { isFinal } from '../ui/status.js';

/** @import { Axis } from '../charts/series.js' */
/** @typedef {Schemas['JobDetails']} Job */
/**
 * `sent` is the specification as it was written, `names` are of all series, `series` those requested.
 * @typedef {{ job: Job, sent: object | null, names: string[], series: Map<string, Schemas['SeriesPoint'][]> }} Compared
 */

const MAX_POINTS = 600;
/** The class count for which the API states the parameters of an architecture. */
const STATED_CLASSES = 100;

export class ComparedJobs {
  /** @type {Map<string, Compared>} */
  #known = new Map();
  /** @type {Map<string, Schemas['Architecture']>} */
  #architectures = new Map();
  /**
   * Number of classes by data set.
   * @type {Map<string, number>}
   */
  #classes = new Map();
  /**
   * Ids of jobs that do not exist.
   * @type {string[]}
   */
  missing = [];

  /**
   * Requests what is missing or may have changed.
   * @param {string[]} ids
   * @param {string[]} series
   * @param {AbortSignal} signal
   */
  async read(ids, series, signal) {
    if (this.#architectures.size === 0) await this.#readNetworks(signal);
    /** @type {string[]} */
    const missing = [];
    await Promise.all(ids.map(async (id) => {
      try {
        await this.#readJob(id, series, signal);
      } catch (error) {
        if (![400, 404].includes(error.status)) throw error;
        missing.push(id);
        this.#known.delete(id);
      }
    }));
    this.missing = missing;
  }

  /** @param {AbortSignal} signal */
  async #readNetworks(signal) {
    const [architectures, datasets] = await Promise.all([api.architectures(signal), api.datasets(signal)]);
    this.#classes = new Map(datasets.data.map(({ name, classes }) => [name, classes]));
    this.#architectures = new Map(architectures.data.map((one) => [one.name, one]));
  }

  /**
   * A finished job whose student is measured, or will not be, is requested once.
   * @param {string} id
   * @param {string[]} wanted
   * @param {AbortSignal} signal
   */
  async #readJob(id, wanted, signal) {
    const known = this.#known.get(id);
    const finished = known && isSettled(known.job) ? known : null;
    const job = finished ? finished.job : await api.job(id, signal);
    const names = finished ? finished.names : (await api.metrics(id, { maxPoints: 4 }, signal)).series.map(({ name }) => name);
    // Jobs of earlier versions did not keep what was sent.
    const sent = known ? known.sent : await api.submitted(id, signal).catch(() => null);
    const series = new Map(finished?.series);
    const lacking = wanted.filter((name) => names.includes(name) && !series.has(name));
    if (lacking.length > 0) {
      const answer = await api.metrics(id, { name: lacking, maxPoints: MAX_POINTS }, signal);
      for (const { name, points } of answer.series) series.set(name, points);
    }
    this.#known.set(id, { job, sent, names, series });
  }

  /**
   * The jobs of these ids that are known.
   * @param {string[]} ids
   */
  of(ids) {
    return ids.flatMap((id) => this.#known.get(id) ?? []);
  }

  /**
   * The specification of a job as it was written.
   * @param {Job} job
   */
  sent({ id }) {
    return this.#known.get(id)?.sent ?? null;
  }

  /**
   * A series as a curve; the time axis is in hours since the job started.
   * @param {Job} job
   * @param {string} name
   * @param {Axis} axis
   */
  curve(job, name, axis) {
    const start = Date.parse(job.started_at ?? '');
    const points = (this.#known.get(job.id)?.series.get(name) ?? []).map(toPoint);
    const pairs = points.map((point) => ({ x: axis === 'time' ? xOf(axis, point, start) / 3600 : xOf(axis, point, start), y: point.value }));
    pairs.sort((one, other) => one.x - other.x);
    // A resumed attempt repeats steps and epochs.
    const distinct = pairs.filter(({ x }, index) => index === 0 || x > pairs[index - 1].x);
    return { xs: distinct.map(({ x }) => x), ys: distinct.map(({ y }) => y) };
  }

  /**
   * The best top-1 accuracy so far, in percent.
   * @param {Job} job
   */
  best({ id, result }) {
    const values = (this.#known.get(id)?.series.get('eval/top1') ?? []).map(({ value }) => value);
    return result?.best_top1 ?? (values.length ? Math.max(...values) : undefined);
  }

  /**
   * Parameters of the student.
   * @param {Job} job
   */
  size({ result, spec, student_facts: facts }) {
    return result?.student?.parameters ?? facts?.parameters ?? this.parametersOf(spec.student.architecture, spec.dataset.name);
  }

  /**
   * Parameters of the teacher.
   * @param {Job} job
   */
  teacherSize({ spec, teacher_facts: facts }) {
    return facts?.parameters ?? this.parametersOf(spec.teacher?.architecture, spec.dataset.name);
  }

  /**
   * Parameters of an architecture for the classes of a data set: each class is a row of the classifier and its bias.
   * @param {string | null | undefined} architecture
   * @param {string | null | undefined} dataset
   */
  parametersOf(architecture, dataset) {
    const known = this.#architectures.get(architecture ?? '');
    if (!known) return undefined;
    const classes = this.#classes.get(dataset ?? '') ?? STATED_CLASSES;
    return known.parameters + (classes - STATED_CLASSES) * (known.feature_map_channels + 1);
  }
}

/** Milliseconds after a job's end in which its student's latency may still come. */
const MEASURING = 600_000;

/**
 * Whether nothing about a job changes any more.
 * @param {Job} job
 */
function isSettled({ status, student_latency: measured, finished_at: end }) {
  if (!isFinal(status)) return false;
  return status !== 'succeeded' || Boolean(measured) || Date.now() - Date.parse(end ?? '') > MEASURING;
}

/**
 * The teacher's top-1 accuracy in percent, once it is known.
 * @param {Job} job
 */
export function teacherTop1({ result, teacher }) {
  return result?.teacher_top1 ?? teacher?.top1;
}
