// Settings to choose from, as a combobox offers them.

import { api } from '../api/client.js';
import { withRest } from '../ui/combobox.js';
import { whole } from '../ui/format.js';

/** Options that are offered at once. */
const MAX_OPTIONS = 60;
/** Milliseconds for which an answer is used again: the server reads a thousand jobs for it, and people type fast. */
const FRESH = 10_000;

/** @type {{ at: number, settings: Schemas['KnownSetting'][] }} */
let known = { at: -FRESH, settings: [] };

/** @param {AbortSignal} signal */
async function knownSettings(signal) {
  if (performance.now() - known.at >= FRESH) {
    const { data } = await api.settings(signal);
    known = { at: performance.now(), settings: data };
  }
  return known.settings;
}

/**
 * The settings of the newest jobs whose pointer has each of these words, those in which jobs differ most first.
 * @param {string} text
 * @param {AbortSignal} signal
 */
export async function settingOptions(text, signal) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = (await knownSettings(signal)).filter(({ pointer }) => words.every((word) => pointer.toLowerCase().includes(word)));
  const options = matching.slice(0, MAX_OPTIONS).map(({ pointer, values }) => ({ value: pointer, text: pointer, note: values === 1 ? '1 value' : `${whole(values)} values` }));
  return withRest(options, matching.length - options.length);
}
