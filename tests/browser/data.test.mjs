// An archive that is dropped on the page becomes a data set that shows its classes and images and that a job can name.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { PIECE } from '../../static/js/api/put.js';
import { assertAccessible, assertFits, closeDashboard, onEveryScreen, openDashboard, refused } from './support/page.mjs';
import { PATIENCE, Server } from './support/server.mjs';

const server = new Server();
const dir = mkdtempSync(join(tmpdir(), 'distillery-data-'));
let browser;
let page;

/** A PPM image of one colour. */
function ppm(red, green, blue) {
  return Buffer.concat([Buffer.from('P6 8 8 255\n'), Buffer.from(Array.from({ length: 64 }, () => [red, green, blue]).flat())]);
}

/** Writes files by path below a directory. */
function write(root, files) {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(root, path, '..'), { recursive: true });
    writeFileSync(join(root, path), content);
  }
}

/** Packs files by path as a tar. */
function archive(name, files) {
  const root = join(dir, `${name}-files`);
  write(root, files);
  const packed = join(dir, `${name}.tar.gz`);
  execFileSync('tar', ['-czf', packed, '-C', root, '.']);
  return packed;
}

const PETS = {
  'train/cat/1.ppm': ppm(200, 0, 0), 'train/cat/2.ppm': ppm(210, 0, 0), 'train/dog/1.ppm': ppm(0, 0, 200), 'train/dog/2.ppm': ppm(0, 0, 210),
  'test/cat/1.ppm': ppm(200, 0, 0), 'test/dog/1.ppm': ppm(0, 0, 205),
};

/** Requests for what the server understood of the data set. */
const DETAILS = /\/v1\/datasets\/pets[^/]*$/;

before(async () => {
  write(join(server.datasetsDir, 'leaky'), PETS);
  ({ browser, page } = await openDashboard(server));
  page.expected.push(refused(422));
}, { timeout: PATIENCE });

after(async () => {
  await closeDashboard(server, browser);
  rmSync(dir, { recursive: true, force: true });
});

const go = (path) => page.goto(`${server.url}/#${path}`);

test('a dropped archive arrives and is listed', async () => {
  await go('/data');
  await page.getByRole('link', { name: 'digits' }).waitFor();
  const content = readFileSync(archive('pets', PETS)).toString('base64');
  const transfer = await page.evaluateHandle((base64) => {
    const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], 'pets.tar.gz'));
    return transfer;
  }, content);
  await page.locator('main').dispatchEvent('drop', { dataTransfer: transfer });
  await page.getByText('has 6 images of 2 classes').waitFor();
  await page.getByRole('row', { name: /pets [0-9a-f]{16} folder 6 2/ }).waitFor();
  await assertAccessible(page);
  page.assertQuiet();
});

test('its page shows classes, findings and thumbnails', async () => {
  await go('/data/pets');
  await page.getByRole('row', { name: '0 cat 1 2' }).waitFor();
  await page.getByText('the test split shares 1 image with the train split').waitFor();
  await page.getByText('Width×height in pixels: train 8×8 · test 8×8.').waitFor();
  await page.getByText('Images by format: train 4 pnm · test 2 pnm.').waitFor();
  await page.getByText('4 of 4 images of train').waitFor();
  const pictures = page.locator('.pictures img');
  assert.equal(await pictures.count(), 4);
  const width = await pictures.first().evaluate(async (picture) => {
    await picture.decode();
    return picture.naturalWidth;
  });
  assert.equal(width, 96);
  await page.getByLabel('Class', { exact: true }).selectOption('dog');
  await page.getByText('2 of 2 images of train').waitFor();
  await page.getByLabel('Split').selectOption('test');
  await page.getByText('1 of 1 images of test').waitFor();
  await assertAccessible(page);
  await onEveryScreen(browser, async (page) => {
    await page.goto(`${server.url}/#/data/pets`);
    await page.getByText('4 of 4 images of train').waitFor();
    await assertFits(page);
  });
  page.assertQuiet();
});

/** A tab of its own on a data set whose images are never decoded, and how often it has asked. */
async function openUndecoded() {
  const tab = await page.context().newPage();
  tab.setDefaultTimeout(30_000);
  await tab.addInitScript(() => {
    window.isHidden = false;
    Object.defineProperty(Document.prototype, 'hidden', { get: () => window.isHidden });
  });
  const asked = { times: 0 };
  await tab.route(DETAILS, async (route) => {
    asked.times += 1;
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...await response.json(), statistics: null, statistics_fault: null, statistics_progress: { read: 1200, images: 50_000 } } });
  });
  await tab.goto(`${server.url}/#/data/pets`);
  await tab.getByText('The server is decoding the images… 1,200 of 50,000').waitFor();
  const show = (isShown) => tab.evaluate((isHidden) => {
    window.isHidden = isHidden;
    document.dispatchEvent(new Event('visibilitychange'));
  }, !isShown);
  return { tab, asked, show, answer: () => tab.waitForResponse(DETAILS) };
}

test('a hidden page asks less whether the images are decoded, and at once when it is shown', { timeout: PATIENCE }, async () => {
  const [hidden, visible] = [await openUndecoded(), await openUndecoded()];
  await hidden.show(false);
  const before = hidden.asked.times;
  const most = 6;
  for (let times = 0; times < most; times += 1) await visible.answer();
  // One may have been due already, and twice a minute it asks all the same.
  assert.ok(hidden.asked.times - before <= most / 2, `${hidden.asked.times - before} requests of a hidden page`);
  await Promise.all([hidden.answer(), hidden.show(true)]);
  await hidden.tab.close();
  await visible.tab.close();
});

