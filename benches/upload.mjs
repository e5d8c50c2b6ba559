// Measures what a user waits for in the browser, from choosing an archive to a running job on its images:
//
//     cargo build --release && DISTILLERY_BIN=target/release/distillery node benches/upload.mjs [MEGABYTES] [MEGABITS]
//
// The archive (100 MB) is a tar of random pixels, 256×256 in PPM. Chromium sends no faster than the network would (1000
// megabits a second). The form is filled in by the program, as fast as the server answers.

import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { launchBrowser } from '../tests/browser/support/page.mjs';
import { PATIENCE, Server } from '../tests/browser/support/server.mjs';

const MEGABYTES = Number(process.argv[2] ?? 100);
const MEGABITS = Number(process.argv[3] ?? 1000);
const SIDE = 256;
const CLASSES = 8;

/** Writes the archive. */
function archive(dir) {
  const images = Math.max(10 * CLASSES, Math.floor(MEGABYTES * 1e6 / (3 * SIDE * SIDE)));
  const root = join(dir, 'files');
  for (let number = 0; number < images; number += 1) {
    const split = Math.floor(number / CLASSES) % 10 === 9 ? 'test' : 'train';
    const directory = join(root, split, `class${number % CLASSES}`);
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, `${number}.ppm`), Buffer.concat([Buffer.from(`P6 ${SIDE} ${SIDE} 255\n`), randomBytes(3 * SIDE * SIDE)]));
  }
  const packed = join(dir, 'bench.tar');
  execFileSync('tar', ['-cf', packed, '-C', root, '.']);
  rmSync(root, { recursive: true });
  console.log(`${(statSync(packed).size / 1e6).toFixed(1)} MB, ${images} images, at ${MEGABITS} Mbit/s`);
  return packed;
}

const dir = mkdtempSync(join(tmpdir(), 'distillery-upload-'));
const server = new Server();
let browser;
try {
  const packed = archive(dir);
  [browser] = await Promise.all([launchBrowser(), server.start()]);
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(PATIENCE);
  const client = await page.context().newCDPSession(page);
  await client.send('Network.enable');
  await client.send('Network.emulateNetworkConditions', { offline: false, latency: 1, downloadThroughput: MEGABITS * 125_000, uploadThroughput: MEGABITS * 125_000 });
  await page.goto(`${server.url}/#/data`);
  await page.getByRole('link', { name: 'digits' }).waitFor();

  const start = performance.now();
  const report = (what) => console.log(`${what.padEnd(36)} ${((performance.now() - start) / 1000).toFixed(2).padStart(7)} s`);
  await page.locator('#data-file').setInputFiles(packed);
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  await page.getByText('The server is unpacking and reading it…').or(page.getByRole('link', { name: 'New job on it' })).first().waitFor();
  report('sent');
  await page.getByRole('link', { name: 'New job on it' }).click();
  report('stored, and the form is open');
  await page.getByRole('radio', { name: 'None: plain training' }).check();
  await page.locator('.field[data-pointer="/student/architecture"] select').first().selectOption({ value: '"resnet8"' });
  await page.locator('.verdict[data-state="fine"]').waitFor();
  await page.getByRole('button', { name: 'Submit', exact: true }).click();
  await page.waitForURL(/#\/jobs\/job_/);
  report('posted');
  await page.locator('h1 + .badge:is([data-status="running"], [data-status="succeeded"])').waitFor();
  report('running');
} finally {
  await browser?.close();
  await server.stop();
  rmSync(dir, { recursive: true, force: true });
}
