// Which series a job has and how they are shown.

import { ChartView, chartBar } from '../charts/view.js';
import { Chart } from '../charts/live.js';
import { h } from '../ui/dom.js';
import { bytes, percent, rate, tick } from '../ui/format.js';

const PARTS = [
  { name: 'train/loss_ce', label: 'cross entropy' },
  { name: 'train/loss_distill', label: 'distillation' },
  { name: 'train/loss_consistent', label: 'consistent' },
  { name: 'train/loss_complementary', label: 'complementary' },
];

/** The charts of a specification, whether or not there are points yet: nothing moves when they come. */
function chartsOf(spec, common) {
  const { method } = spec.distillation;
  const charts = [
    new Chart({
      ...common, title: 'Evaluation top-1', format: percent, series: [{ name: 'eval/top1', label: 'student' }],
      reference: method === 'none' ? null : { label: 'teacher', value: null },
    }),
    new Chart({ ...common, title: 'Train loss', canLog: true, series: [{ name: 'train/loss', label: 'loss' }] }),
  ];
  if (method !== 'none') {
    charts.push(new Chart({
      ...common, title: 'Parts of the train loss', canLog: true, series: PARTS,
      hint: 'consistent and complementary: the distillation loss of the regions in each group',
    }));
  }
  charts.push(
    new Chart({ ...common, title: 'Evaluation loss', canLog: true, series: [{ name: 'eval/loss', label: 'student' }] }),
    new Chart({ ...common, title: 'Learning rate', canLog: true, series: [{ name: 'lr', label: 'learning rate' }] }),
    new Chart({ ...common, title: 'Speed', format: rate, series: [{ name: 'images_per_second', label: 'training images/s' }] }),
    new Chart({
      ...common, title: 'Memory', hint: 'of the trainer’s process on the machine; of the job’s GPUs, all that is in use there', format: bytes, formatTick: bytes, areBytes: true,
      series: [{ name: 'memory/resident_bytes', label: 'process' }, { name: 'memory/gpu_bytes', label: 'GPU', isOptional: true }],
    }),
  );
  return charts;
}

/** Those that belong to the regions. */
function chartsOfScales(scales, common) {
  const series = (part) => scales.slice(0, 5).map((scale) => ({ name: `sdd/scale_${scale}/${part}`, label: `${scale}×${scale}` }));
  return [
    new Chart({ ...common, title: 'Distillation loss by scale', canLog: true, series: series('loss') }),
    new Chart({
      ...common, title: 'Complementary regions', hint: 'share of the regions in which the teacher disagrees with its own prediction for the whole image',
      format: (value) => percent(value * 100, 1), formatTick: (value) => `${tick(value * 100)} %`,
      series: [{ name: 'sdd/complementary_fraction', label: 'all' }, ...series('complementary_fraction').slice(scales[0] === 1 ? 1 : 0)],
    }),
  ];
}

/** The section with a job's charts; `ofScales` are for the section about the regions. */
export class JobCharts {
  #charts;
  #byName = new Map();
  #view = new ChartView();

  constructor(job, signal) {
    const common = { view: this.#view, signal };
    const { scales = [] } = job.spec.distillation;
    const charts = chartsOf(job.spec, common);
    const ofScales = scales.length > 1 ? chartsOfScales(scales, common) : [];
    this.#charts = [...charts, ...ofScales];
    for (const chart of this.#charts) for (const name of chart.names) this.#byName.set(name, chart);
    this.element = h('section', { class: 'chart-section', 'aria-labelledby': 'charts-title' },
      h('h2', { id: 'charts-title', class: 'visually-hidden' }, 'Charts'), chartBar(this.#view),
      h('div', { class: 'charts' }, charts.map((chart) => chart.element)));
    this.ofScales = ofScales.map((chart) => chart.element);
    this.setStart(job);
  }

  /** Time on the x axis counts from when the job began. */
  setStart({ started_at: started }) {
    if (started && this.#view.start === 0) this.#view.start = Date.parse(started);
  }

  /** Replaces everything by what `GET …/metrics` answered. */
  load(series) {
    this.#charts.forEach((chart) => chart.clear());
    for (const { name, points } of series) this.#byName.get(name)?.append(name, points);
  }

  add(point) {
    this.#byName.get(point.name)?.append(point.name, [point]);
  }

  setTeacher(top1) {
    if (this.#byName.has('train/loss_distill')) this.#byName.get('eval/top1').setReference(top1 ?? null);
  }
}
