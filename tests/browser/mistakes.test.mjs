// What a real student gets wrong: matrices, classes, and images with what the networks see in their regions.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { cellValue, classDifference, classMeans, f1Of, matrixClasses, precisionOf, regionsOf, sortedClasses, takenFor, topMistakes } from '../../static/js/mistakes/data.js';
import { assertAccessible, assertFits, closeDashboard, onEveryScreen, openDashboard } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const server = new Server();
const dataset = { name: 'digits', limit: 320 };
const training = { epochs: 1, batch_size: 32, seed: 1, augmentation: 'none' };
let browser;
let page;
/** Ids of jobs. */
let teacher;
let student;
/** What the API says of the student. */
let summary;

before(async () => {
  ({ browser, page } = await openDashboard(server));
  teacher = (await server.post('/v1/jobs', { name: 'alone', student: { architecture: 'resnet8' }, dataset, distillation: { method: 'none' }, training: { ...training, epochs: 3 } })).id;
  student = (await server.post('/v1/jobs', {
    name: 'taught', teacher: { job: teacher }, student: { architecture: 'resnet8' }, dataset, distillation: { method: 'sdd_kd', scales: [1, 2, 4] }, training,
  })).id;
  await server.succeeded(student);
  summary = await server.get(`/v1/jobs/${student}/predictions/summary`);
}, { timeout: PATIENCE });

after(() => closeDashboard(server, browser));

const region = (name) => page.getByRole('region', { name, exact: true });
const predictions = (query) => server.get(`/v1/jobs/${student}/predictions?${query}`);
const nameOf = (number) => summary.classes[number].name ?? `class ${number}`;

const row = (number, images, of = {}) => ({ class: number, name: null, images, student: null, teacher: null, agreement: null, ...of });

test('classes are sorted by any column, and what has no value comes last', () => {
  const rows = [row(0, 5, { student: 80, teacher: 90 }), row(1, 0), row(2, 7, { student: 60, teacher: 50 })];
  const order = (column, isDescending) => sortedClasses(rows, column, isDescending).map((one) => one.class);
  assert.deepEqual([order('class', false), order('images', true), order('student', false), order('student', true)], [[0, 1, 2], [2, 0, 1], [2, 0, 1], [0, 2, 1]]);
  assert.deepEqual([order('difference', true), order('difference', false)], [[2, 0, 1], [0, 2, 1]]);
  assert.deepEqual(rows.map(classDifference), [-10, null, 10]);
});

test('precision, F1 and the means over the classes are those of scikit-learn', () => {
  // Labels 0 0 0 0 1 1 2, predictions 0 0 0 1 1 3 0, of five classes.
  const classes = [row(0, 4, { student: 75, student_predicted: 4 }), row(1, 2, { student: 50, student_predicted: 2 }), row(2, 1, { student: 0, student_predicted: 0 }),
    row(3, 0, { student_predicted: 1 }), row(4, 0, { student_predicted: 0 })];
  assert.deepEqual(classes.map(precisionOf), [75, 50, null, 0, null]);
  assert.deepEqual(classes.map(f1Of), [75, 50, 0, 0, null]);
  assert.deepEqual(classMeans({ classes }), { student: 125 / 3, teacher: null, f1: 125 / 4 });
  assert.deepEqual(sortedClasses(classes, 'f1', true).map((one) => one.class), [0, 1, 2, 3, 4]);
  assert.deepEqual(sortedClasses(classes, 'precision', false).map((one) => one.class), [3, 1, 0, 2, 4]);
});

test('of many classes the matrix has those that are confused most often', () => {
  const classes = Array.from({ length: 100 }, (_, number) => row(number, 1));
  const cells = [{ label: 90, predicted: 7, student: 3, teacher: 2 }, { label: 5, predicted: 5, student: 50, teacher: 50 }, { label: 8, predicted: 90, student: 0, teacher: 1 }];
  const shown = matrixClasses({ classes, cells }).map((one) => one.class);
  assert.equal(shown.length, 20);
  assert.deepEqual(shown.filter((number) => [7, 8, 90].includes(number)), [7, 8, 90]);
  assert.deepEqual(shown, shown.toSorted((one, other) => one - other));
  assert.equal(matrixClasses({ classes: classes.slice(0, 20), cells }).length, 20);
});

