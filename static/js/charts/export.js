// Files that a page makes itself.

import { h } from '../ui/dom.js';

/** Lets the browser save a file. */
export function save(name, type, content) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A name for files, of any text. */
export function fileName(text, extension) {
  return `${text.replaceAll(/[^\w.-]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 80) || 'chart'}.${extension}`;
}

/** Rows as CSV (RFC 4180). A text that a spreadsheet would take for a formula is kept a text by an apostrophe. */
export function csv(rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return '';
    const text = typeof value === 'string' && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}

const LINE = 20;
const EDGE = 16;

/** A PNG of a canvas under its title and above its legend, `[{label, colour}]`, at the pixels of the screen. */
export async function png(canvas, title, legend, { background, text }) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.width / scale + 2 * EDGE;
  const image = document.createElement('canvas');
  const context = image.getContext('2d');
  const font = `13px ${getComputedStyle(document.body).fontFamily}`;
  context.font = font;
  const lines = wrap(context, legend, width - 2 * EDGE);
  image.width = width * scale;
  image.height = (canvas.height / scale + 2 * EDGE + LINE * (1.5 + lines.length)) * scale;
  context.scale(scale, scale);
  context.fillStyle = background;
  context.fillRect(0, 0, width, image.height / scale);
  context.fillStyle = text;
  context.font = `600 ${font.replace('13px', '15px')}`;
  context.textBaseline = 'top';
  context.fillText(title, EDGE, EDGE);
  context.drawImage(canvas, EDGE, EDGE + 1.5 * LINE, canvas.width / scale, canvas.height / scale);
  context.font = font;
  lines.forEach((line, row) => {
    const top = EDGE + 1.5 * LINE + canvas.height / scale + row * LINE;
    for (const { x, label, colour } of line) {
      context.fillStyle = colour;
      context.fillRect(EDGE + x, top + 8, 14, 3);
      context.fillStyle = text;
      context.fillText(label, EDGE + x + 20, top + 2);
    }
  });
  return new Promise((resolve) => { image.toBlob(resolve, 'image/png'); });
}

/** The entries of a legend in lines that fit. */
function wrap(context, legend, width) {
  const lines = [];
  let x = width;
  for (const { label, colour } of legend) {
    const wide = context.measureText(label).width + 36;
    if (x + wide > width) {
      lines.push([]);
      x = 0;
    }
    lines.at(-1).push({ x, label, colour });
    x += wide;
  }
  return lines;
}
