// What the page of the best settings computes: no browser is needed.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { groupsAddress, groupsCsv, groupsRequest, mixedNote, parallelAxis, parseGroups } from '../../static/js/groups/data.js';

const parse = (text) => parseGroups(new URLSearchParams(text));

test('an address holds everything about the groups but the defaults', () => {
  assert.equal(groupsAddress(parse('')), '#/groups');
  const address = 'by=method&by=%2Fdistillation%2Ftemperature&label=team%3Avision&q=sdd&sweep=swp_1&sort=gain&order=asc';
  assert.equal(groupsAddress(parse(address)), `#/groups?${address}`);
  assert.deepEqual(groupsRequest(parse('by=sweep')), { by: ['sweep'], label: [], q: '', sweep: '', sort: 'top1', order: 'desc', limit: 200 });
  assert.equal(groupsAddress(parse('sort=name&order=up&by=')), '#/groups');
});

test('an axis of numbers keeps their distances, and spreads orders of magnitude by their logarithm', () => {
  assert.deepEqual(parallelAxis('t', [1, 2, 5, null]).places, [0, 0.25, 1, null]);
  const rates = parallelAxis('rate', [0.001, 0.01, 0.1]).places;
  assert.ok(Math.abs(rates[1] - 0.5) < 1e-9, String(rates));
  assert.deepEqual(parallelAxis('same', [4, 4]).places, [0.5, 0.5]);
  assert.deepEqual(parallelAxis('t', [1, 2]).ticks, [{ text: '1', place: 0 }, { text: '2', place: 1 }]);
});

test('an axis of anything else has equal steps', () => {
  assert.deepEqual(parallelAxis('method', ['kd', 'sdd_kd', 'none', 'kd']).places, [0, 1, 0.5, 0]);
  assert.deepEqual(parallelAxis('scales', [[1, 2], [1], null]).ticks.map(({ text }) => text).sort(), ['[1,2]', '[1]']);
  assert.deepEqual(parallelAxis('empty', [null, null]), { name: 'empty', places: [null, null], ticks: [] });
  assert.equal(parallelAxis('many', Array.from({ length: 30 }, (_, index) => `v${index}`)).ticks.length, 2);
});

test('groups as CSV have a column for each thing that they are grouped by', () => {
  const group = { values: ['kd', null, [1, 2]], top1: 70, deviation: 1, n: 2, copies: 0, best: 71, gain: 0.5, baseline_deviation: null, jobs: [] };
  assert.deepEqual(groupsCsv(['method', 'sweep', '/distillation/scales'], [group])[1], ['kd', null, '[1,2]', 70, 1, 2, 0, 71, 0.5, null]);
});

test('groups of several data sets are warned of', () => {
  const [one, two] = [{ datasets: 1 }, { datasets: 2 }];
  assert.equal(mixedNote([one, one]), '');
  assert.match(mixedNote([two]), /^This group pools jobs of different data sets.*group by dataset/);
  assert.match(mixedNote([two, two]), /^All groups pool/);
  assert.match(mixedNote([one, two, one]), /^1 of 3 groups pool/);
});
