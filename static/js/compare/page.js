// Several jobs side by side: their curves, the settings that differ, means over seeds, accuracy against size.

import { api, paths } from '../api/client.js';
import { ChartView, curveFields, showAll, zoomHint } from '../charts/view.js';
import { Combobox } from '../ui/combobox.js';
import { differences, groupBySeed, groupNames, meanCurve, settingText, statistics } from './data.js';
import { setConnection } from '../ui/connection.js';
import { fill, h, setText, statusBadge } from '../ui/dom.js';
import { csv, save } from '../charts/export.js';
import { count, pairOf, pairing, percent } from '../ui/format.js';
import { OverlayChart, lineColour, lineDash, styleSwatch } from '../charts/overlay.js';
import { Paced } from '../api/paced.js';
import { Scatter } from './scatter.js';
import { follow } from '../api/stream.js';

/** More lines in one chart cannot be told apart, and each is a request. */
const MOST_JOBS = 50;
const MOST_POINTS = 600;
const EVERY = 4000;
const USUAL = ['eval/top1', 'train/loss'];
const AXES = ['epoch', 'step', 'time'];

/** Compares the jobs of the address; `update(query)` compares others, or in another way. */
export function comparePage(context) {
  return new ComparePage(context);
}

class ComparePage {
  /** By id: `{job, names, series}`, of which the last two come later. */
  #known = new Map();
  #missing = [];
  #charts = new Map();
  #architectures = new Map();
  /** By the name of a data set. */
  #classes = new Map();
  #view = new ChartView();

