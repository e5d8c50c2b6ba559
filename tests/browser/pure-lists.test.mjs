// The modules of the list and of the comparison that need no browser.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ApiError } from '../../static/js/api/client.js';
import { Poller } from '../../static/js/api/poller.js';
import { plan, toEach } from '../../static/js/jobs/bulk.js';
import { costsOf, missed } from '../../static/js/compare/costs.js';
import { differences, groupBySeed, groupNames, interpolate, meanCurve, runsText, settingText, statistics, withoutCopies } from '../../static/js/compare/data.js';
import { placeNames } from '../../static/js/compare/names.js';
import { csv } from '../../static/js/charts/export.js';
import { points, shortAge } from '../../static/js/ui/format.js';
import { addressOf, parseQuery, requestOf, sortedBy } from '../../static/js/jobs/query.js';
import { logTicks, ticks } from '../../static/js/charts/ticks.js';
import { layOut } from '../../static/js/charts/sparkline.js';
import { readNames, writeNames } from '../../static/js/new/names.js';

const parse = (text) => parseQuery(new URLSearchParams(text));

test('an address holds everything about a list but the defaults', () => {
  assert.equal(addressOf(parse('')), '#/');
  const address = 'status=running&status=paused&label=team%3Avision&q=50%25&sort=gain&order=asc&page=3&rows=100';
  assert.equal(addressOf(parse(address)), `#/?${address}`);
  assert.deepEqual(requestOf(parse(address)), { status: ['running', 'paused'], label: ['team:vision'], column: [], q: '50%', sort: 'gain', order: 'asc', offset: 200, limit: 100 });
});

test('columns of settings are pointers, each once', () => {
  const columns = 'column=%2Ftraining%2Fepochs&column=%2Fdistillation%2Fscales';
  assert.equal(addressOf(parse(`${columns}&column=%2Ftraining%2Fepochs&column=epochs`)), `#/?${columns}`);
  assert.deepEqual(requestOf(parse(columns)).column, ['/training/epochs', '/distillation/scales']);
});

test('names are read from a list with commas or from JSON, and written so that they are read back', () => {
  assert.deepEqual(readNames(' cat,  great dane ,owl, '), { value: ['cat', 'great dane', 'owl'] });
  assert.deepEqual(readNames('["a, b", "c"]'), { value: ['a, b', 'c'] });
  assert.equal(readNames('  ').value, undefined);
  for (const text of ['["a"', '[1, 2]', '["a", null]']) assert.match(readNames(text).fault, /expected names/, text);
  for (const names of [['cat', 'dog'], ['a, b', 'c'], ['[x', 'y'], [' padded']]) assert.deepEqual(readNames(writeNames(names)).value, names);
});

test('invalid parameters of an address are ignored', () => {
  assert.equal(addressOf(parse('sort=constructor&order=up&page=-1&rows=7')), '#/');
  assert.equal(parse('page=1.5').page, 1);
});

test('a heading sorts in the useful order first, then in the other, from page 1', () => {
  const first = sortedBy(parse('page=4'), 'best_top1');
  assert.equal(addressOf(first), '#/?sort=best_top1');
  assert.equal(addressOf(sortedBy(first, 'best_top1')), '#/?sort=best_top1&order=asc');
  assert.equal(addressOf(sortedBy(first, 'name')), '#/?sort=name');
});

test('a sparkline grows with its run', () => {
  const [first, last] = layOut([[0, 10], [50, 20]], 100);
  assert.deepEqual([first[1] > last[1], last[0] < 50], [true, true]);
  assert.ok(layOut([[0, 10], [50, 20]], null)[1][0] > 70);
  assert.deepEqual(layOut([], 10), []);
  assert.equal(layOut([[5, 3]], null)[0][1], 11);
});

test('a plan for several jobs says what happens to each status', () => {
  const jobs = ['queued', 'running', 'running', 'failed'].map((status, index) => ({ id: String(index), status }));
  const { able, text } = plan('cancel', jobs);
  assert.deepEqual(able.map(({ id }) => id), ['0', '1', '2']);
  assert.match(text, /^1 queued: will not start\. 2 running: stop after the current step\. 1 job \(failed\) stays unchanged\./);
  assert.deepEqual(plan('delete', jobs).able.map(({ id }) => id), ['3']);
});

test('a bulk action retries after a rate limit and reports failures', async () => {
  const jobs = Array.from({ length: 40 }, (_, id) => ({ id }));
  const asked = [];
  let underWay = 0;
  let most = 0;
  let done = 0;
  const failures = await toEach(jobs, async ({ id }) => {
    underWay += 1;
    most = Math.max(most, underWay);
    await Promise.resolve();
    underWay -= 1;
    asked.push(id);
    if (id === 7) throw new Error('gone');
    if (id % 10 === 3 && asked.filter((other) => other === id).length < 3) throw Object.assign(new Error('too fast'), { status: 429 });
  }, () => { done += 1; }, 1);
  assert.deepEqual(failures.map(({ job: { id }, error }) => [id, error.message]), [[7, 'gone']]);
  assert.deepEqual([new Set(asked).size, asked.length, done], [40, 48, 40]);
  assert.ok(most <= 6, String(most));
});

