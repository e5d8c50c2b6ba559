// The cards that pages are made of.

import { h } from './dom.js';

/** @import { Child } from './dom.js' */

/**
 * A card named by its heading. `actions` stand beside the heading.
 * @param {string} title
 * @param {{ class?: string, actions?: Child }} options
 * @param {...Child} children
 */
export function section(title, { class: more = '', actions = null }, ...children) {
  const id = `section-${title.toLowerCase().replaceAll(/\W+/g, '-')}`;
  const heading = h('h2', { id }, title);
  return h('section', { class: `card ${more}`.trim(), 'aria-labelledby': id },
    actions ? h('div', { class: 'card-head' }, heading, actions) : heading, children);
}

/**
 * A table or text that scrolls inside its box, by keyboard too.
 * @param {string} name for assistive technology
 * @param {{ class?: string }} options
 * @param {...Child} children
 */
export function scrollBox(name, { class: kind = 'scroll-x' }, ...children) {
  return h('div', { class: kind, tabindex: '0', role: 'region', 'aria-label': name }, children);
}