  constructor({ root, query, signal, setTitle }) {
    Object.assign(this, { signal, setTitle });
    this.note = h('p', { class: 'note', role: 'status' });
    this.seeds = h('input', { type: 'checkbox', id: 'seeds', onchange: () => this.#go({ seeds: this.seeds.checked }) });
    this.axis = h('select', { id: 'axis', onchange: () => this.#go({ x: this.axis.value }) }, AXES.map((name) => h('option', { value: name }, name === 'time' ? 'hours since the start' : name)));
    this.picker = new Combobox({
      label: 'Add a job', none: 'No other job matches.', signal,
      find: (text, stop) => this.#findJobs(text, stop), onPick: (id) => this.#go({ ids: [...this.ids, id] }),
    });
    this.series = h('fieldset', { class: 'series-list' });
    this.jobs = h('div', {});
    this.charts = h('section', { class: 'charts', 'aria-label': 'Curves' });
    this.scatter = new Scatter(signal);
    this.settings = h('div', {});
    this.groups = h('div', {});
    this.body = h('div', { class: 'compare' },
      section('Jobs', this.jobs),
      h('div', { class: 'compare-tools' }, h('label', {}, 'Along ', this.axis), h('label', { class: 'check' }, this.seeds, 'Mean ± standard deviation over seeds'), curveFields(this.#view), showAll(this.#view), zoomHint(), this.series),
      this.charts,
      h('div', { class: 'compare-pair' }, section('Over seeds', this.groups, () => this.#saveGroups()), this.scatter.element),
      section('Settings that differ', this.settings, () => this.#saveSettings()));
    fill(root, h('div', { class: 'heading' }, h('h1', {}, 'Compare'), h('div', { class: 'actions' }, this.picker.element, h('a', { class: 'button quiet', href: '#/' }, 'Choose in the list'))), this.note, this.body);
    const onError = (error) => { setText(this.note, error.message); setConnection('lost'); };
    this.live = new Paced(EVERY, (stop) => this.#read(stop), onError, signal);
    this.update(query);
    follow(paths.changes, {
      on: { changed: ({ ids }) => { if (!ids || ids.some((id) => this.ids.includes(id))) this.live.soon(); } }, onState: setConnection, signal,
    });
  }

  update(query) {
    this.ids = [...new Set(query.getAll('job'))].slice(0, MOST_JOBS);
    this.chosen = query.has('series') ? query.getAll('series').filter(Boolean) : USUAL;
    const x = AXES.includes(query.get('x')) ? query.get('x') : AXES[0];
    // A part of one axis is none of another.
    if (x !== this.x) this.#view.zoom(null);
    this.x = x;
    this.seeds.checked = query.get('seeds') === '1';
    this.axis.value = this.x;
    const tooMany = query.getAll('job').length > MOST_JOBS ? ` These are the first ${MOST_JOBS}.` : '';
    this.body.hidden = this.ids.length === 0;
    this.hint = this.ids.length === 0 ? 'Add jobs here, or select them in the list, with the boxes or the key x, and choose “Compare”.' : tooMany;
    setText(this.note, this.ids.length ? 'Loading…' : this.hint);
    this.setTitle(this.ids.length ? `${this.ids.length} jobs · Compare` : 'Compare');
    this.live.now();
  }

  /** Another address of the same jobs, or of fewer. */
  #go({ ids = this.ids, chosen = this.chosen, x = this.x, seeds = this.seeds.checked }) {
    const parameters = new URLSearchParams(ids.map((id) => ['job', id]));
    if (chosen.join() !== USUAL.join()) for (const name of chosen.length ? chosen : ['']) parameters.append('series', name);
    if (x !== AXES[0]) parameters.set('x', x);
    if (seeds) parameters.set('seeds', '1');
    location.hash = `#/compare?${parameters}`;
  }

  async #findJobs(text, stop) {
    if (this.ids.length >= MOST_JOBS) throw new Error(`There are ${MOST_JOBS} jobs already, which is as many as can be told apart.`);
    const { data } = await api.summaries({ q: text, limit: 50 }, stop);
    return data.filter(({ id }) => !this.ids.includes(id)).map((job) => ({
      value: job.id, text: job.name, note: `${job.method} · ${pairOf(job)} · seed ${job.seed} · ${Number.isFinite(job.best_top1) ? percent(job.best_top1) : job.status}`,
    }));
  }

  async #read(stop) {
    const wanted = [...this.chosen];
    if (this.#architectures.size === 0) {
      const [architectures, datasets] = await Promise.all([api.architectures(stop), api.datasets(stop)]);
      this.#classes = new Map(datasets.data.map(({ name, classes }) => [name, classes]));
      this.#architectures = new Map(architectures.data.map((one) => [one.name, one]));
    }
    const missing = [];
    await Promise.all(this.ids.map(async (id) => {
      try {
        await this.#readJob(id, wanted, stop);
      } catch (error) {
        if (![400, 404].includes(error.status)) throw error;
        missing.push(id);
        this.#known.delete(id);
      }
    }));
    this.#missing = missing;
    this.#show();
  }

  /** What has ended is asked for once. */
  async #readJob(id, wanted, stop) {
    const known = this.#known.get(id);
    const isOver = known && ['succeeded', 'failed', 'cancelled'].includes(known.job.status);
    const job = isOver ? known.job : await api.job(id, stop);
    const names = isOver ? known.names : (await api.metrics(id, { maxPoints: 4 }, stop)).series.map(({ name }) => name);
    const series = new Map(isOver ? known.series : []);
    const lacking = wanted.filter((name) => names.includes(name) && !series.has(name));
    if (lacking.length > 0) {
      const answer = await api.metrics(id, { name: lacking, maxPoints: MOST_POINTS }, stop);
      for (const { name, points } of answer.series) series.set(name, points);
    }
    this.#known.set(id, { job, names, series });
  }

  get #found() {
    return this.ids.flatMap((id) => this.#known.get(id) ?? []);
  }

  #show() {
    const found = this.#found;
    const jobs = found.map(({ job }) => job);
    const gone = this.#missing.length ? `${this.#missing.length} of these jobs ${this.#missing.length === 1 ? 'does' : 'do'} not exist: ${this.#missing.join(', ')}. ` : '';
    setText(this.note, gone + this.hint);
    const groups = groupBySeed(jobs);
    this.lines = this.seeds.checked ? this.#meanLines(groups) : this.#jobLines(found);
    this.#showJobs(jobs, groups);
    this.#showSeries(found);
    this.#showCharts();
    this.#showGroups(groups);
    this.#showSettings(jobs);
    this.scatter.show(this.#scatterPoints(groups, jobs));
  }

  /** A line per job: `{label, colour, dash, curve(name)}`. */
  #jobLines(found) {
    const names = found.map(({ job }) => job.name);
    // Jobs often have the name of their networks only.
    const isUnique = (name) => names.indexOf(name) === names.lastIndexOf(name);
    const short = ({ name, spec }) => (isUnique(name) ? name : `${spec.distillation.method} · seed ${spec.training.seed}`);
    return found.map(({ job, series }, index) => ({
      label: isUnique(job.name) ? job.name : `${job.name} · ${short(job)}`, short: short(job),
      colour: () => lineColour(index), dash: lineDash(index), curve: (name) => this.#curve(job, series.get(name) ?? []),
    }));
  }

  #meanLines(groups) {
    const labels = groupNames(groups);
    return groups.map((jobs, index) => ({
      label: `${labels[index]} (${jobs.length === 1 ? '1 seed' : `${jobs.length} seeds`})`, colour: () => lineColour(index), dash: lineDash(index),
      curve: (name) => {
        const curves = jobs.map((job) => this.#curve(job, this.#known.get(job.id).series.get(name) ?? [])).map(({ xs, ys }) => [xs, ys]);
        const { xs, mean, low, high } = meanCurve(curves);
        return jobs.length > 1 ? { xs, ys: mean, low, high } : { xs, ys: mean };
      },
    }));
  }

  #curve(job, points) {
    const start = Date.parse(job.started_at);
    const x = { epoch: (point) => point.epoch, step: (point) => point.step, time: (point) => (Date.parse(point.time) - start) / 3_600_000 }[this.x];
    // An attempt that resumed goes back in nothing but time.
    const pairs = points.map((point) => [x(point), point.value]).sort(([one], [other]) => one - other);
    const distinct = pairs.filter(([at], index) => index === 0 || at > pairs[index - 1][0]);
    return { xs: distinct.map(([at]) => at), ys: distinct.map(([, value]) => value) };
  }

  #showJobs(jobs, groups) {
    const rows = jobs.map((job, index) => {
      const { teacher, student } = pairing(job.spec);
      const swatch = h('span', { class: 'swatch', 'aria-hidden': 'true' });
      styleSwatch(swatch, this.seeds.checked ? groups.findIndex((group) => group.includes(job)) : index);
      const badge = statusBadge();
      badge.update(job.status);
      const best = bestOf(job, this.#known.get(job.id).series);
      return h('tr', { 'data-id': job.id },
        h('td', {}, swatch), h('th', { scope: 'row' }, h('a', { href: `#/jobs/${encodeURIComponent(job.id)}` }, job.name)),
        h('td', {}, badge.element), h('td', { class: 'method' }, job.spec.distillation.method), h('td', {}, teacher ? `${teacher} → ${student}` : student),
        h('td', { class: 'number' }, String(job.spec.training.seed)), h('td', { class: 'number' }, percent(best)),
        h('td', { class: 'number' }, percent(job.result?.teacher_top1 ?? job.teacher?.top1)),
        h('td', { class: 'number' }, count(this.#size(job))),
        h('td', {}, h('button', { type: 'button', class: 'quiet copy', 'aria-label': `Leave out ${job.name}`, onclick: () => this.#go({ ids: this.ids.filter((id) => id !== job.id) }) }, '×')));
    });
    const heads = ['', 'Name', 'Status', 'Method', 'Teacher → student', 'Seed', 'Best top-1', 'Teacher’s', 'Parameters', ''];
    fill(this.jobs, h('table', {}, h('thead', {}, h('tr', {}, heads.map((name, index) => h(name ? 'th' : 'td', { scope: name ? 'col' : null, class: index > 4 && index < 9 ? 'number' : null }, name)))), h('tbody', {}, rows)));
  }

  #size({ result, spec }) {
    return result?.student?.parameters ?? this.#parametersOf(spec.student.architecture, spec.dataset.name);
  }

  /** The server says how many there are with 100 classes; a class more or less is a row of the classifier and its bias. */
  #parametersOf(architecture, dataset) {
    const { parameters, feature_map_channels: channels } = this.#architectures.get(architecture) ?? {};
    return parameters + ((this.#classes.get(dataset) ?? 100) - 100) * (channels + 1);
  }

  /** Boxes for the series that any of the jobs has; those that all have come first. */
  #showSeries(found) {
    const counts = new Map();
    for (const { names } of found) for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
    for (const name of this.chosen) if (!counts.has(name)) counts.set(name, 0);
    const names = [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one) || (one < other ? -1 : 1));
    const key = `${names.join()} ${this.chosen.join()}`;
    if (this.series.dataset.key === key) return;
    this.series.dataset.key = key;
    fill(this.series, h('legend', {}, 'Series'), names.map((name) => h('label', { class: 'check' },
      h('input', {
        type: 'checkbox', value: name, checked: this.chosen.includes(name),
        onchange: (event) => this.#go({ chosen: event.target.checked ? [...this.chosen, name] : this.chosen.filter((other) => other !== name) }),
      }), h('span', {}, name, counts.get(name) < found.length ? ` (${counts.get(name)} of ${found.length})` : ''))));
  }

  #showCharts() {
    for (const [name, { chart, leaving }] of this.#charts) {
      if (this.chosen.includes(name)) continue;
      leaving.abort();
      chart.element.remove();
      this.#charts.delete(name);
    }
    for (const name of this.chosen) {
      if (!this.#charts.has(name)) {
        const leaving = new AbortController();
        const chart = new OverlayChart(name, { view: this.#view, signal: AbortSignal.any([leaving.signal, this.signal]) });
        this.charts.append(chart.element);
        this.#charts.set(name, { chart, leaving });
      }
      this.#charts.get(name).chart.show(this.lines.map(({ curve, ...line }) => ({ ...line, ...curve(name) })), this.x === 'time' ? 'hours' : this.x);
    }
  }

  #groupRows(groups) {
    const names = groupNames(groups);
    return groups.map((jobs, index) => {
      const best = statistics(jobs.map((job) => bestOf(job, this.#known.get(job.id).series)));
      const last = statistics(jobs.map((job) => job.result?.last_top1));
      return { name: names[index], seeds: jobs.map((job) => job.spec.training.seed), best, last };
    });
  }

  #showGroups(groups) {
    const spread = ({ mean, deviation, count: of }) => (of === 0 ? '–' : deviation === null ? percent(mean) : `${percent(mean).replace(' %', '')} ± ${deviation.toFixed(2)} %`);
    fill(this.groups, h('table', {}, h('thead', {}, h('tr', {}, ['Jobs that differ in their seed only', 'Seeds', 'Best top-1', 'Last top-1'].map((name, index) => h('th', { scope: 'col', class: index > 1 ? 'number' : null }, name)))),
      h('tbody', {}, this.#groupRows(groups).map(({ name, seeds, best, last }) => h('tr', {},
        h('th', { scope: 'row' }, name), h('td', {}, seeds.join(', ')), h('td', { class: 'number' }, spread(best)), h('td', { class: 'number' }, spread(last)))))));
  }

  #showSettings(jobs) {
    const rows = differences(jobs.map((job) => job.spec));
    fill(this.settings, rows.length === 0 ? h('p', { class: 'note' }, jobs.length > 1 ? 'None: these jobs have the same settings.' : 'Choose more jobs to compare.')
      : h('table', { class: 'settings' }, h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Setting'), jobs.map((job) => h('th', { scope: 'col', title: job.id }, job.name)))),
        h('tbody', {}, rows.map(({ path, values }) => h('tr', {}, h('th', { scope: 'row' }, h('code', {}, path)), values.map((value) => h('td', {}, settingText(value))))))));
  }

  #scatterPoints(groups, jobs) {
    const names = groupNames(groups);
    const one = (job, label, index) => ({ label, parameters: this.#size(job), top1: bestOf(job, this.#known.get(job.id).series), colour: lineColour(index) });
    const students = this.seeds.checked
      ? groups.map((group, index) => {
        const { mean, deviation } = statistics(group.map((job) => bestOf(job, this.#known.get(job.id).series)));
        return { ...one(group[0], names[index], index), top1: mean, deviation };
      })
      : jobs.map((job, index) => one(job, this.lines[index].short, index));
    const teachers = new Map();
    for (const job of jobs) {
      const { teacher } = job.spec;
      const top1 = job.result?.teacher_top1 ?? job.teacher?.top1;
      if (teacher) teachers.set(`${teacher.checkpoint ?? teacher.job} ${top1}`, { label: `${teacher.architecture} (teacher)`, parameters: this.#parametersOf(teacher.architecture, job.spec.dataset.name), top1, isTeacher: true });
    }
    return [...students, ...teachers.values()];
  }

  #saveSettings() {
    const jobs = this.#found.map(({ job }) => job);
    const row = (name, value) => [name, ...jobs.map(value)];
    save('settings.csv', 'text/csv', csv([
      row('setting', (job) => job.name), row('id', (job) => job.id), row('best_top1', (job) => bestOf(job, this.#known.get(job.id).series)),
      ...differences(jobs.map((job) => job.spec)).map(({ path, values }) => [path, ...values.map((value) => (value === undefined ? '' : settingText(value)))]),
    ]));
  }

  #saveGroups() {
    const rows = this.#groupRows(groupBySeed(this.#found.map(({ job }) => job)));
    save('seeds.csv', 'text/csv', csv([['jobs', 'seeds', 'best_top1_mean', 'best_top1_deviation', 'last_top1_mean', 'last_top1_deviation'],
      ...rows.map(({ name, seeds, best, last }) => [name, seeds.join(' '), best.mean, best.deviation, last.mean, last.deviation])]));
  }
}

/** The best top-1 accuracy of a job up to now, where it is known. */
function bestOf(job, series) {
  const values = (series.get('eval/top1') ?? []).map(({ value }) => value);
  return job.result?.best_top1 ?? (values.length ? Math.max(...values) : undefined);
}

function section(title, content, onSave) {
  return h('section', { class: 'card', 'aria-label': title },
    h('div', { class: 'card-head' }, h('h2', {}, title), onSave ? h('button', { type: 'button', class: 'quiet copy', title: 'This table as a file', onclick: onSave }, 'CSV') : null),
    h('div', { class: 'table-scroll', tabindex: '0', role: 'region', 'aria-label': `${title}, table` }, content));
}
