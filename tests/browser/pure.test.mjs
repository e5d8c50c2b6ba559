// Modules that need no browser: JSON, numbers, charts' series, presets.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';

import { align, appendPoints, nearest, smooth, downsample } from '../../static/js/charts/series.js';
import { ComparedJobs } from '../../static/js/compare/jobs.js';
import { reportText } from '../../static/js/job/exports.js';
import { differences, plainRequest } from '../../static/js/job/recipe.js';
import { program } from '../../static/js/job/snippets.js';
import { readNumber, readNumbers } from '../../static/js/json/numbers.js';
import { parts, valueAt, withValue } from '../../static/js/json/pointers.js';
import { locate, position, scan } from '../../static/js/json/positions.js';
import { prettyJson } from '../../static/js/json/pretty.js';
import { readLabels, writeLabels } from '../../static/js/new/labels.js';
import { missing, preset, presetGroups, teacherFrom, withTeacher } from '../../static/js/new/presets.js';
import * as format from '../../static/js/ui/format.js';

const DOCUMENT = `{
  "name": "a \\"quoted\\" name",
  "distillation": {
    "scales": [1,
      4, 2],
    "a/b~c": null
  },
  "training": {"epochs": 1.5e2, "deep": [[{"x": true}]]}
}
`;

const lineOf = (text, pointer) => position(text, locate(scan(text).places, pointer).start).line;

test('a pointer leads to its line', () => {
  assert.equal(scan(DOCUMENT).error, null);
  const lines = { '': 1, '/name': 2, '/distillation': 3, '/distillation/scales': 4, '/distillation/scales/0': 4, '/distillation/scales/2': 5, '/distillation/a~1b~0c': 6, '/training/deep/0/0/x': 8 };
  for (const [pointer, line] of Object.entries(lines)) assert.equal(lineOf(DOCUMENT, pointer), line, pointer);
});

test('attempts that do not count are told apart from those that do', () => {
  const text = (attempt, most, status = 'running') => format.attemptsText({ attempt, max_attempts: most, status, spec: { max_attempts: 3 } });
  assert.deepEqual([text(0, 3, 'queued'), text(1, 3), text(3, 3, 'failed')], ['not started', '1 of 3', '3 of 3']);
  // Paused in the first attempt; then its machine failed twice.
  assert.deepEqual([text(1, 4, 'paused'), text(4, 6)], ['0 of 3, not counting 1', '1 of 3, not counting 3']);
  assert.equal(text(2, 3, 'cancelled'), '2');
});

test('a place covers the key and the value', () => {
  const { start, end, exact } = locate(scan(DOCUMENT).places, '/training/epochs');
  assert.equal(DOCUMENT.slice(start, end), '"epochs": 1.5e2');
  assert.equal(exact, true);
});

test('the pointer of a missing field leads to the object around it', () => {
  const place = locate(scan(DOCUMENT).places, '/training/optimizer/type');
  assert.equal(place.exact, false);
  assert.equal(position(DOCUMENT, place.start).line, 8);
  assert.equal(lineOf(DOCUMENT, '/student'), 1);
});

test('the scanner accepts exactly what JSON.parse accepts', () => {
  const documents = [
    '{}', '[]', ' null ', '-0', '0.5e+3', '"\\u00e9\\n"', '{"a":[{},[],"",{"b":false}]}', '\t[1 ,2]\r\n', '"é😀"', '{"a":1,"a":2}',
    '', '{', '[', '{"a"}', '{"a":}', '{"a":1,}', '[1,]', '[1 2]', '{a:1}', "{'a':1}", '01', '1.', '.5', '+1', '-', 'NaN', 'True', 'nul',
    '"a', '"a\nb"', '"\\x"', '"\\u12"', '"\t"', '1 2', '{} x', '// c\n1', '{"a":1 /* c */}', '[1,,2]', '1e', '0x10', 'undefined', '\u00a01', '[',
  ];
  for (const text of documents) {
    let accepted = true;
    try { JSON.parse(text); } catch { accepted = false; }
    assert.equal(scan(text).error === null, accepted, JSON.stringify(text));
  }
});

