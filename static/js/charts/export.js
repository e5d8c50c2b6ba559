// Files that a page makes itself.

import { h } from '../ui/dom.js';

/** @import { LegendEntry } from './chart.js' */

/**
 * Lets the browser save a file.
 * @param {string} name
 * @param {string} type
 * @param {Blob | string} content
 */
export function save(name, type, content) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/**
 * A file name made from any text.
 * @param {string} text
 * @param {string} extension
 */
export function fileName(text, extension) {
  return `${text.replaceAll(/[^\w.-]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 80) || 'chart'}.${extension}`;
}

/**
 * Rows as CSV (RFC 4180). An apostrophe keeps a spreadsheet from running text as a formula.
 * @param {unknown[][]} rows
 */
export function csv(rows) {
  const cell = (/** @type {unknown} */ value) => {
    if (value === null || value === undefined) return '';
    const text = typeof value === 'string' && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}

const LINE = 20;
const MARGIN = 16;

/**
 * A canvas below its title and above its legend as a PNG, in the resolution of the screen.
 * @param {HTMLCanvasElement} canvas
 * @param {{ title: string, legend: LegendEntry[], background: string, text: string }} options `background` and `text`
 *   are colours
 * @returns {Promise<Blob>}
 */
export async function png(canvas, { title, legend, background, text }) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.width / scale + 2 * MARGIN;
  const top = MARGIN + 1.5 * LINE;
  const image = h('canvas', {});
  const context = image.getContext('2d');
  if (!context) throw new Error('This browser offers no canvas.');
  const font = `13px ${getComputedStyle(document.body).fontFamily}`;
  context.font = font;
  const lines = wrap(context, legend, width - 2 * MARGIN);
  // Setting the size resets the context.
  image.width = width * scale;
  image.height = (top + canvas.height / scale + LINE * lines.length + MARGIN) * scale;
  context.scale(scale, scale);
  context.fillStyle = background;
  context.fillRect(0, 0, width, image.height / scale);
  context.fillStyle = text;
  context.textBaseline = 'top';
  context.font = `600 ${font.replace('13px', '15px')}`;
  context.fillText(title, MARGIN, MARGIN);
  context.drawImage(canvas, MARGIN, top, canvas.width / scale, canvas.height / scale);
  context.font = font;
  drawLegend(context, lines, { top: top + canvas.height / scale, text });
  return new Promise((resolve, reject) => {
    image.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('The image is too large.'))), 'image/png');
  });
}

/** @typedef {LegendEntry & { x: number }} PlacedEntry */

/**
 * @param {CanvasRenderingContext2D} context
 * @param {PlacedEntry[][]} lines
 * @param {{ top: number, text: string }} options
 */
function drawLegend(context, lines, { top, text }) {
  lines.forEach((line, row) => {
    for (const { x, label, colour } of line) {
      context.fillStyle = colour;
      context.fillRect(MARGIN + x, top + row * LINE + 8, 14, 3);
      context.fillStyle = text;
      context.fillText(label, MARGIN + x + 20, top + row * LINE + 2);
    }
  });
}

/**
 * The entries of a legend, in lines that fit a width.
 * @param {CanvasRenderingContext2D} context
 * @param {LegendEntry[]} legend
 * @param {number} width
 */
function wrap(context, legend, width) {
  /** @type {PlacedEntry[][]} */
  const lines = [];
  let x = width;
  for (const entry of legend) {
    const wide = context.measureText(entry.label).width + 36;
    if (x + wide > width) {
      lines.push([]);
      x = 0;
    }
    lines[lines.length - 1].push({ x, ...entry });
    x += wide;
  }
  return lines;
}