const job = (name, method, seed, more = {}) => ({ name, spec: { name, labels: { run: name }, distillation: { method, scales: [1, 2] }, training: { seed, epochs: 5, checkpoint_every_epochs: seed + 1, ...more } } });

test('differing settings are found by path, without names and labels', () => {
  const rows = differences([job('a', 'kd', 0).spec, job('b', 'sdd_kd', 0, { clip: null }).spec, job('c', 'kd', 0).spec]);
  assert.deepEqual(rows, [{ path: 'distillation.method', values: ['kd', 'sdd_kd', 'kd'] }, { path: 'training.clip', values: [undefined, null, undefined] }]);
  assert.deepEqual([undefined, null, [1, 2], 'kd'].map(settingText), ['–', 'null', '[1,2]', 'kd']);
});

test('jobs that differ only in their seed form a group, named by what distinguishes the groups', () => {
  const groups = groupBySeed([job('a', 'kd', 0), job('b', 'sdd_kd', 0), job('c', 'kd', 1), job('d', 'kd', 2, { epochs: 9 })]);
  assert.deepEqual(groups.map((jobs) => jobs.map(({ name }) => name)), [['a', 'c'], ['b'], ['d']]);
  assert.deepEqual(groupNames(groups), ['kd, epochs 5', 'sdd_kd, epochs 5', 'kd, epochs 9']);
  assert.deepEqual(groupNames(groups.slice(0, 1)), ['a']);
  // The method distinguishes these; the table of settings shows the other difference.
  assert.deepEqual(groupNames([[job('e', 'none', 0, { epochs: 1 })], [job('f', 'kd', 0, { epochs: 2 })]]), ['none', 'kd']);
});

test('a group is named by what its users wrote, not by what follows from it', () => {
  const swept = (epochs) => ({ ...job(`e${epochs}`, 'kd', 0, { a_milestones: [epochs / 2], epochs }), sent: { training: { epochs, seed: 0 } } });
  assert.deepEqual(groupNames([[swept(4)], [swept(8)], [swept(16)]]), ['epochs 4', 'epochs 8', 'epochs 16']);
  // Of what was written, the setting with the most values names the most groups.
  const both = (rate, decay) => ({ ...job('r', 'kd', 0, { decay, rate }), sent: { training: { rate, decay } } });
  assert.deepEqual(groupNames([[both(1, 0)], [both(2, 0)], [both(3, 1)]]), ['rate 1', 'rate 2', 'rate 3']);
});

test('copies of one job are one run', () => {
  const run = (seed, sha256) => ({ spec: { training: { seed } }, result: sha256 && { student: { sha256 } } });
  const group = [run(0, 'a'), run(0, 'a'), run(1, 'b'), run(1, 'c'), run(2), run(2)];
  assert.deepEqual(withoutCopies(group), [group[0], group[2], group[3], group[4], group[5]]);
  assert.equal(runsText(group), '5 runs of 3 seeds, 1 copy not counted');
  assert.equal(runsText(group.slice(0, 2)), '1 seed, 1 copy not counted');
  assert.equal(runsText([group[0], group[2]]), '2 seeds');
});

test('a student costs what was measured of it, and what is not known exceeds no bound', () => {
  const latency = { batches: [{ batch: 64, median_ms: 90 }, { batch: 1, median_ms: 2.5 }] };
  const measured = { result: { student: { size_bytes: 1_100_000 } }, student_latency: { latency } };
  assert.deepEqual(costsOf(measured, 270_000), { parameters: 270_000, size_mb: 1.1, latency_ms: 2.5, latency_64_ms: 90 });
  const failed = { result: null, student_latency: { latency: null, failure: 'its file is gone' } };
  assert.deepEqual(costsOf(failed, undefined), { parameters: undefined, size_mb: undefined, latency_ms: undefined, latency_64_ms: undefined });
  assert.deepEqual(missed(costsOf(measured, 270_000), { latency_ms: 2.5, size_mb: 1 }), ['size_mb']);
  assert.deepEqual(missed(costsOf(failed, 270_000), { latency_ms: 1, parameters: 1 }), ['parameters']);
});

