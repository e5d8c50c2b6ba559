// A text area for JSON, with line numbers and a list of faults that lead to their lines.

import { locate, position, scan } from '../json/positions.js';
import { fill, h, setStyle, setText } from '../ui/dom.js';

/** @typedef {{ pointer: string | null, detail: string, start: number, end: number, column?: number }} UnplacedFault */
/** @typedef {UnplacedFault & { line: number }} PlacedFault */

/** Milliseconds without typing before a syntax error is shown. */
const SYNTAX_DELAY = 250;

export class Editor {
  /** @type {PlacedFault[]} */
  #faults = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {{ label: string, onInput: () => void, signal: AbortSignal }} options */
  constructor({ label, onInput, signal }) {
    this.onInput = onInput;
    this.numbers = h('ol', { class: 'gutter', 'aria-hidden': 'true' });
    this.area = h('textarea', {
      id: 'spec', class: 'code', rows: 30, spellcheck: 'false', autocapitalize: 'off', autocomplete: 'off', wrap: 'off', 'aria-describedby': 'spec-faults',
    });
    this.summary = h('p', { class: 'faults-summary', role: 'status' });
    this.list = h('ul', { class: 'faults', id: 'spec-faults' });
    this.element = h('div', { class: 'editor' },
      h('label', { for: 'spec' }, label),
      h('div', { class: 'editor-frame' }, h('div', { class: 'gutter-frame' }, this.numbers), this.area),
      this.summary, this.list);
    this.area.addEventListener('input', () => this.#changed());
    this.area.addEventListener('scroll', () => this.#scrollNumbers());
    this.area.addEventListener('keydown', (event) => this.#indent(event));
    signal.addEventListener('abort', () => clearTimeout(this.#timer));
  }

  get text() {
    return this.area.value;
  }

  /** Replaces the text as if it had been typed, but without an entry for the browser's undo. */
  set text(text) {
    this.area.value = text;
    this.#changed();
    this.area.scrollTop = 0;
  }

  /**
   * Replaces the text without calling `onInput`.
   * @param {string} text
   */
  replace(text) {
    this.area.value = text;
    this.#show([], '');
  }

  /** The document, or null if the text is not JSON. It may be no object; the server rejects that. */
  peek() {
    try {
      return JSON.parse(this.text);
    } catch {
      return null;
    }
  }

  /** The document, or null after showing the syntax error. */
  parse() {
    const { error } = scan(this.text);
    this.#showSyntax();
    if (error) this.#goTo(this.#faults[0]);
    return error ? null : JSON.parse(this.text);
  }

  /**
   * @param {Fault[]} errors
   * @param {boolean} [focus] whether to select the first
   */
  showFaults(errors, focus = false) {
    const { places } = scan(this.text);
    const faults = errors.map(({ pointer, detail }) => ({ pointer, detail, ...locate(places, pointer) })).sort((a, b) => a.start - b.start);
    this.#show(faults, ['', '1 error:'][faults.length] ?? `${faults.length} errors:`);
    if (faults.length && focus) this.#goTo(this.#faults[0]);
  }

  /**
   * Goes to the fault at a pointer.
   * @param {string} pointer
   */
  goToPointer(pointer) {
    const fault = this.#faults.find((one) => one.pointer === pointer);
    if (fault) this.#goTo(fault);
  }

  #changed() {
    this.#show([], '');
    this.onInput();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#showSyntax(), SYNTAX_DELAY);
  }

  #showSyntax() {
    clearTimeout(this.#timer);
    const { error } = scan(this.text);
    if (!error) return;
    const { offset, message } = error;
    const { column } = position(this.text, offset);
    this.#show([{ pointer: null, detail: message, start: offset, end: Math.min(offset + 1, this.text.length), column }], 'This is not valid JSON:');
  }

  /**
   * @param {UnplacedFault[]} faults
   * @param {string} summary
   */
  #show(faults, summary) {
    this.#faults = faults.map((fault) => ({ ...fault, line: position(this.text, fault.start).line }));
    this.#number();
    setText(this.summary, summary);
    if (faults.length) this.area.setAttribute('aria-invalid', 'true');
    else this.area.removeAttribute('aria-invalid');
    fill(this.list, this.#faults.map((fault) => h('li', {}, this.#faultButton(fault))));
  }

  /** @param {PlacedFault} fault */
  #faultButton(fault) {
    const where = fault.column ? `line ${fault.line}, column ${fault.column}` : `line ${fault.line}`;
    return h('button', { type: 'button', class: 'fault', onclick: () => this.#goTo(fault) },
      h('span', { class: 'fault-line' }, where),
      fault.pointer ? h('code', {}, fault.pointer) : null,
      h('span', { class: 'fault-detail' }, fault.detail));
  }

  /** Writes the line numbers, and marks lines with faults. */
  #number() {
    const lines = this.text.split('\n').length;
    while (this.numbers.childElementCount > lines) this.numbers.lastElementChild?.remove();
    while (this.numbers.childElementCount < lines) this.numbers.append(h('li', {}, String(this.numbers.childElementCount + 1)));
    /** @type {Map<number, string[]>} */
    const marked = new Map();
    for (const { line, detail } of this.#faults) marked.set(line, [...(marked.get(line) ?? []), detail]);
    this.numbers.querySelectorAll('li').forEach((number, index) => {
      const details = marked.get(index + 1);
      number.classList.toggle('faulty', details !== undefined);
      if (details) number.title = details.join('\n');
      else number.removeAttribute('title');
    });
    this.#scrollNumbers();
  }

  #scrollNumbers() {
    setStyle(this.numbers, 'transform', `translateY(${-this.area.scrollTop}px)`);
  }

  /** @param {PlacedFault} fault */
  #goTo({ start, end, line }) {
    this.area.focus({ preventScroll: true });
    this.area.setSelectionRange(start, Math.min(end, this.#endOfLine(start)));
    const height = this.area.scrollHeight / Math.max(this.numbers.childElementCount, 1);
    this.area.scrollTop = Math.max((line - 4) * height, 0);
    this.area.scrollIntoView({ block: 'nearest' });
  }

  /** @param {number} offset */
  #endOfLine(offset) {
    const end = this.text.indexOf('\n', offset);
    return end < 0 ? this.text.length : end;
  }

  /**
   * Indents the new line after Enter. Tab keeps its meaning, which is to leave the field.
   * @param {KeyboardEvent} event
   */
  #indent(event) {
    if (event.key !== 'Enter' || event.isComposing || event.ctrlKey || event.metaKey) return;
    const { selectionStart: start, selectionEnd: end } = this.area;
    const before = this.text.slice(0, start);
    const indent = /(?:^|\n)( *)[^\n]*$/.exec(before)?.[1] ?? '';
    const deeper = /[[{]\s*$/.test(before) ? '  ' : '';
    if (!indent && !deeper) return;
    event.preventDefault();
    this.area.setRangeText(`\n${indent}${deeper}`, start, end, 'end');
    this.#changed();
  }
}
