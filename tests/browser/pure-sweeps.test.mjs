// What the pages of sweeps compute: no browser is needed.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parseBounds, readBounds, sweepAddress } from '../../static/js/ui/bounds.js';
import { isWaiting, latencyOf, qualifyingText, sweepCosts, verdictOf } from '../../static/js/sweeps/costs.js';
import { combinationName, curveLines, doneShare, droppedCount, isDropped, jobsText, leftOutText, rungLines, spread, strategyText } from '../../static/js/sweeps/data.js';
import { estimateText, firstSweep } from '../../static/js/sweeps/new.js';
import { gainSign, isWithin, shortNames } from '../../static/js/ui/settings.js';

const AXES = ['/distillation/temperature', '/student'];
const result = (more = {}) => ({
  number: 1, settings: { '/distillation/temperature': 4, '/student': { architecture: 'resnet8' } }, rank: 1, top1: 76.3, deviation: 0.214, n: 3, copies: 0, best: 76.5,
  cost_seconds: 60, dropped_after: null, rungs: [], curve: [[1, 50], [2, 60]], jobs: [], ...more,
});

test('a combination is named by the last names of its axes, or by their pointers where these are the same', () => {
  assert.equal(combinationName(AXES, result()), 'temperature 4, student {"architecture":"resnet8"}');
  assert.deepEqual(shortNames(['/teacher/architecture', '/student/architecture', '/a~1b']), ['teacher/architecture', 'student/architecture', 'a/b']);
  assert.equal(combinationName(['/x'], result({ settings: { '/x': null } })), 'x default');
});

test('an accuracy has its deviation where there is one', () => {
  assert.deepEqual([spread(result()), spread({ top1: 76.3, deviation: null }), spread({ top1: null })], ['76.30 ± 0.21 %', '76.30 %', '–']);
});

test('what is left of a sweep follows from its jobs', () => {
  const jobs = [['succeeded', 1], ['cancelled', 0.2], ['running', 0.5], ['queued', null]].map(([status, fraction]) => ({ status, fraction }));
  assert.equal(doneShare([result({ jobs: jobs.slice(0, 2) }), result({ jobs: jobs.slice(2) })]), 0.625);
  assert.equal(doneShare([]), 0);
  assert.equal(jobsText({ queued: 2, succeeded: 1, running: 4, cancelled: 3 }, { type: 'grid' }), '4 running, 2 queued, 1 succeeded, 3 cancelled');
  assert.equal(jobsText({}, { type: 'grid' }), 'no jobs');
});

test('what halving dropped is told from what a person cancelled', () => {
  const halving = { type: 'halving', rungs: [2, 4, 8], keep: 0.5 };
  const jobs = [['cancelled', 0.25], ['cancelled', 0.25], ['cancelled', 0.1], ['cancelled', null], ['failed', 0.25]].map(([status, fraction]) => ({ status, fraction }));
  const dropped = result({ dropped_after: 2, jobs });
  assert.deepEqual(jobs.map((job) => isDropped(job, dropped, halving)), [true, true, false, false, false]);
  const kept = result({ jobs: [{ status: 'cancelled', fraction: 0.25 }] });
  assert.equal(droppedCount([dropped, kept], halving), 2);
  const counts = { succeeded: 6, cancelled: 5 };
  assert.equal(jobsText(counts, halving, 2), '6 succeeded, 2 dropped, 3 cancelled');
  assert.equal(jobsText(counts, halving, 5), '6 succeeded, 5 dropped');
  assert.equal(jobsText(counts, halving, 0), '6 succeeded, 5 cancelled');
  assert.equal(jobsText(counts, halving), '6 succeeded, 5 dropped or cancelled', 'the list does not know');
});

test('a strategy is one phrase', () => {
  assert.equal(strategyText({ type: 'halving', rungs: [5, 15, 60], keep: 0.33 }), 'halving after 5, 15, 60 epochs, 33 % kept');
  assert.equal(strategyText({ type: 'random', jobs: 20, seed: 0 }), 'random, at most 20 jobs');
  assert.equal(strategyText({ type: 'grid' }), 'grid');
  assert.equal(strategyText({ type: 'unknown' }), 'unknown');
});

test('curves are of the best combinations, and rungs have a band', () => {
  const many = Array.from({ length: 20 }, (_, index) => result({ number: index + 1 }));
  const lines = curveLines(AXES, many);
  assert.equal(lines.length, 12);
  assert.equal(leftOutText(many.length), 'The charts show the best 12 of 20 combinations. The table and its CSV have the others.');
  assert.equal(leftOutText(lines.length), '');
  assert.deepEqual([lines[0].xs, lines[0].ys], [[1, 2], [50, 60]]);
  const rungs = [{ epochs: 5, top1: 50, deviation: 1, jobs: 3, kept: true }, { epochs: 15, top1: null, deviation: null, jobs: 0, kept: false }];
  const [line] = rungLines(AXES, [result(), result({ rungs, dropped_after: 15 })]);
  assert.deepEqual([line.xs, line.ys, line.low, line.high], [[5], [50], [49], [51]]);
  assert.match(line.label, /dropped after 15$/);
});

test('a gain within the deviation of its baseline is neither good nor bad', () => {
  assert.deepEqual([gainSign(0.5, 0.2), gainSign(-0.5, 0.2), gainSign(0.2, 0.2), gainSign(-0.1, 0.2), gainSign(0.1, null), gainSign(0.001, null)], [1, -1, 0, 0, 1, 0]);
  assert.deepEqual([isWithin(0.1, 0.2), isWithin(null, 0.2), isWithin(0.1, null)], [true, false, false]);
});

