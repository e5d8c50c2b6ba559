// Which series a job has and how they are shown.

import { Chart } from './charts.js';
import { h } from './dom.js';
import { percent, tick } from './format.js';

const PARTS = [
  { name: 'train/loss_ce', label: 'cross entropy' },
  { name: 'train/loss_distill', label: 'distillation' },
  { name: 'train/loss_consistent', label: 'consistent' },
  { name: 'train/loss_complementary', label: 'complementary' },
];

/** The charts of a specification, whether or not there are points yet: nothing moves when they come. */
function chartsOf(spec, signal) {
  const { method, scales = [] } = spec.distillation;
  const charts = [
    new Chart({
      title: 'Evaluation top-1', signal, format: percent, series: [{ name: 'eval/top1', label: 'student' }],
      reference: method === 'none' ? null : { label: 'teacher', value: null },
    }),
    new Chart({ title: 'Train loss', signal, series: [{ name: 'train/loss', label: 'loss' }] }),
  ];
  if (method !== 'none') {
    charts.push(new Chart({ title: 'Parts of the train loss', hint: 'consistent and complementary: the distillation loss of the regions in each group', signal, series: PARTS }));
  }
  if (scales.length > 1) charts.push(...byScale(scales, signal));
  charts.push(new Chart({ title: 'Learning rate', signal, series: [{ name: 'lr', label: 'learning rate' }] }));
  return charts;
}

function byScale(scales, signal) {
  const series = (part) => scales.slice(0, 5).map((scale) => ({ name: `sdd/scale_${scale}/${part}`, label: `${scale}×${scale}` }));
  return [
    new Chart({ title: 'Distillation loss by scale', signal, series: series('loss') }),
    new Chart({
      title: 'Complementary regions', hint: 'share of the regions in which the teacher disagrees with its own prediction for the whole image',
      signal, format: (value) => percent(value * 100, 1), formatTick: (value) => `${tick(value * 100)} %`,
      series: [{ name: 'sdd/complementary_fraction', label: 'all' }, ...series('complementary_fraction').slice(scales[0] === 1 ? 1 : 0)],
    }),
  ];
}

/** The section with a job's charts. */
export class JobCharts {
  #charts;
  #byName = new Map();

  constructor(spec, signal) {
    this.#charts = chartsOf(spec, signal);
    for (const chart of this.#charts) for (const name of chart.names) this.#byName.set(name, chart);
    this.element = h('section', { class: 'charts', 'aria-label': 'Charts' }, this.#charts.map((chart) => chart.element));
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