test('a syntax error points at the place to correct', () => {
  const faults = [
    ['{\n  "a": 1,\n}', 2, 9, /remove the comma before the closing brace/],
    ['{\n  "a": 1\n  "b": 2\n}', 2, 9, /expected a comma/],
    ['{\n  "a": sgd\n}', 2, 8, /text needs double quotes/],
    ['{\n  "a": "x\n}', 2, 8, /closing double quote is missing/],
    ['{\n  "a": [1, 2\n', 3, 1, /closing bracket is missing/],
    ["{\n  'a': 1\n}", 2, 3, /JSON uses double quotes/],
    ['{"a": 1} // note', 1, 10, /a comment/],
  ];
  for (const [text, line, column, message] of faults) {
    const { error } = scan(text);
    assert.match(error.message, message, text);
    assert.deepEqual(position(text, error.offset), { line, column }, text);
  }
});

test('deep nesting is an error, not a stack overflow', () => {
  assert.match(scan('['.repeat(100_000)).error.message, /nested too deeply/);
});

test('numbers have units and few digits', () => {
  assert.equal(format.percent(76.304), '76.30 %');
  assert.equal(format.percent(undefined), '–');
  assert.equal(format.share(0.9999), '99 %');
  assert.equal(format.share(0.29), '29 %');
  assert.equal(format.share(1), '100 %');
  assert.equal(format.count(278324), '278 k');
  assert.equal(format.count(7433860), '7.43 M');
  assert.equal(format.count(999), '999');
  assert.equal(format.bytes(1023), '1023 B');
  assert.equal(format.bytes(3936216), '3.75 MiB');
  assert.equal(format.rate(3411.7), '3,412 images/s');
  assert.equal(format.significant(0.00001), '1.000e-5');
  assert.equal(format.significant(Number.NaN), '–');
  assert.equal(format.tick(0.05), '0.05');
});

test('times are relative, durations have two units', () => {
  const now = Date.parse('2026-11-23T12:00:00Z');
  assert.equal(format.age('2026-11-23T12:00:03Z', now), 'just now');
  assert.equal(format.age('2026-11-23T11:59:00Z', now), '1 min ago');
  assert.equal(format.age('2026-11-20T12:00:00Z', now), '3 days ago');
  assert.equal(format.duration(59.6), '1 min 0 s');
  assert.equal(format.duration(3725), '1 h 2 min');
  assert.equal(format.duration(200_000), '2 d 7 h');
  assert.equal(format.duration(-1), '–');
  assert.match(format.clock('2026-11-20T12:00:00Z', now), /^2026-11-\d\d \d\d:\d\d:\d\d$/);
});

test('a baseline says how many jobs it is of, and how many copies it leaves out', () => {
  const baseline = { method: 'kd', top1: 61, deviation: 1.3, jobs: 2, copies: 0 };
  assert.match(format.comparedWith(baseline), /^Compared with kd: 61\.00 % ± 1\.30, the mean of 2 jobs, with the same teacher/);
  assert.match(format.comparedWith({ ...baseline, copies: 1 }), /the mean of 2 jobs \(1 copy not counted\), with the same/);
  assert.match(format.comparedWith({ ...baseline, deviation: null, jobs: 1, copies: 3 }), /one job \(3 copies not counted\), with/);
});

test('pretty JSON is the same document', () => {
  const { distillation, ...rest } = preset('sdd_kd');
  const spec = { ...rest, distillation: { ...distillation, scales: [1, 2, 4] } };
  assert.deepEqual(JSON.parse(prettyJson(spec)), spec);
  assert.match(prettyJson(spec), /^ {4}"scales": \[1, 2, 4\]$/m);
  assert.equal(prettyJson({}), '{}');
});

test('a shell reads a quoted text as one word', () => {
  assert.equal(format.shellQuote('http://localhost:8080/v1/jobs/job_1/student'), 'http://localhost:8080/v1/jobs/job_1/student');
  assert.equal(format.shellQuote("it's $HOME"), "'it'\\''s $HOME'");
});

const point = (step, value = step) => ({ step, epoch: step / 10, value });

test('thinning keeps the ends and the peaks', () => {
  const points = Array.from({ length: 10_000 }, (_, step) => point(step, step === 7777 ? 99 : step === 1234 ? -99 : Math.sin(step)));
  const few = downsample(points, 100);
  assert.ok(few.length <= 100);
  assert.equal(few[0].step, 0);
  assert.equal(few.at(-1).step, 9999);
  assert.ok(few.some(({ value }) => value === 99) && few.some(({ value }) => value === -99));
  assert.ok(few.every(({ step }, index) => index === 0 || few[index - 1].step < step));
});

