// The tables of the comparison, on the page and as CSV.

import { lineColour, styleSwatch } from '../charts/theme.js';
import { h, statusBadge } from '../ui/dom.js';
import { count, isNumber, pairOf, pairing, percent } from '../ui/format.js';
import { costsOf } from './costs.js';
import { differences, runsText, settingText, statistics, withoutCopies } from './data.js';
import { teacherTop1 } from './jobs.js';

/** @import { ComparedJobs, Job } from './jobs.js' */
/** @import { Statistics } from './data.js' */
/** @typedef {{ name: string, runs: string, seeds: number[], best: Statistics, last: Statistics }} GroupRow */

/**
 * @param {[name: string, isNumeric: boolean][]} columns
 * @param {HTMLElement[]} rows
 * @param {string} [kind] class of the table
 */
function table(columns, rows, kind) {
  const head = columns.map(([name, isNumeric]) => h(name ? 'th' : 'td', { scope: name ? 'col' : null, class: isNumeric ? 'number' : null }, name));
  return h('table', { class: kind }, h('thead', {}, h('tr', {}, head)), h('tbody', {}, rows));
}

const numberCell = (/** @type {string} */ text) => h('td', { class: 'number' }, text);

/**
 * @param {ComparedJobs} compared
 * @param {Job[]} jobs
 * @param {(job: Job) => number} lineOf number of a job's line in the charts
 * @param {(id: string) => void} onRemove
 */
export function jobsTable(compared, jobs, lineOf, onRemove) {
  const rows = jobs.map((job) => {
    const swatch = h('span', { class: 'swatch', 'aria-hidden': 'true' });
    styleSwatch(swatch, lineOf(job));
    const badge = statusBadge();
    badge.update(job.status);
    return h('tr', { 'data-id': job.id },
      h('td', {}, swatch),
      h('th', { scope: 'row' }, h('a', { href: `#/jobs/${encodeURIComponent(job.id)}` }, job.name)),
      h('td', {}, badge.element),
      h('td', { class: 'method' }, job.spec.distillation.method),
      h('td', {}, pairOf(pairing(job))),
      numberCell(String(job.spec.training.seed)),
      numberCell(percent(compared.best(job))),
      numberCell(percent(teacherTop1(job))),
      numberCell(count(compared.size(job))),
      h('td', {}, h('button', { type: 'button', class: 'quiet copy', 'aria-label': `Remove ${job.name}`, onclick: () => onRemove(job.id) }, '×')));
  });
  return table([['', false], ['Name', false], ['Status', false], ['Method', false], ['Teacher → student', false],
    ['Seed', true], ['Best top-1', true], ['Teacher top-1', true], ['Parameters', true], ['', false]], rows);
}

/**
 * Accuracies over the seeds of each group.
 * @param {ComparedJobs} compared
 * @param {Job[][]} groups
 * @param {string[]} names of the groups
 * @returns {GroupRow[]}
 */
export function groupRows(compared, groups, names) {
  return groups.map((jobs, index) => {
    const runs = withoutCopies(jobs);
    return {
      name: names[index],
      runs: runsText(jobs),
      seeds: [...new Set(runs.map((job) => job.spec.training.seed))],
      best: statistics(runs.map((job) => compared.best(job))),
      last: statistics(runs.map((job) => job.result?.last_top1)),
    };
  });
}

/** @param {GroupRow[]} rows */
export function groupsTable(rows) {
  return table([['Jobs that differ only in their seed', false], ['Seeds', false], ['Best top-1', true], ['Last top-1', true]],
    rows.map(({ name, runs, seeds, best, last }) => h('tr', {},
      h('th', { scope: 'row' }, name), h('td', {}, seeds.join(', '), / of | not /.test(runs) ? h('small', {}, ` ${runs}`) : null), numberCell(spread(best)), numberCell(spread(last)))));
}

/** @param {Statistics} statistics */
function spread({ mean, deviation }) {
  return isNumber(mean) && isNumber(deviation) ? `${mean.toFixed(2)} ± ${deviation.toFixed(2)} %` : percent(mean);
}

/** @param {GroupRow[]} rows */
export function groupsCsv(rows) {
  return [['jobs', 'seeds', 'best_top1_mean', 'best_top1_deviation', 'last_top1_mean', 'last_top1_deviation', 'runs'],
    ...rows.map(({ name, runs, seeds, best, last }) => [name, seeds.join(' '), best.mean, best.deviation, last.mean, last.deviation, runs])];
}

/** @param {Job[]} jobs */
export function settingsTable(jobs) {
  const settings = differences(jobs.map((job) => job.spec));
  if (settings.length === 0) return h('p', { class: 'note' }, jobs.length > 1 ? 'These jobs have the same settings.' : 'Add more jobs to compare.');
  return h('table', { class: 'settings' },
    h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Setting'), jobs.map((job) => h('th', { scope: 'col', title: job.id }, job.name)))),
    h('tbody', {}, settings.map(({ path, values }) => h('tr', {},
      h('th', { scope: 'row' }, h('code', {}, path)), values.map((value) => h('td', {}, settingText(value)))))));
}

/**
 * @param {ComparedJobs} compared
 * @param {Job[]} jobs
 */
export function settingsCsv(compared, jobs) {
  return [
    ['setting', ...jobs.map((job) => job.name)],
    ['id', ...jobs.map((job) => job.id)],
    ['best_top1', ...jobs.map((job) => compared.best(job))],
    ...differences(jobs.map((job) => job.spec)).map(({ path, values }) => [path, ...values.map((value) => (value === undefined ? '' : settingText(value)))]),
  ];
}

/**
 * Points of the scatter plot: the jobs or, with `names`, their groups; and each teacher once.
 * @param {ComparedJobs} compared
 * @param {Job[][]} groups
 * @param {string[]} names
 * @param {boolean} isGrouped
 */
export function scatterPoints(compared, groups, names, isGrouped) {
  const students = groups.map((jobs, index) => {
    const { mean, deviation } = statistics(withoutCopies(jobs).map((job) => compared.best(job)));
    const costs = costsOf(jobs.find((job) => job.student_latency?.latency) ?? jobs[0], compared.size(jobs[0]));
    const cpu = jobs.flatMap((job) => job.student_latency?.latency?.cpu ?? [])[0];
    return { label: names[index], costs, cpu, top1: mean, deviation: isGrouped ? deviation : undefined, colour: lineColour(index) };
  });
  const teachers = new Map();
  for (const job of groups.flat()) {
    const { teacher } = job.spec;
    const top1 = teacherTop1(job);
    if (teacher) {
      teachers.set(`${teacher.checkpoint ?? teacher.job} ${top1}`, {
        label: `${pairing(job).teacher} (teacher)`, costs: { parameters: compared.teacherSize(job) }, top1, isTeacher: true,
      });
    }
  }
  return [...students, ...teachers.values()];
}
