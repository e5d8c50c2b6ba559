// Which charts a job has.

import { chartBar } from '../charts/controls.js';
import { LiveChart } from '../charts/live.js';
import { ChartView } from '../charts/view.js';
import { h } from '../ui/dom.js';
import { bytes, percent, rate, tick } from '../ui/format.js';

/** @typedef {Schemas['Job']} Job */
/** @typedef {{ view: ChartView, signal: AbortSignal }} Common */

/** What a chart has room and colours for. */
const MAX_SERIES = 5;

/**
 * The charts of a specification. All are there before their points arrive, so that nothing moves when they do.
 * @param {Job['spec']} spec
 * @param {Common} common
 */
function chartsOf({ distillation: { method, weights }, training }, common) {
  const hasTeacher = method !== 'none';
  // With an average, that is the student.
  const evaluated = (/** @type {string} */ part) => (training.ema_decay === undefined
    ? [{ name: `eval/${part}`, label: 'student' }]
    : [{ name: `eval/${part}`, label: 'student (average)' }, { name: `eval/raw_${part}`, label: 'weights as trained' }]);
  const charts = [
    new LiveChart({
      ...common, title: 'Evaluation top-1', format: percent, series: evaluated('top1'),
      reference: hasTeacher ? 'teacher' : null,
    }),
    new LiveChart({ ...common, title: 'Train loss', canLog: true, series: [{ name: 'train/loss', label: 'loss' }] }),
  ];
  if (training.class_weights || training.sampling === 'balanced') {
    charts.push(new LiveChart({
      ...common, title: 'Evaluation, all classes alike', format: percent,
      hint: 'means over the classes, which count rare classes as much as frequent ones',
      series: [{ name: 'eval/balanced_accuracy', label: 'balanced accuracy' }, { name: 'eval/f1', label: 'F1' }],
    }));
  }
  if (hasTeacher) {
    charts.push(new LiveChart({
      ...common, title: 'Parts of the train loss', canLog: true,
      hint: 'consistent and complementary: the distillation loss of the regions in each group',
      series: [
        { name: 'train/loss_ce', label: 'cross entropy' },
        { name: 'train/loss_distill', label: 'distillation' },
        { name: 'train/loss_consistent', label: 'consistent' },
        { name: 'train/loss_complementary', label: 'complementary' },
        ...(weights.clustering ? [{ name: 'train/loss_clustering', label: 'clustering, before its weight' }] : []),
      ],
    }));
  }
  charts.push(
    new LiveChart({ ...common, title: 'Evaluation loss', canLog: true, series: evaluated('loss') }),
    new LiveChart({ ...common, title: 'Learning rate', canLog: true, series: [{ name: 'lr', label: 'learning rate' }] }),
    new LiveChart({ ...common, title: 'Speed', format: rate, series: [{ name: 'images_per_second', label: 'training images/s' }] }),
    new LiveChart({
      ...common, title: 'Memory', format: bytes, formatTick: bytes, areBytes: true,
      hint: 'process: the trainer’s resident memory; GPU: all memory in use on the job’s GPUs',
      series: [{ name: 'memory/resident_bytes', label: 'process' }, { name: 'memory/gpu_bytes', label: 'GPU', isOptional: true }],
    }),
  );
  return charts;
}

/**
 * The charts of a method with regions.
 * @param {number[]} scales
 * @param {Common} common
 */
function chartsOfScales(scales, common) {
  const series = (/** @type {string} */ part) => scales.slice(0, MAX_SERIES).map((scale) => ({ name: `sdd/scale_${scale}/${part}`, label: `${scale}×${scale}` }));
  // Scale 1 is the whole image, which never disagrees with itself.
  const complementary = series('complementary_fraction').slice(scales[0] === 1 ? 1 : 0);
  return [
    new LiveChart({ ...common, title: 'Distillation loss by scale', canLog: true, series: series('loss') }),
    new LiveChart({
      ...common, title: 'Complementary regions', hint: 'share of the regions in which the teacher disagrees with its own prediction for the whole image',
      format: (value) => percent(value == null ? value : value * 100, 1), formatTick: (value) => `${tick(value * 100)} %`,
      series: [{ name: 'sdd/complementary_fraction', label: 'all' }, ...complementary],
    }),
  ];
}

export class JobCharts {
  #charts;
  /** @type {Map<string, LiveChart>} */
  #byName = new Map();
  #view = new ChartView();

  /**
   * @param {Job} job
   * @param {AbortSignal} signal
   */
  constructor(job, signal) {
    const common = { view: this.#view, signal };
    const scales = job.spec.distillation.scales ?? [];
    const charts = chartsOf(job.spec, common);
    const ofScales = scales.length > 1 ? chartsOfScales(scales, common) : [];
    this.#charts = [...charts, ...ofScales];
    for (const chart of this.#charts) for (const name of chart.names) this.#byName.set(name, chart);
    this.element = h('section', { class: 'chart-section', 'aria-labelledby': 'charts-title' },
      h('h2', { id: 'charts-title', class: 'visually-hidden' }, 'Charts'), chartBar(this.#view),
      h('div', { class: 'charts' }, charts.map((chart) => chart.element)));
    /** Elements for the section on regions. */
    this.ofScales = ofScales.map((chart) => chart.element);
    this.setStart(job);
  }

  /**
   * The time axis begins when the job started.
   * @param {Job} job
   */
  setStart({ started_at: started }) {
    if (started && this.#view.start === 0) this.#view.start = Date.parse(started);
  }

  /**
   * Replaces all points by those of `GET /v1/jobs/{id}/metrics`.
   * @param {Schemas['Series'][]} series
   */
  load(series) {
    this.#charts.forEach((chart) => chart.clear());
    for (const { name, points } of series) this.#byName.get(name)?.append(name, points);
  }

  /** @param {Schemas['Point']} point */
  add(point) {
    this.#byName.get(point.name)?.append(point.name, [point]);
  }

  /** @param {number | null | undefined} top1 */
  setTeacher(top1) {
    this.#byName.get('eval/top1')?.setReference(top1 ?? null);
  }
}
