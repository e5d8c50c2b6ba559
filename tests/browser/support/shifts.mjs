// Whether a page stands still while it is updated.

import assert from 'node:assert/strict';

/** Records layout shifts from now on, but for those that follow the user's input. */
export async function watchShifts(page) {
  await page.evaluate(() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
      for (const { value, hadRecentInput, sources } of list.getEntries()) {
        if (!hadRecentInput) window.shifts.push({ value, sources: sources.map(({ node }) => node?.outerHTML?.slice(0, 120)) });
      }
    }).observe({ type: 'layout-shift' });
  });
}

/** `allowed`: the cumulative layout shift that counts as still. */
export async function assertStill(page, allowed = 0) {
  const shifts = await page.evaluate(() => window.shifts);
  const total = shifts.reduce((sum, { value }) => sum + value, 0);
  assert.ok(total <= allowed, `the page moved by ${total}: ${JSON.stringify(shifts)}`);
}
