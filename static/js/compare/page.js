// Several jobs side by side: their curves, the settings that differ, means over seeds, accuracy against size.

import { followChanges } from '../api/changes.js';
import { api } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { curveFields, zoomFields } from '../charts/controls.js';
import { csv, save } from '../charts/export.js';
import { OverlayChart } from '../charts/overlay.js';
import { AXES } from '../charts/series.js';
import { ChartView, DEFAULT_AXIS } from '../charts/view.js';
import { Combobox, withRest } from '../ui/combobox.js';
import { setAnswered, setConnection } from '../ui/connection.js';
import { fill, h, setText } from '../ui/dom.js';
import { isNumber, pairOf, percent } from '../ui/format.js';
import { listAddress } from '../ui/places.js';
import { scrollBox, section } from '../ui/section.js';
import { groupBySeed, groupNames, meanCurve, runsText, withoutCopies } from './data.js';
import { ComparedJobs } from './jobs.js';
import { Scatter } from './scatter.js';
import { groupRows, groupsCsv, groupsTable, jobsTable, scatterPoints, settingsCsv, settingsTable } from './tables.js';

/** @import { Axis } from '../charts/series.js' */
/** @import { Curve } from '../charts/overlay.js' */
/** @import { Compared, Job } from './jobs.js' */
/** @typedef {{ label: string, short: string, curve: (series: string) => Curve }} JobLine */

/** More lines in one chart are hard to tell apart, and each needs a request. */
const MAX_JOBS = 50;
const INTERVAL = 4000;
const DEFAULT_SERIES = ['eval/top1', 'train/loss'];

/**
 * @param {PageContext} context
 * @returns {PageView}
 */
export function comparePage(context) {
  return new ComparePage(context);
}

class ComparePage {
  #compared = new ComparedJobs();
  /** @type {Map<string, { chart: OverlayChart, leaving: AbortController }>} */
  #charts = new Map();
  #view = new ChartView();
  /** @type {string[]} */
  #ids = [];
  /** @type {string[]} */
  #chosen = [];
  /** @type {Axis} */
  #axis = DEFAULT_AXIS;
  #hint = '';