test('cells, the most frequent mistakes and what a class is taken for come from the counts', () => {
  const cells = [{ label: 0, predicted: 0, student: 9, teacher: 9 }, { label: 0, predicted: 1, student: 2, teacher: 5 }, { label: 0, predicted: 2, student: 3, teacher: 0 }];
  assert.deepEqual(['student', 'teacher', 'difference'].map((matrix) => cellValue(cells[1], matrix)), [2, 5, -3]);
  assert.equal(cellValue(undefined, 'student'), 0);
  const pairs = (matrix) => topMistakes({ cells }, matrix, 10).map(({ predicted, value }) => [predicted, value]);
  assert.deepEqual([pairs('student'), pairs('teacher'), pairs('difference')], [[[2, 3], [1, 2]], [[1, 5]], [[2, 3]]]);
  assert.equal(takenFor({ cells }).get(0).predicted, 2);
  assert.deepEqual([regionsOf([1, 2, 4], 1), regionsOf([1, 2, 4], 4), regionsOf([2, 4], 4)], [{ first: 0, count: 1 }, { first: 5, count: 16 }, { first: 4, count: 16 }]);
});

test('the page of a job leads to what its student gets wrong', async () => {
  await page.goto(`${server.url}/#/jobs/${student}`);
  await page.getByRole('link', { name: 'What it gets wrong' }).click();
  await page.getByRole('heading', { name: 'What the student gets wrong' }).waitFor();
  await region('In short').getByText(`on the ${summary.images.toLocaleString('en-US')} images of the split ${summary.split}`).waitFor();
  const tile = (name) => region('In short').locator('.tiles > div').filter({ has: page.getByText(name, { exact: true }) }).locator('dd').allTextContents();
  const part = (images) => [images.toLocaleString('en-US'), `${((100 * images) / summary.images).toFixed(1)} %`];
  assert.deepEqual(await tile('Student wrong, teacher right'), part(summary.outcomes.student_wrong));
  assert.deepEqual(await tile('Both wrong'), part(summary.outcomes.both_wrong));
  assert.deepEqual(await tile('Same prediction'), [`${summary.agreement.toFixed(1)} %`, '']);
  const [error, taught] = [summary.student, summary.teacher].map(({ calibration }) => calibration.ece.toFixed(1));
  assert.deepEqual(await tile('Calibration error'), [error, `percentage points, teacher ${taught}`]);
  page.assertQuiet();
});

test('each matrix has the numbers of the report', async () => {
  const confusion = region('Confusion');
  for (const [title, value] of [['Student', (cell) => cell.student], ['Teacher', (cell) => cell.teacher], ['Difference', (cell) => cell.student - cell.teacher]]) {
    await confusion.getByRole('radio', { name: title, exact: true }).check();
    await confusion.locator(`[data-matrix="${title.toLowerCase()}"]`).waitFor();
    const shown = (await confusion.locator('.confusion-cell').allTextContents()).map((text) => Number(text.replaceAll(',', '')));
    const expected = summary.cells.map(value).filter((number) => number !== 0);
    assert.deepEqual(shown, expected, title);
  }
  await confusion.getByRole('radio', { name: 'Student', exact: true }).check();
  page.assertQuiet();
});

test('a cell of the matrix shows its images', async () => {
  const cell = summary.cells.filter(({ label, predicted }) => label !== predicted).reduce((most, one) => (one.student > most.student ? one : most));
  const title = `${nameOf(cell.label)} predicted as ${nameOf(cell.predicted)}: ${cell.student.toLocaleString('en-US')} images of the student`;
  await region('Confusion').getByRole('button', { name: title, exact: true }).click();
  const found = await predictions(`label=${cell.label}&predicted=${cell.predicted}&pictured=true&limit=24`);
  assert.equal(found.images, cell.student);
  await region('Images').getByText(`${found.images === 1 ? '1 image' : `${found.images} images`} of the split`).waitFor();
  const captions = await region('Images').locator('.predictions figcaption').allTextContents();
  assert.equal(captions.length, found.data.length);
  assert.ok(captions.every((text) => text.includes(`✗ student: ${nameOf(cell.predicted)}`)), captions.join('\n'));
  page.assertQuiet();
});

