// Requests as command lines to copy. They name the token's variable and never contain the token.

import { api } from '../api/client.js';
import { copyButton, h } from './dom.js';
import { shellQuote } from './format.js';

let needsToken = false;

/**
 * Asks the server whether requests need a token; call it before `curl`.
 * @param {AbortSignal} signal
 */
export async function learnAboutTokens(signal) {
  try {
    needsToken = (await api.session(signal)).required;
  } catch {
    // The command lines are of use either way.
  }
}

/**
 * A curl command for a path of this server.
 * @param {string} path
 * @param {...string} options
 */
export function curl(path, ...options) {
  const token = needsToken ? ['-H "Authorization: Bearer $TOKEN"'] : [];
  return ['curl', ...options, ...token, shellQuote(`${location.origin}${path}`)].join(' ');
}

/**
 * A command with a button that copies it.
 * @param {string} text
 */
export function commandLine(text) {
  return h('div', { class: 'curl' }, h('code', { tabindex: '0' }, text), copyButton(() => text));
}
