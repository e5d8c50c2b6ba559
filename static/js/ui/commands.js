// The same by hand: requests as lines for a shell. A token is named, never written.

import { api } from '../api/client.js';
import { copyButton, h } from './dom.js';
import { shellQuote } from './format.js';

let needsToken = false;

/** Whether this server wants a token, which decides how the lines look. */
export async function learnAboutTokens(signal) {
  try {
    needsToken = (await api.session(signal)).required;
  } catch {
    // Without an answer a line without a token is as good as one with it.
  }
}

/** `curl` with these options for a path of this server. */
export function curl(path, ...options) {
  const token = needsToken ? ['-H "Authorization: Bearer $TOKEN"'] : [];
  return ['curl', ...options, ...token, shellQuote(`${location.origin}${path}`)].join(' ');
}

/** A line with a button that copies it. */
export function commandLine(text) {
  return h('div', { class: 'curl' }, h('code', { tabindex: '0' }, text), copyButton(() => text));
}