test('a sweep begins with what a job most often varies', () => {
  const distilled = { name: 'a', teacher: { job: 'job_1' }, student: {} };
  assert.deepEqual(firstSweep(distilled), { name: 'a', base: { teacher: { job: 'job_1' }, student: {} }, axes: { '/distillation/temperature': [2, 4, 8] }, seeds: 3, strategy: { type: 'grid' } });
  assert.deepEqual(firstSweep({ training: { optimizer: { learning_rate: 0.3 } } }).axes, { '/training/optimizer/learning_rate': [0.3, 0.1] });
});

test('an estimate is one line', () => {
  const dryRun = { jobs: 36, seeds: 3, combinations: Array(12).fill({}), trained_part: 0.425, device_hours: 1.5, device: 'cpu', memory: { total_bytes: 1 << 20 } };
  assert.equal(estimateText(dryRun), '36 jobs: 12 combinations × 3 seeds · 42 % of their epochs are trained · about 1 h 30 min on one cpu · about 1 MiB of memory');
  assert.match(estimateText({ ...dryRun, trained_part: 1, device_hours: null }), /× 3 seeds · no estimate of the time/);
  const judged = (...verdicts) => estimateText({ ...dryRun, combinations: verdicts.map((qualifies) => ({ qualification: { qualifies } })) });
  assert.match(judged(true, false, false), / of memory · 1 of 3 students can qualify$/);
  assert.match(judged(true, null, false), /1 of 3 students can qualify, and 1 may$/);
});

test('constraints are positive numbers, as they are typed and in an address', () => {
  assert.deepEqual(readBounds({ latency_ms: '2,5', size_mb: ' ', parameters: '1 000 000' }), { bounds: { latency_ms: 2.5, parameters: 1e6 }, faults: {} });
  const { bounds, faults } = readBounds({ latency_ms: '0', latency_64_ms: 'soon', size_mb: '4' });
  assert.deepEqual([bounds, faults], [{ size_mb: 4 }, { latency_ms: '0 is not above 0', latency_64_ms: 'soon is not a number' }]);
  assert.equal(sweepAddress('swp_1', bounds), '#/sweeps/swp_1?size_mb=4');
  assert.equal(sweepAddress('swp_1', {}), '#/sweeps/swp_1');
  assert.deepEqual(parseBounds(new URLSearchParams('latency_ms=5&size_mb=-1&parameters=many&latency_64_ms=Infinity&other=1')), { latency_ms: 5 });
});

test('a combination costs what its finished students cost, and says why that is not known', () => {
  const latency = (median_ms, cpu = 'a CPU') => ({ cpu, batches: [{ batch: 1, median_ms }, { batch: 64, median_ms: 64 * median_ms }] });
  const student = (id, more) => ({ id, latency: null, latency_failure: null, qualifies: true, missed: [], unknown: [], ...more });
  const of = (students, more = {}) => sweepCosts({ data: students, constraints: { latency_ms: 5 }, not_measured: null, total: students.length, ...more });
  const members = (...ids) => ({ jobs: ids.map((id) => ({ id })) });
  const miss = { qualifies: false, missed: [{ constraint: 'latency_ms', most: 5, value: 7.25 }] };
  const costs = of([student('a', { latency: latency(3) }), student('b', { latency: latency(7.25), ...miss }), student('c', { qualifies: null, unknown: ['latency_ms'] }),
    student('d', { latency_failure: 'no image fits', qualifies: null, unknown: ['latency_ms'] }), student('e', { latency: latency(3, 'another CPU') })]);
  assert.deepEqual(latencyOf(members('a', 'b', 'x'), costs), { text: '7.250 ms', title: '3.000 to 7.250 ms for one image on a CPU' });
  assert.match(latencyOf(members('a', 'e'), costs).title, /^3\.000 ms .* 2 different CPUs/);
  assert.deepEqual(['x', 'c', 'd'].map((id) => latencyOf(members(id), costs).title), ['None of its jobs has finished', 'Not measured yet', 'It cannot be measured: no image fits']);
  assert.equal(latencyOf(members('c'), of([student('c')], { not_measured: 'no ONNX Runtime' })).title, 'no ONNX Runtime');
  const verdicts = [['a'], ['a', 'e'], ['b'], ['a', 'b'], ['a', 'b', 'c'], ['c', 'd'], ['x']].map((ids) => verdictOf(members(...ids), costs));
  assert.deepEqual(verdicts.map(({ state, text }) => `${state}: ${text}`), ['yes: yes', 'yes: yes', 'no: no', 'some: 1 of 2', 'some: 1 of 3', 'unknown: not known', 'unknown: –']);
  assert.deepEqual([verdicts[0].title, verdicts[1].title, verdicts[2].title], ['Its student qualifies', 'All 2 students qualify', 'latency 7.250 ms, at most 5.000 ms']);
  assert.equal(verdicts[4].title, 'latency 7.250 ms, at most 5.000 ms; not known of 1: latency');
  assert.equal(qualifyingText(costs), '2 of 5 finished students qualify · 2 not known');
  assert.equal(qualifyingText(of([], { not_measured: 'no ONNX Runtime' })), 'No student has finished yet · Latencies are not measured: no ONNX Runtime');
  assert.equal(qualifyingText(of([student('a')], { constraints: {} })), '');
  assert.deepEqual([isWaiting(costs), isWaiting(of([student('d', { latency_failure: 'no' })])), isWaiting(of([student('c')], { not_measured: 'no' }))], [true, false, false]);
});

test('a setting that is a whole network is cut in names', () => {
  const name = combinationName(['/student'], result({ settings: { '/student': { name: 'x'.repeat(1000) } } }));
  assert.ok(name.length < 100 && name.endsWith('…'), name);
});