test('live points stay bounded, and a resumed attempt replaces the points it repeats', () => {
  let points = [];
  for (let step = 0; step < 5000; step += 1) points = appendPoints(points, [point(step)], 500);
  assert.ok(points.length <= 1000);
  assert.equal(points.at(-1).step, 4999);
  points = appendPoints([point(1), point(2), point(3)], [point(2, 20), point(3, 30)]);
  assert.deepEqual(points.map(({ step, value }) => [step, value]), [[1, 1], [2, 20], [3, 30]]);
  // A reconnected stream may repeat a point.
  assert.equal(appendPoints(points, [point(3, 30)]).length, 3);
});

test('aligned series have gaps at the steps they lack', () => {
  const { steps, xs, columns } = align([[point(1), point(3)], [point(2), point(3)]]);
  assert.deepEqual(steps, [1, 2, 3]);
  assert.deepEqual(xs, [0.1, 0.2, 0.3]);
  assert.deepEqual(columns, [[1, null, 3], [null, 2, 3]]);
  assert.equal(nearest(columns[0], 1), 0);
  assert.equal(nearest([null, null], 0), null);
});

test('any specification can take an uploaded teacher', () => {
  const checkpoint = { id: 'ckpt_1', architecture: null, fits: [{ architecture: 'vgg13', num_classes: 10 }] };
  const spec = withTeacher(preset('none'), teacherFrom(checkpoint));
  assert.deepEqual(spec.teacher, { architecture: 'vgg13', checkpoint: 'ckpt_1' });
  assert.equal(spec.distillation.method, 'sdd_kd');
  assert.equal(spec.name, preset('none').name);
  assert.equal(withTeacher({ ...preset('kd') }, { job: 'job_1' }).distillation.method, 'kd');
});

test('the x axis is the step, the epoch or the time since the start, and never decreases', () => {
  const at = (step, seconds) => ({ step, epoch: step / 10, time: 1_000_000 + seconds * 1000, value: step });
  const series = [[at(10, 5), at(20, 15), at(30, 14)]];
  assert.deepEqual(align(series, 'step').xs, [10, 20, 30]);
  assert.deepEqual(align(series, 'epoch').xs, [1, 2, 3]);
  // The third point comes from a worker whose clock is behind.
  assert.deepEqual(align(series, 'time', 1_000_000).xs, [5, 15, 15]);
});

test('smoothing is the bias-corrected moving average, which keeps gaps and constants', () => {
  assert.deepEqual(smooth([3, 3, null, 3], 0.9).map((value) => value && Number(value.toFixed(12))), [3, 3, null, 3]);
  const [first, second] = smooth([1, 2], 0.5);
  assert.equal(first, 1);
  assert.ok(Math.abs(second - (0.25 * 1 + 0.5 * 2) / 0.75) < 1e-12);
  assert.deepEqual(smooth([1, 2], 0), [1, 2]);
});

test('a pointer reads, sets and removes a value, and objects that become empty', () => {
  assert.deepEqual(parts('/a~1b/c~0d'), ['a/b', 'c~d']);
  const spec = { training: { optimizer: { learning_rate: 0.1 } }, name: 'x' };
  assert.equal(valueAt(spec, '/training/optimizer/learning_rate'), 0.1);
  assert.equal(valueAt(spec, '/training/toString'), undefined);
  assert.deepEqual(withValue(spec, '/training/optimizer/learning_rate', undefined), { name: 'x' });
  assert.deepEqual(withValue(spec, '/labels/__proto__', 'y').labels, JSON.parse('{"__proto__": "y"}'));
  assert.equal(spec.training.optimizer.learning_rate, 0.1, 'the document must not change');
});

test('numbers have a decimal point or comma, and ambiguous ones are faults', () => {
  const value = (text, options) => readNumber(text, options).value;
  assert.equal(value('0.05'), 0.05);
  assert.equal(value('0,05'), 0.05);
  assert.equal(value(' 5e-4 '), 5e-4);
  assert.equal(value(''), undefined);
  assert.equal(value('240', { whole: true }), 240);
  for (const text of ['1,234', '1.234,5', '1,234.5', '1,234,567', 'abc', '1e999', '0x10']) assert.ok(readNumber(text).fault, text);
  assert.ok(readNumber('1.5', { whole: true }).fault);
  assert.deepEqual(readNumbers('150, 180 210', { whole: true }).value, [150, 180, 210]);
  assert.deepEqual(readNumbers('0,5; 1', {}).value, [0.5, 1]);
  assert.ok(readNumbers('150, x').fault);
});