  /** @param {PageContext} context */
  constructor({ root, query, signal, setTitle }) {
    this.signal = signal;
    this.setTitle = setTitle;
    this.note = h('p', { class: 'note', role: 'status' });
    this.seeds = h('input', { type: 'checkbox', id: 'seeds', onchange: () => { this.#go({ seeds: this.seeds.checked }); } });
    this.axis = h('select', { id: 'axis', onchange: () => { this.#go({ axis: this.axis.value }); } },
      AXES.map((name) => h('option', { value: name }, name === 'time' ? 'hours since the start' : name)));
    this.picker = new Combobox({
      label: 'Add a job', none: 'No other job matches.', signal,
      find: (text, stop) => this.#findJobs(text, stop), onPick: (id) => this.#go({ ids: [...this.#ids, id] }),
    });
    this.series = h('fieldset', { class: 'series-list' });
    this.jobs = scrollBox('Jobs, table', { class: 'table-scroll' });
    this.charts = h('section', { class: 'charts', 'aria-label': 'Curves' });
    this.scatter = new Scatter(signal);
    this.settings = scrollBox('Settings that differ, table', { class: 'table-scroll' });
    this.groups = scrollBox('Over seeds, table', { class: 'table-scroll' });
    this.body = this.#layOut();
    const heading = h('div', { class: 'heading' }, h('h1', {}, 'Compare'),
      h('div', { class: 'actions' }, this.picker.element, h('a', { class: 'button quiet', href: listAddress() }, 'Select in the list')));
    this.body.hidden = true;
    fill(root, heading, this.note, this.body);
    this.poller = new Poller({
      interval: INTERVAL, signal,
      request: async (stop) => {
        await this.#compared.read(this.#ids, this.#chosen, stop);
        setAnswered(true);
        this.#show();
      },
      onError: (error) => {
        setText(this.note, error.message);
        setAnswered(false);
      },
    });
    this.update(query);
    const onChange = (/** @type {string[] | null} */ ids) => {
      if (!ids || ids.some((id) => this.#ids.includes(id))) this.poller.soon();
    };
    followChanges({ onChange, onState: setConnection, signal });
  }

  #layOut() {
    const csvButton = (/** @type {() => void} */ onclick) => h('button', { type: 'button', class: 'quiet copy', title: 'Download the table', onclick }, 'CSV');
    const tools = h('div', { class: 'compare-tools' },
      h('label', {}, 'x axis ', this.axis),
      h('label', { class: 'check' }, this.seeds, 'Mean ± standard deviation over seeds'),
      curveFields(this.#view), zoomFields(this.#view), this.series);
    return h('div', { class: 'compare' },
      section('Jobs', {}, this.jobs), tools, this.charts,
      h('div', { class: 'compare-pair' }, section('Over seeds', { actions: csvButton(() => this.#saveGroups()) }, this.groups), this.scatter.element),
      section('Settings that differ', { actions: csvButton(() => this.#saveSettings()) }, this.settings));
  }

  /** @param {URLSearchParams} query */
  update(query) {
    const ids = [...new Set(query.getAll('job'))];
    this.#ids = ids.slice(0, MAX_JOBS);
    this.#chosen = query.has('series') ? query.getAll('series').filter(Boolean) : DEFAULT_SERIES;
    const axis = AXES.find((name) => name === query.get('x')) ?? DEFAULT_AXIS;
    // A range of one axis means nothing on another.
    if (axis !== this.#axis) this.#view.zoom(null);
    this.#axis = axis;
    this.axis.value = axis;
    this.seeds.checked = query.get('seeds') === '1';
    const isEmpty = ids.length === 0;
    // What is hidden until it is complete does not move while it loads.
    if (isEmpty) this.body.hidden = true;
    this.#hint = ids.length > MAX_JOBS ? `Only the first ${MAX_JOBS} jobs are shown.` : '';
    if (isEmpty) this.#hint = 'Add jobs here, or select them in the list (check boxes or the x key) and choose “Compare”.';
    setText(this.note, isEmpty ? this.#hint : 'Loading…');
    this.setTitle(isEmpty ? 'Compare' : `${this.#ids.length} jobs · Compare`);
    this.poller.now();
  }

  /**
   * Goes to the address of a changed comparison.
   * @param {{ ids?: string[], chosen?: string[], axis?: string, seeds?: boolean }} change
   */
  #go({ ids = this.#ids, chosen = this.#chosen, axis = this.#axis, seeds = this.seeds.checked }) {
    const parameters = new URLSearchParams(ids.map((id) => ['job', id]));
    if (chosen.join() !== DEFAULT_SERIES.join()) for (const name of chosen.length ? chosen : ['']) parameters.append('series', name);
    if (axis !== DEFAULT_AXIS) parameters.set('x', axis);
    if (seeds) parameters.set('seeds', '1');
    location.hash = `#/compare?${parameters}`;
  }

  /**
   * @param {string} text
   * @param {AbortSignal} stop
   */
  async #findJobs(text, stop) {
    if (this.#ids.length >= MAX_JOBS) throw new Error(`A comparison has at most ${MAX_JOBS} jobs. Remove one first.`);
    const { data, total } = await api.summaries({ q: text, limit: 50 }, stop);
    const options = data.filter(({ id }) => !this.#ids.includes(id)).map((job) => ({
      value: job.id, text: job.name, note: `${job.method} · ${pairOf(job)} · seed ${job.seed} · ${isNumber(job.best_top1) ? percent(job.best_top1) : job.status}`,
    }));
    return withRest(options, total - data.length);
  }

  get #found() {
    return this.#compared.of(this.#ids);
  }

  #show() {
    const found = this.#found;
    const jobs = found.map(({ job }) => job);
    const { missing } = this.#compared;
    const gone = missing.length ? `${missing.length} of these jobs ${missing.length === 1 ? 'does' : 'do'} not exist: ${missing.join(', ')}. ` : '';
    setText(this.note, gone + this.#hint);
    this.body.hidden = this.#ids.length === 0;
    const isGrouped = this.seeds.checked;
    const groups = groupBySeed(jobs);
    const names = this.#namesOf(groups);
    const lines = isGrouped ? this.#groupLines(groups, names) : this.#jobLines(jobs);
    const lineOf = (/** @type {Job} */ job) => (isGrouped ? groups.findIndex((group) => group.includes(job)) : jobs.indexOf(job));
    fill(this.jobs, jobsTable(this.#compared, jobs, lineOf, (id) => this.#go({ ids: this.#ids.filter((other) => other !== id) })));
    this.#showSeries(found);
    this.#showCharts(lines);
    fill(this.groups, groupsTable(groupRows(this.#compared, groups, names)));
    fill(this.settings, settingsTable(jobs));
    const shown = isGrouped ? groups : jobs.map((job) => [job]);
    this.scatter.show(scatterPoints(this.#compared, shown, lines.map(({ short }) => short), isGrouped));
  }

  /** @param {Job[][]} groups */
  #namesOf(groups) {
    return groupNames(groups.map((jobs) => jobs.map((job) => ({ name: job.name, spec: job.spec, sent: this.#compared.sent(job) }))));
  }

  /**
   * @param {Job[]} jobs
   * @returns {JobLine[]}
   */
  #jobLines(jobs) {
    const names = jobs.map(({ name }) => name);
    // Jobs without a name of their own are named after their networks.
    const isUnique = (/** @type {string} */ name) => names.indexOf(name) === names.lastIndexOf(name);
    return jobs.map((job) => {
      const curve = (/** @type {string} */ series) => this.#compared.curve(job, series, this.#axis);
      if (isUnique(job.name)) return { label: job.name, short: job.name, curve };
      const short = `${job.spec.distillation.method} · seed ${job.spec.training.seed}`;
      return { label: `${job.name} · ${short}`, short, curve };
    });
  }

  /**
   * @param {Job[][]} groups
   * @param {string[]} names
   * @returns {JobLine[]}
   */
  #groupLines(groups, names) {
    return groups.map((jobs, index) => ({
      label: `${names[index]} (${runsText(jobs)})`,
      short: names[index],
      curve: (series) => {
        const curves = withoutCopies(jobs).map((job) => this.#compared.curve(job, series, this.#axis));
        const { xs, mean, low, high } = meanCurve(curves.map((curve) => [curve.xs, curve.ys]));
        return curves.length > 1 ? { xs, ys: mean, low, high } : { xs, ys: mean };
      },
    }));
  }

  /**
   * Boxes for the series that any job has; those that most jobs have come first.
   * @param {Compared[]} found
   */
  #showSeries(found) {
    /** @type {Map<string, number>} */
    const counts = new Map(this.#chosen.map((name) => [name, 0]));
    for (const { names } of found) for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
    const series = [...counts].sort(([one, ofOne], [other, ofOther]) => ofOther - ofOne || (one < other ? -1 : 1));
    const key = `${series.join()} ${found.length} ${this.#chosen.join()}`;
    if (this.series.dataset.key === key) return;
    this.series.dataset.key = key;
    fill(this.series, h('legend', {}, 'Series'), series.map(([name, count]) => h('label', { class: 'check' },
      h('input', {
        type: 'checkbox', value: name, checked: this.#chosen.includes(name),
        onchange: (event) => this.#go({ chosen: event.target.checked ? [...this.#chosen, name] : this.#chosen.filter((other) => other !== name) }),
      }), h('span', {}, name, count < found.length ? ` (${count} of ${found.length})` : ''))));
  }

  /** @param {JobLine[]} lines */
  #showCharts(lines) {
    for (const [name, { chart, leaving }] of this.#charts) {
      if (this.#chosen.includes(name)) continue;
      leaving.abort();
      chart.element.remove();
      this.#charts.delete(name);
    }
    for (const name of this.#chosen) {
      const { chart } = this.#charts.get(name) ?? this.#addChart(name);
      chart.show(lines.map(({ label, curve }) => ({ label, ...curve(name) })), this.#axis === 'time' ? 'hours' : this.#axis);
    }
  }

  /** @param {string} name of the series */
  #addChart(name) {
    const leaving = new AbortController();
    const entry = { leaving, chart: new OverlayChart(name, { view: this.#view, signal: AbortSignal.any([leaving.signal, this.signal]) }) };
    this.charts.append(entry.chart.element);
    this.#charts.set(name, entry);
    return entry;
  }

  #saveSettings() {
    save('settings.csv', 'text/csv', csv(settingsCsv(this.#compared, this.#found.map(({ job }) => job))));
  }

  #saveGroups() {
    const groups = groupBySeed(this.#found.map(({ job }) => job));
    save('seeds.csv', 'text/csv', csv(groupsCsv(groupRows(this.#compared, groups, this.#namesOf(groups)))));
  }
}
