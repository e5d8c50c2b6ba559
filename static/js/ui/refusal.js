// Why the server refuses an upload.

import { h } from './dom.js';

/**
 * The message, with a list of the faults if there are several.
 * @param {{ message: string, errors?: Fault[] }} error
 */
export function refusal({ message, errors = [] }) {
  const faults = errors.map((fault) => h('li', {}, fault.detail));
  return [h('p', { class: 'error-text' }, message), faults.length > 1 ? h('ul', { class: 'upload-faults' }, faults) : null];
}