test('blanks and commas that could join or part numbers are faults', () => {
  for (const text of ['12 34', '1 2', "1'2", '1 234 56', '1,2,3']) assert.ok(readNumber(text).fault, text);
  for (const text of ['1 234', '1\u202f234\u202f567', "1'234'567"]) assert.ok(readNumber(text).value >= 1234, text);
  for (const text of ['0,5, 0,4, 0,3', '0,5 0,3', '1,000 2,000', ',', ';']) assert.ok(readNumbers(text).fault, text);
  assert.deepEqual(readNumbers('150,180,210').value, [150, 180, 210]);
  assert.deepEqual(readNumbers('150, 180,').value, [150, 180]);
  assert.match(readNumber('9007199254740993', { whole: true }).fault, /too large to be exact/);
});

test('labels are read as written, and none is lost', () => {
  assert.deepEqual(readLabels('team: vision, note: a:b').value, { team: 'vision', note: 'a:b' });
  assert.equal(readLabels('  ').value, undefined);
  for (const text of ['a:b, a:c', 'a', 'a:', ': b', 'a: b, c', 'a: "b', 'a: "\\x"']) assert.ok(readLabels(text).fault, text);
  for (const labels of [{ a: 'x, b: y' }, { 'k:1': ' padded ', q: '"' }, { empty: '', team: 'vision' }, { a: String.raw`b\c` }]) {
    assert.deepEqual(readLabels(writeLabels(labels)).value, labels, writeLabels(labels));
  }
  assert.equal(writeLabels({ team: 'vision', sweep: '1' }), 'team: vision, sweep: 1');
});

test('a recipe is compared by its distillation and training, without the seed', () => {
  const spec = { name: 'a', dataset: { name: 'digits' }, distillation: { method: 'kd', weights: { cross_entropy: 1 } }, training: { seed: 3, epochs: 2, schedule: { type: 'cosine' } } };
  const published = { name: 'b', dataset: { name: 'digits' }, distillation: { method: 'kd', weights: { cross_entropy: 0.1 } }, training: { seed: 0, epochs: 2, schedule: { type: 'multistep', gamma: 0.1 } } };
  assert.deepEqual(differences(spec, published), [
    { pointer: '/distillation/weights/cross_entropy', ours: 1, published: 0.1 },
    { pointer: '/training/schedule/type', ours: 'cosine', published: 'multistep' },
    { pointer: '/training/schedule/gamma', ours: undefined, published: 0.1 },
  ]);
  assert.deepEqual(plainRequest({ ...spec, student: { architecture: 'resnet8' } }), { student: { architecture: 'resnet8' }, dataset: { name: 'digits' }, distillation: { method: 'kd' } });
});

test('the Python for a student is one program with all imports at the top', () => {
  const text = program('from torch import nn\nimport torch\n\nNETWORKS = {}\n\n\ndef build():\n    from math import pi\n', 'import json\n\nimport torch\n\n\ndef load():\n    pass\n', 'x.safetensors');
  const begin = 'import json\n\nimport torch\nfrom torch import nn\n\n\nNETWORKS = {}\n\n\ndef build():\n    from math import pi\n\n\ndef load():\n    pass\n\n\nstudent, facts = load("x.safetensors", build)\n';
  assert.ok(text.startsWith(begin), text);
});

test('the published presets are the jobs of examples/published without the defaults', () => {
  const directory = new URL('../../examples/published/', import.meta.url);
  const files = ['cifar100', 'imagenet'].flatMap((table) => readdirSync(new URL(table, directory)).map((name) => `${table}/${name}`)).filter((name) => !name.includes('/teacher-'));
  const ids = presetGroups().flatMap(({ presets }) => presets.map(({ id }) => id)).filter((id) => id.includes('/'));
  assert.deepEqual(ids.map((id) => `${id}.json`).sort(), files.sort());
  for (const id of ids) {
    const example = JSON.parse(readFileSync(new URL(`${id}.json`, directory)));
    const { teacher, distillation, training, ...rest } = preset(id);
    assert.deepEqual(rest, { name: example.name, student: example.student, dataset: example.dataset, labels: example.labels }, id);
    assert.equal(teacher.architecture, example.teacher.architecture, id);
    if (training) assert.deepEqual(training, example.training, id);
    for (const [key, value] of Object.entries(distillation)) assert.deepEqual(value, example.distillation[key], `${id} ${key}`);
    // The recipe of CIFAR-100 is the default: tests/it/examples.rs compares the files with it.
    if (id.startsWith('imagenet')) assert.ok(training && (id.endsWith('-kd') || id.endsWith('sdd_kd') || distillation.temperature === 1), id);
  }
});

