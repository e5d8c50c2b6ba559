// Whether a page stands still while it is updated.

import assert from 'node:assert/strict';

/** Notes from now on what moves without the user's doing. */
export async function watchShifts(page) {
  await page.evaluate(() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
      for (const { value, hadRecentInput, sources } of list.getEntries()) {
        if (!hadRecentInput) window.shifts.push(`${value.toFixed(4)}: ${sources.map(({ node }) => node?.outerHTML?.slice(0, 120)).join(', ')}`);
      }
    }).observe({ type: 'layout-shift' });
  });
}

export async function assertStill(page) {
  assert.deepEqual(await page.evaluate(() => window.shifts), [], 'something moved');
}
