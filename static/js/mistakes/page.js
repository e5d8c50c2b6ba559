// What a job's student gets wrong: how often, which classes, and which images.

import { api, paths } from '../api/client.js';
import { commandLine, curl, learnAboutTokens } from '../ui/commands.js';
import { fill, h, setStyle } from '../ui/dom.js';
import { percent, whole } from '../ui/format.js';
import { scrollBox, section } from '../ui/section.js';
import { isFinal } from '../ui/status.js';
import { ClassTable } from './classes.js';
import { classMeans } from './data.js';
import { Gallery } from './gallery.js';
import { ConfusionMatrix } from './matrix.js';

/** @import { Report } from './data.js' */

/** @param {PageContext} context */
export async function mistakesPage({ root, id = '', signal, setTitle }) {
  fill(root, h('p', { class: 'note', role: 'status' }, 'Loading…'));
  try {
    const [job] = await Promise.all([api.job(id, signal), learnAboutTokens(signal)]);
    if (signal.aborted) return;
    setTitle(`Mistakes · ${job.name}`);
    const body = h('div', { class: 'mistakes' });
    fill(root, h('p', { class: 'crumb' }, h('a', { href: `#/jobs/${encodeURIComponent(id)}` }, job.name)),
      h('h1', {}, 'What the student gets wrong'), body);
    await show(body, job, signal);
  } catch (error) {
    if (signal.aborted) return;
    fill(root, h('h1', {}, error.status === 404 ? 'Job not found' : 'The predictions cannot be shown'),
      h('p', {}, error.message), h('p', {}, h('a', { href: '#/' }, 'All jobs')));
  }
}

/**
 * @param {HTMLElement} body
 * @param {Schemas['JobDetails']} job
 * @param {AbortSignal} signal
 */
async function show(body, { id, status, result }, signal) {
  const { data } = await api.artifacts(id, signal);
  if (!data.some(({ name }) => name === 'predictions.json')) {
    const why = result ? 'This job has no predictions: an earlier version trained it, or its events say why they could not be written.'
      : isFinal(status) ? `This job is ${status}, so it has no student.` : `This job is ${status}: its predictions are there once it has succeeded.`;
    fill(body, h('p', { class: 'note' }, why));
    return;
  }
  const report = await api.predictionSummary(id, signal);
  const gallery = new Gallery(id, report, signal);
  const matrix = new ConfusionMatrix(report, (cell, of) => gallery.pickCell(cell, of));
  const classes = new ClassTable(report, (label) => gallery.pickClass(label));
  fill(body, section('In short', {}, figures(report), calibration(report)), matrix.element, gallery.element, classes.element,
    section('By curl', {}, commandLine(curl(paths.predictions(id, '/summary'))), commandLine(curl(paths.predictions(id, '?outcome=student_wrong&pictured=true')))));
  await gallery.show();
}

/** @param {Report} report */
function figures(report) {
  const { images, split, outcomes, agreement, student, teacher } = report;
  const means = classMeans(report);
  const part = (/** @type {number} */ count) => [whole(count), percent((100 * count) / Math.max(images, 1), 1)];
  const error = student.calibration.ece.toFixed(1);
  /** @type {[string, string[]][]} each with its value and a note below it */
  const tiles = teacher
    ? [['Both right', part(outcomes.right)], ['Student wrong, teacher right', part(outcomes.student_wrong)],
      ['Student right, teacher wrong', part(outcomes.teacher_wrong)], ['Both wrong', part(outcomes.both_wrong)],
      ['Same prediction', [percent(agreement, 1)]],
      ['Calibration error', [error, `percentage points, teacher ${teacher.calibration.ece.toFixed(1)}`]],
      ['Balanced accuracy', [percent(means.student, 1), `teacher ${percent(means.teacher, 1)}`]], ['Mean F1', [percent(means.f1, 1)]]]
    : [['Right', part(outcomes.right)], ['Wrong', part(outcomes.student_wrong)], ['Calibration error', [error, 'percentage points']],
      ['Balanced accuracy', [percent(means.student, 1)]], ['Mean F1', [percent(means.f1, 1)]]];
  return [
    h('p', { class: 'note' }, `The best student on the ${whole(images)} images of the split ${split}.`),
    h('dl', { class: 'tiles' }, tiles.map(([name, [value, note = '']]) =>
      h('div', {}, h('dt', {}, name), h('dd', {}, value), h('dd', { class: 'note' }, note)))),
  ];
}

/** @param {Report} report */
function calibration({ student, teacher }) {
  const networks = [{ name: 'Student', ...student.calibration }, ...(teacher ? [{ name: 'Teacher', ...teacher.calibration }] : [])];
  const row = (/** @type {number} */ place) => h('tr', {},
    h('th', { scope: 'row' }, `${place === 0 ? '0' : networks[0].bins[place - 1].up_to.toFixed(0)}–${networks[0].bins[place].up_to.toFixed(0)} %`),
    networks.map(({ bins }) => {
      const { images, confidence, accuracy } = bins[place];
      const bar = h('span', { class: 'accuracy-bar', 'aria-hidden': 'true' });
      setStyle(bar, '--share', ((accuracy ?? 0) / 100).toFixed(3));
      return [h('td', { class: 'number' }, whole(images)), h('td', { class: 'number' }, percent(confidence, 1)), h('td', { class: 'number' }, percent(accuracy, 1), bar)];
    }));
  const titles = networks.flatMap(({ name }) => [`${name}: images`, 'mean confidence', 'accuracy']);
  return h('details', { class: 'calibration' },
    h('summary', {}, `Calibration: ${networks.map(({ name, ece }) => `${name.toLowerCase()} ${ece.toFixed(2)}`).join(', ')} percentage points off`),
    h('p', { class: 'note' }, 'Images by the confidence of the prediction, in 15 bins. A calibrated network is right as often as it is confident. The expected calibration error is the mean distance of the two (Guo et al., ICML 2017).'),
    scrollBox('Calibration', {}, h('table', { class: 'data-table' },
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Confidence'), titles.map((title) => h('th', { scope: 'col', class: 'number' }, title)))),
      h('tbody', {}, networks[0].bins.map((_, place) => row(place))))));
}