test('what came after the paper has presets with its own settings only', () => {
  const { presets } = presetGroups().find(({ label }) => label.endsWith('beyond the paper'));
  const losses = Object.fromEntries(presets.map(({ id }) => [id, preset(id).distillation]));
  assert.deepEqual(losses, {
    standardised: { method: 'sdd_kd', logit_standardisation: true }, clustering: { method: 'sdd_kd', weights: { clustering: 2 } },
    sdd_ttm: { method: 'sdd_ttm' }, sdd_wttm: { method: 'sdd_wttm' }, sdd_dist: { method: 'sdd_dist' },
  });
  for (const { id } of presets) assert.deepEqual(missing(preset(id, { datasets: [{ name: 'digits' }] })).map(({ pointer }) => pointer), ['/teacher/checkpoint'], id);
});

test('missing choices are found without the server', () => {
  const pointers = (spec) => missing(spec).map(({ pointer }) => pointer);
  const fits = [{ architecture: 'resnet32x4', num_classes: 100 }];
  const have = { datasets: [{ name: 'digits' }], checkpoints: [{ id: 'ckpt_1', architecture: 'resnet56', fits }] };
  assert.deepEqual(pointers(preset('kd', have)), ['/teacher/checkpoint'], 'a teacher is chosen by the user');
  assert.deepEqual(pointers(preset('none', have)), []);
  assert.deepEqual(pointers(preset('none', { datasets: [{ name: 'digits' }, { name: 'cifar10' }] })), ['/dataset/name']);
  const published = 'cifar100/resnet32x4-shufflenet_v1-kd';
  assert.equal(preset(published, have).teacher.checkpoint, 'ckpt_1');
  assert.deepEqual(pointers(preset(published, { checkpoints: [...have.checkpoints, { id: 'ckpt_2', fits }] })), ['/teacher/checkpoint']);
  assert.deepEqual(pointers({ teacher: { job: 'job_1' } }), ['/student/architecture', '/dataset/name']);
  assert.deepEqual(pointers({ student: { architecture: 'resnet8' }, dataset: { name: 'digits' } }), ['/teacher']);
});

test('networks that came as files have parameters in comparisons, before they are trained', () => {
  const compared = new ComparedJobs();
  const spec = { teacher: { checkpoint: 'ckpt_1' }, student: { checkpoint: 'ckpt_2' }, dataset: { name: 'digits' } };
  const job = { spec, result: null, teacher_facts: { parameters: 5_000_000, macs: 1 }, student_facts: { parameters: 70_000, macs: 1 } };
  assert.equal(compared.size(job), 70_000);
  assert.equal(compared.teacherSize(job), 5_000_000);
  assert.equal(compared.size({ ...job, result: { student: { parameters: 69_999 } } }), 69_999, 'what was trained counts');
  assert.equal(compared.teacherSize({ spec, result: null }), undefined, 'its checkpoint was deleted');
});

test('a report on an export says what was compared, or why nothing was', () => {
  const parity = { images: 512, relative_difference: 2.34e-6, top1_agreement: 99.5, top1: { student: 80, exported: 79.5 } };
  const runtime = { name: 'ONNX Runtime', version: '1.23.2' };
  const said = reportText({ size_bytes: 2048, sha256: 'ab', runtime, parity });
  for (const part of ['ONNX Runtime 1.23.2 ran it on 512 images', 'same class for 99.50 %', 'top-1 79.50 % instead of 80.00 %', '2.3e-6']) {
    assert.ok(said.includes(part), `${part} in ${said}`);
  }
  assert.match(reportText({ size_bytes: 2048, sha256: 'ab', runtime, parity: { ...parity, images: 48, available: 512 } }), /48 images \(of 512: more/);
  assert.match(reportText({ size_bytes: 2048, sha256: 'ab', not_checked: 'there is none' }), /Not checked: there is none\./);
});