test('a name in the scatter plot is closest to its own point, and covers nothing', () => {
  const frame = { left: 60, right: 640, top: 0, bottom: 276 };
  const points = Array.from({ length: 40 }, (_, index) => ({ label: `job number ${index} of the sweep`, x: 100 + (index * 73) % 480, y: 20 + (index * index * 31) % 240 }));
  const placed = placeNames(points, frame);
  assert.ok(placed.length > 5, String(placed.length));
  const boxes = placed.map(({ text, x, y, anchor }) => {
    const width = text.length * 6.5;
    const left = { start: x, end: x - width, middle: x - width / 2 }[anchor];
    return { left, right: left + width, top: y - 10, bottom: y + 4 };
  });
  const distance = ({ left, right, top, bottom }, { x, y }) => Math.hypot(Math.max(left - x, x - right, 0), Math.max(top - y, y - bottom, 0));
  placed.forEach(({ point }, index) => {
    const box = boxes[index];
    for (const other of points) if (other !== point) assert.ok(distance(box, other) > distance(box, point), point.label);
    for (const other of boxes) assert.ok(other === box || box.left >= other.right || other.left >= box.right || box.top >= other.bottom || other.top >= box.bottom, point.label);
    assert.ok(box.left >= frame.left && box.right <= frame.right && box.bottom <= frame.bottom, point.label);
  });
  const twins = placeNames([{ label: 'one', x: 300, y: 100 }, { label: 'other', x: 300, y: 100 }], frame);
  assert.deepEqual(twins.map(({ text }) => text), ['one', 'other']);
});

test('the standard deviation is that of a sample', () => {
  assert.deepEqual(statistics([1, 2, 3, undefined, NaN]), { count: 3, mean: 2, deviation: 1 });
  assert.deepEqual(statistics([5]), { count: 1, mean: 5, deviation: null });
  assert.deepEqual(statistics([]), { count: 0, mean: null, deviation: null });
});

test('the mean of curves interpolates between their points', () => {
  assert.equal(interpolate([0, 10], [0, 100], 2.5), 25);
  assert.equal(interpolate([0, 10], [0, 100], 11), null);
  assert.equal(interpolate([4], [7], 4), 7);
  const { xs, mean, low, high } = meanCurve([[[0, 2], [0, 2]], [[0, 1, 2, 3], [2, 3, 4, 9]]]);
  assert.deepEqual([xs, mean], [[0, 1, 2, 3], [1, 2, 3, 9]]);
  assert.ok(Math.abs(high[0] - 1 - Math.SQRT2) < 1e-12 && Math.abs(low[0] - 1 + Math.SQRT2) < 1e-12);
  assert.deepEqual([low[3], high[3]], [9, 9]);
});

test('CSV keeps its values, and no cell is a formula', () => {
  assert.equal(csv([['a,b', 'c"d', null, 1.5], ['=cmd()', '-1', -1, undefined]]), '"a,b","c""d",,1.5\r\n\'=cmd(),\'-1,-1,\r\n');
});

test('ticks are round numbers', () => {
  assert.deepEqual(ticks(61.2, 78.9), [65, 70, 75]);
  assert.deepEqual(ticks(0.1, 0.42), [0.1, 0.2, 0.3, 0.4]);
  assert.deepEqual(ticks(5, 5), [5]);
});

test('ticks of a logarithmic axis are round numbers within its ends', () => {
  assert.deepEqual(logTicks(0.19, 2.03208), [0.2, 0.5, 1, 2]);
  assert.deepEqual(logTicks(1e-5, 1), [1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]);
  assert.deepEqual(logTicks(2.1, 2.4), [2.1, 2.15, 2.2, 2.25, 2.3, 2.35, 2.4]);
  for (const [low, high] of [[1e-12, 1e12], [0.5, 0.50001], [3, 4], [9.5, 10.4]]) {
    const all = logTicks(low, high);
    assert.ok(all.length >= 2 && all.length <= 9, `${low} to ${high}: ${all}`);
    assert.ok(all.every((value) => value >= low * 0.999999 && value <= high * 1.000001 && Number(value.toPrecision(6)) === value), `${all}`);
  }
});

test('narrow columns have short numbers', () => {
  assert.deepEqual([1.234, -0.5, 0.001, -0.001, NaN].map(points), ['+1.23', '−0.50', '0.00', '0.00', '–']);
  const ages = [-3, 59, 60, 7199, 48 * 3600].map((seconds) => shortAge(new Date(1e12 - seconds * 1000).toISOString(), 1e12));
  assert.deepEqual(ages, ['0 s', '59 s', '1 min', '1 h', '2 d']);
});

test('what the server refused is asked again after a change alone, and what failed is asked again by itself', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  globalThis.document = { hidden: false, addEventListener: () => {} };
  t.after(() => { delete globalThis.document; });
  for (const { status, again } of [{ status: 400, again: 0 }, { status: 404, again: 0 }, { status: 401, again: 1 }, { status: 503, again: 1 }, { status: 0, again: 1 }]) {
    let asked = 0;
    const request = async () => {
      asked += 1;
      throw new ApiError(status, 'no');
    };
    const poller = new Poller({ interval: 1000, signal: new AbortController().signal, request, onError: () => {} });
    await poller.now();
    t.mock.timers.tick(60_000);
    assert.equal(asked, 1 + again, String(status));
    poller.stop();
  }
  let asked = 0;
  const request = async () => {
    asked += 1;
    throw new ApiError(400, 'no');
  };
  const refused = new Poller({ interval: 1000, signal: new AbortController().signal, request, onError: () => {} });
  await refused.now();
  refused.soon();
  t.mock.timers.tick(60_000);
  assert.equal(asked, 2);
});
