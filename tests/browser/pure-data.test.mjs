// What becomes of the files that a user chooses or drops as a data set. Needs no browser.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { filesBelow, nameOf, ofFiles, ofFolder } from '../../static/js/data/chosen.js';
import { packTar, sizeField } from '../../static/js/data/tar.js';

const file = (name, content = name, lastModified = 1) => new File([content], name, { lastModified });
const at = (path, content = path) => ({ path, file: file(path.split('/').at(-1), content) });

/** The names of the files in a tar, as GNU tar lists them, and their contents. */
async function unpacked(blob) {
  const dir = mkdtempSync(join(tmpdir(), 'distillery-tar-'));
  try {
    writeFileSync(join(dir, 'packed.tar'), Buffer.from(await blob.arrayBuffer()));
    const names = execFileSync('tar', ['--quoting-style=literal', '-tf', 'packed.tar'], { cwd: dir, encoding: 'utf8' }).trimEnd().split('\n');
    execFileSync('tar', ['-xf', 'packed.tar'], { cwd: dir });
    return Object.fromEntries(names.map((name) => [name, readFileSync(join(dir, name), 'utf8')]));
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test('the name of an archive becomes one that the server accepts', () => {
  for (const [file, name] of [['pets.zip', 'pets'], ['Oxford pets (small).tar.gz', 'Oxford-pets-small-'], ['.hidden.tar', 'hidden'], ['a.b.tzst', 'a.b'], [`${'x'.repeat(80)}.tar`, 'x'.repeat(64)]]) {
    assert.equal(nameOf(file), name);
  }
});

test('tar reads what is packed, whatever the lengths of names and contents', async () => {
  const long = `train/${'deep/'.repeat(30)}${'ä'.repeat(40)}.png`;
  const contents = { 'train/café/1.png': 'one', [long]: 'x'.repeat(513), 'empty.txt': '', 'block.bin': 'y'.repeat(512) };
  const packed = packTar(Object.entries(contents).map(([path, content]) => at(path, content)));
  assert.deepEqual(await unpacked(packed), contents);
});

test('the same files give the same bytes in whatever order they come', async () => {
  const files = ['b', 'a/2', 'a/1'].map((path) => at(path));
  const [one, other] = await Promise.all([packTar(files), packTar(files.toReversed())].map((blob) => blob.arrayBuffer()));
  assert.deepEqual(Buffer.from(one), Buffer.from(other));
});

test('sizes that eleven octal digits cannot hold are written in base 256', () => {
  assert.equal(Buffer.from(sizeField(8 ** 11 - 1)).toString(), '77777777777\0');
  const field = Buffer.from(sizeField(5 * 2 ** 32 + 258));
  assert.equal(field[0], 0x80);
  assert.equal(field.readBigUInt64BE(4), 5n * 2n ** 32n + 258n);
});

test('a folder is packed without its own name and without hidden files, and names the data set', async () => {
  const files = ['My pets/train/cat/1.png', 'My pets/test/cat/2.png', 'My pets/.git/config', 'My pets/__MACOSX/x', 'My pets/train/.DS_Store'];
  const { name, note, file } = ofFolder(files.map((path) => at(path)));
  assert.deepEqual([name, note], ['My-pets', '2 files as one archive, without 3 hidden.']);
  assert.deepEqual(Object.keys(await unpacked(file)), ['test/cat/2.png', 'train/cat/1.png']);
});

test('several folders keep their names, and the user names the data set', async () => {
  const { name, file } = ofFolder([at('train/cat/1.png'), at('test/cat/2.png')]);
  assert.equal(name, '');
  assert.deepEqual(Object.keys(await unpacked(file)), ['test/cat/2.png', 'train/cat/1.png']);
  assert.throws(() => ofFolder([at('pets/.DS_Store')]), /There is no file in it/);
  assert.throws(() => ofFolder([]), /There is no file in it/);
});

test('an archive is sent as it is, and shards together', async () => {
  const archive = file('pets.zip');
  assert.equal(ofFiles([archive]).file, archive);
  const one = ofFiles([archive, file('more.zip')]);
  assert.deepEqual([one.file, one.note], [archive, 'Only pets.zip is uploaded, and not more.zip: pack all files as one archive.']);
  const names = async (...files) => Object.keys(await unpacked(ofFiles(files.map((name) => file(name))).file));
  assert.deepEqual(await names('train-0.tar', 'test-0.tar'), ['test-0.tar', 'train-0.tar']);
  assert.deepEqual(await names('train-00000-of-00001.parquet', 'test.parquet'), ['test.parquet', 'train-00000-of-00001.parquet']);
  assert.deepEqual(await names('validation-00000-of-00001.parquet'), ['validation-00000-of-00001.parquet']);
  assert.deepEqual(await names('pets.parquet'), ['train-00000-of-00001.parquet']);
  assert.match(ofFiles([file('pets.parquet')]).note, /^pets.parquet is taken for the train split/);
});

test('a choice has an identity of its own, and the same one again', () => {
  const identity = (...files) => ofFiles(files).identity;
  assert.match(identity(file('a.zip')), /^[0-9a-f]{16}$/);
  assert.equal(identity(file('a.zip')), identity(file('a.zip')));
  const others = [identity(file('b.zip')), identity(file('a.zip', 'longer content')), identity(file('a.zip', 'a.zip', 2)), identity(file('1.parquet'), file('2.parquet'))];
  assert.equal(new Set([identity(file('a.zip')), ...others]).size, 5);
  assert.equal(identity(file('1.parquet'), file('2.parquet')), identity(file('2.parquet'), file('1.parquet')));
});

/** A FileSystemEntry of a directory, whose reader answers two entries at a time as browsers answer a hundred. */
function directory(name, ...entries) {
  const createReader = () => {
    const left = [...entries];
    return { readEntries: (resolve) => resolve(left.splice(0, 2)) };
  };
  return { name, isDirectory: true, createReader };
}
const entry = (name) => ({ name, isDirectory: false, file: (resolve) => resolve(file(name)) });

test('every file of a dropped folder is found, and the reading can be ended', async () => {
  const folder = directory('pets', directory('cat', ...['1', '2', '3', '4', '5'].map(entry)), directory('dog'), entry('readme'));
  const counts = [];
  const found = await filesBelow([folder], (count) => counts.push(count));
  assert.deepEqual(found.map(({ path }) => path), ['pets/cat/1', 'pets/cat/2', 'pets/cat/3', 'pets/cat/4', 'pets/cat/5', 'pets/readme']);
  assert.deepEqual(counts, [1, 2, 3, 4, 5, 6]);
  await assert.rejects(filesBelow([folder], () => { throw new Error('Stopped.'); }), /Stopped/);
});
