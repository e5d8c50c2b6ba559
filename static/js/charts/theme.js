// Colours and dashes of curves, from the theme in force.

import { setStyle } from '../ui/dom.js';

/** Whether the theme is dark; its `change` event says when to recolour what is drawn on a canvas. */
export const dark = window.matchMedia('(prefers-color-scheme: dark)');

const DASHES = [undefined, [8, 4], [3, 3], [10, 3, 2, 3], [1, 4]];
const BORDERS = ['solid', 'dashed', 'dotted', 'dashed', 'dotted'];

/**
 * The value of a custom property of the theme.
 * @param {string} name such as `--grid`
 */
export function token(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/**
 * The colour of curve `index`: the five of the theme, then hues spread by the golden angle.
 * @param {number} index
 */
export function lineColour(index) {
  if (index < 5) return token(`--series-${index + 1}`);
  return `hsl(${Math.round(index * 137.5) % 360} 60% ${dark.matches ? 70 : 34}%)`;
}

/**
 * The dash pattern of curve `index`, so that curves differ without colour too.
 * @param {number} index
 */
export function lineDash(index) {
  return DASHES[index % DASHES.length];
}

/**
 * Draws the legend's swatch in the style of curve `index`.
 * @param {HTMLElement} swatch
 * @param {number} index
 */
export function styleSwatch(swatch, index) {
  setStyle(swatch, 'color', lineColour(index));
  setStyle(swatch, 'border-top-style', BORDERS[index % BORDERS.length]);
}