test('every fault of an archive is shown', async () => {
  await go('/data');
  const file = archive('bad', { ...PETS, 'train/cow/readme.txt': 'no image' });
  await page.locator('#data-file').setInputFiles(file);
  assert.equal(await page.locator('#data-name').inputValue(), 'bad');
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  await page.getByText('bad/train/cow: contains no image').waitFor();
  page.assertQuiet();
});

test('a folder of the same files is the same version, and the page says what its name means before it is sent', async () => {
  await go('/data');
  await page.getByRole('link', { name: 'pets', exact: true }).waitFor();
  await page.locator('#data-folder').setInputFiles(join(dir, 'pets-files'));
  assert.equal(await page.locator('#data-name').inputValue(), 'pets-files');
  await page.getByText('6 files as one archive.').waitFor();
  await page.locator('#data-name').fill('digits');
  await page.getByText('digits is a directory of the server: choose another name.').waitFor();
  await page.locator('#data-name').fill('pets');
  await page.getByText('pets is there already: this becomes its latest version.').waitFor();
  await assertAccessible(page);
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  await page.getByText('has 6 images of 2 classes').waitFor();
  const { versions } = await server.get('/v1/datasets/pets');
  assert.equal(versions.length, 1);
  page.assertQuiet();
});

test('a large upload goes on after the page was loaded again, and Stop leaves nothing of it', { timeout: PATIENCE }, async () => {
  const size = PIECE + 1000;
  const file = join(dir, 'large.zip');
  writeFileSync(file, Buffer.alloc(size, 7));
  const tab = await page.context().newPage();
  tab.setDefaultTimeout(30_000);
  const ranges = [];
  // The second piece never reaches the server.
  await tab.route(/\/v1\/datasets\/large\?upload=/, async (route) => {
    const range = route.request().headers()['content-range'];
    ranges.push(range);
    if (range.startsWith('bytes 0-')) await route.continue();
  });
  const begin = async () => {
    await tab.locator('#data-file').setInputFiles(file);
    await Promise.all([
      tab.waitForRequest((request) => request.headers()['content-range']?.startsWith(`bytes ${PIECE}-`)),
      tab.getByRole('button', { name: 'Upload', exact: true }).click(),
    ]);
  };
  await tab.goto(`${server.url}/#/data`);
  await begin();
  await tab.reload();
  await tab.getByRole('row', { name: /large page-[0-9a-f]{16} 32 MiB of 32 MiB/ }).waitFor();
  await begin();
  const [given] = await Promise.all([
    tab.waitForResponse((response) => response.request().method() === 'DELETE'),
    tab.getByRole('button', { name: 'Stop' }).click(),
  ]);
  assert.equal(given.status(), 204);
  await tab.getByText('Stopped.').waitFor();
  assert.deepEqual(ranges, [`bytes 0-${PIECE - 1}/${size}`, `bytes ${PIECE}-${size - 1}/${size}`, `bytes ${PIECE}-${size - 1}/${size}`]);
  await tab.getByRole('heading', { name: 'Uploads that are not complete' }).waitFor({ state: 'hidden' });
  await tab.close();
});

test('a job on the data set is one click away', async () => {
  await go('/data/pets');
  await page.getByRole('link', { name: 'New job on it' }).click();
  await page.getByRole('heading', { name: 'New job', exact: true }).waitFor();
  assert.equal(await page.locator('[data-pointer="/dataset/name"] select').inputValue(), '"pets"');
  assert.equal(await page.locator('#preset option:checked').textContent(), 'the selected data set');
  page.assertQuiet();
});

test('an upload that is not complete is listed, and given up there', async () => {
  const headers = { 'content-range': 'bytes 0-999/4000' };
  const piece = await fetch(`${server.url}/v1/datasets/half?upload=mine`, { method: 'PUT', body: Buffer.alloc(1000, 7), headers });
  assert.equal(piece.status, 202);
  await go('/data');
  await page.getByRole('row', { name: /half mine 1000 B of 3.91 KiB/ }).waitFor();
  await assertAccessible(page);
  await page.getByRole('button', { name: 'Give up the upload mine of half' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Give up' }).click();
  await page.getByRole('heading', { name: 'Uploads that are not complete' }).waitFor({ state: 'hidden' });
  assert.deepEqual((await server.get('/v1/datasets')).unfinished, []);
  page.assertQuiet();
});

test('the form has images decoded that nobody has looked at, and adds what they show to its warnings', { timeout: PATIENCE }, async () => {
  await go('/new?dataset=leaky');
  await page.getByRole('radio', { name: 'None: plain training' }).check();
  await page.locator('.field[data-pointer="/student/architecture"] select').first().selectOption({ value: '"resnet8"' });
  await page.locator('.verdict[data-state="fine"] .warning-line', { hasText: 'the test split shares 1 image with the train split' }).waitFor();
  page.assertQuiet();
});

test('dropped files that are not uploaded are named', async () => {
  await go('/data');
  await page.getByRole('link', { name: 'digits' }).waitFor();
  const content = readFileSync(archive('two', PETS)).toString('base64');
  const transfer = await page.evaluateHandle((base64) => {
    const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    for (const name of ['pets.tar.gz', 'more.tar.gz']) transfer.items.add(new File([bytes], name));
    return transfer;
  }, content);
  await page.locator('main').dispatchEvent('drop', { dataTransfer: transfer });
  await page.getByText('Only pets.tar.gz is uploaded, and not more.tar.gz: pack all files as one archive.').waitFor();
  await page.getByText('has 6 images of 2 classes').waitFor();
  page.assertQuiet();
});

test('a version is deleted on its page', async () => {
  await go('/data/pets');
  await page.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('heading', { name: 'Data', exact: true }).waitFor();
  const { data } = await server.get('/v1/datasets');
  assert.deepEqual(data.map(({ name }) => name), ['digits', 'leaky']);
  page.assertQuiet();
});