test('the regions of the images show each network’s predictions and which are complementary', async () => {
  const images = region('Images');
  await images.getByLabel('Label').selectOption('');
  await images.getByLabel('Student predicts').selectOption('');
  await images.getByLabel('Who is wrong').selectOption('both_wrong');
  const { data, scales } = await predictions('outcome=both_wrong&pictured=true&limit=24');
  assert.ok(data.length > 0, 'both get something wrong');
  await images.locator('.predictions li').nth(data.length - 1).waitFor();
  assert.deepEqual(await images.getByLabel('Regions').locator('option').allTextContents(), ['none', '2×2', '4×4']);
  for (const [scale, first] of [[2, 1], [4, 5]]) {
    await images.getByLabel('Regions').selectOption(String(scale));
    assert.equal(await images.locator('.vote').count(), data.length * scale ** 2);
    const expected = data.flatMap(({ regions }) => regions.complementary.slice(first, first + scale ** 2)).filter(Boolean).length;
    assert.equal(await images.locator('.vote[data-complementary]').count(), expected, `${scale}`);
  }
  assert.deepEqual(scales, [1, 2, 4]);
  await images.getByLabel('Regions').selectOption('2');
  for (const network of ['teacher', 'student']) {
    await images.getByLabel('Predictions for them').selectOption(network);
    const names = await images.locator('.predictions li').first().locator('.vote-name').allTextContents();
    assert.deepEqual(names, data[0].regions[network].slice(1, 5).map(nameOf), network);
  }
  await images.getByLabel('Regions').selectOption('0');
  assert.equal(await images.locator('.vote').count(), 0);
  page.assertQuiet();
});

test('the classes can be sorted, and a class shows its mistakes', async () => {
  const classes = region('Classes');
  await classes.getByRole('button', { name: /^Student/ }).click();
  await classes.locator('th[aria-sort="descending"]').getByText('Student').waitFor();
  const shown = await classes.locator('tbody th').allTextContents();
  assert.deepEqual(shown, sortedClasses(summary.classes, 'student', true).map((one) => nameOf(one.class)));
  const known = JSON.parse(await (await fetch(`${server.url}/v1/jobs/${student}/artifacts/classes.json`)).text());
  const f1 = Object.fromEntries(known.map((one) => [one.name ?? `class ${one.class}`, `${one.f1.toFixed(1)} %`]));
  for (const [name, value] of Object.entries(f1)) await classes.getByRole('row', { name: new RegExp(`^${name} .* ${value.replace('.', '\\.')} [^%]*$`) }).waitFor();
  const worst = sortedClasses(summary.classes, 'student', false)[0];
  await classes.getByRole('button', { name: nameOf(worst.class), exact: true }).click();
  assert.equal(await region('Images').getByLabel('Label').inputValue(), String(worst.class));
  const found = await predictions(`outcome=student_wrong&label=${worst.class}&pictured=true`);
  await region('Images').getByText(`${found.images === 1 ? '1 image' : `${found.images} images`} of the split`).waitFor();
  page.assertQuiet();
});

test('a student without a teacher has a page of its own mistakes', async () => {
  await page.goto(`${server.url}/#/jobs/${teacher}/mistakes`);
  await region('In short').getByText('Wrong', { exact: true }).waitFor();
  assert.equal(await region('Confusion').getByRole('radio').count(), 0);
  assert.equal(await page.getByLabel('Teacher predicts').count(), 0);
  page.assertQuiet();
});

test('a job that has not succeeded says that it has none', async () => {
  const { id } = await server.post('/v1/jobs', { student: { architecture: 'resnet8' }, dataset, distillation: { method: 'none' }, training: { ...training, epochs: 100_000 } });
  await server.post(`/v1/jobs/${id}/cancel`, {});
  await server.until(id, ({ status }) => status === 'cancelled');
  await page.goto(`${server.url}/#/jobs/${id}/mistakes`);
  await page.getByText('This job is cancelled, so it has no student.').waitFor();
  page.assertQuiet();
});

test('the page fits every screen and axe-core finds no faults', async () => {
  await onEveryScreen(browser, async (page) => {
    await page.goto(`${server.url}/#/jobs/${student}/mistakes`);
    await page.locator('.predictions li').first().waitFor();
    await page.locator('.calibration summary').click();
    await assertFits(page);
    await assertAccessible(page);
  });
});
