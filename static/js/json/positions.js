// Reads JSON as strictly as JSON.parse and records where each value is, so that a fault at a JSON pointer (RFC 6901)
// can be shown at its line.

import { escapePart } from './pointers.js';

/** @typedef {{ start: number, end: number }} Place offsets; covers a value and, in an object, its key */
/** @typedef {Map<string, Place>} Places by JSON pointer */

const MAX_DEPTH = 120;

/**
 * The places of all values of a document; after a syntax error, those before it.
 * @param {string} text
 * @returns {{ error: { message: string, offset: number } | null, places: Places }}
 */
export function scan(text) {
  const scanner = new Scanner(text);
  try {
    scanner.document();
    return { error: null, places: scanner.places };
  } catch (fault) {
    if (!(fault instanceof Malformed)) throw fault;
    return { error: { message: fault.message, offset: fault.offset }, places: scanner.places };
  }
}

/**
 * The place of a pointer. If there is none, as for a missing field, that of the closest value around it.
 * @param {Places} places
 * @param {string} pointer
 */
export function locate(places, pointer) {
  let path = pointer;
  for (;;) {
    const place = places.get(path);
    if (place) return { ...place, exact: path === pointer };
    const cut = path.lastIndexOf('/');
    if (cut < 0) return { start: 0, end: 0, exact: false };
    path = path.slice(0, cut);
  }
}

/**
 * Line and column of an offset, both from 1.
 * @param {string} text
 * @param {number} offset
 */
export function position(text, offset) {
  const before = text.slice(0, offset);
  const line = before.split('\n').length;
  return { line, column: offset - before.lastIndexOf('\n') };
}

class Malformed extends Error {
  /**
   * @param {string} message
   * @param {number} offset
   */
  constructor(message, offset) {
    super(message);
    this.offset = offset;
  }
}

class Scanner {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
    this.at = 0;
    /** @type {Places} */
    this.places = new Map();
  }

  document() {
    this.space();
    if (this.at >= this.text.length) this.fail('the document is empty');
    this.value('', this.at, 0);
    this.space();
    if (this.at < this.text.length) this.fail(`the document ends before ${this.found()}`);
  }

  /**
   * @param {string} pointer
   * @param {number} start
   * @param {number} depth
   */
  value(pointer, start, depth) {
    if (depth > MAX_DEPTH) this.fail('nested too deeply');
    const first = this.text[this.at];
    if (first === '{') this.object(pointer, depth);
    else if (first === '[') this.array(pointer, depth);
    else if (first === '"') this.string();
    else if (first === '-' || (first >= '0' && first <= '9')) this.number();
    else this.word();
    this.places.set(pointer, { start, end: this.at });
  }

  /**
   * @param {string} pointer
   * @param {number} depth
   */
  object(pointer, depth) {
    this.at += 1;
    this.space();
    if (this.take('}')) return;
    for (;;) {
      const start = this.at;
      if (this.text[this.at] === '}') this.fail('remove the comma before the closing brace', this.commaBefore());
      if (this.text[this.at] !== '"') this.fail(`expected a name in double quotes, found ${this.found()}`);
      const key = this.string();
      this.space();
      if (!this.take(':')) this.fail(`expected a colon after "${key}", found ${this.found()}`);
      this.space();
      this.value(`${pointer}/${escapePart(key)}`, start, depth + 1);
      if (this.next('}', 'brace')) return;
    }
  }

  /**
   * @param {string} pointer
   * @param {number} depth
   */
  array(pointer, depth) {
    this.at += 1;
    this.space();
    if (this.take(']')) return;
    for (let index = 0; ; index += 1) {
      if (this.text[this.at] === ']') this.fail('remove the comma before the closing bracket', this.commaBefore());
      this.value(`${pointer}/${index}`, this.at, depth + 1);
      if (this.next(']', 'bracket')) return;
    }
  }

  /**
   * After an element: true at the end, false after a comma.
   * @param {string} closing
   * @param {string} name of the closing character
   */
  next(closing, name) {
    const end = this.at;
    this.space();
    if (this.take(closing)) return true;
    if (!this.take(',')) {
      // Points at the end of the value, where the comma belongs, and not at whatever follows lines later.
      const missing = this.at >= this.text.length ? `the closing ${name} is missing` : `expected a comma or the closing ${name} here, found ${this.found()}`;
      this.fail(missing, this.at >= this.text.length ? this.at : end);
    }
    this.space();
    return false;
  }

  /** @returns {string} */
  string() {
    const start = this.at;
    this.at += 1;
    for (;;) {
      const character = this.text[this.at];
      if (character === undefined || character === '\n') this.fail('the closing double quote is missing', start);
      if (character < ' ') this.fail('write control characters in strings as \\u00XX');
      if (character === '"') break;
      this.at += character === '\\' ? this.escape() : 1;
    }
    this.at += 1;
    return JSON.parse(this.text.slice(start, this.at));
  }

  /** Length of the escape sequence here. */
  escape() {
    const kind = this.text[this.at + 1];
    if (kind === 'u') {
      if (!/^[0-9a-fA-F]{4}$/.test(this.text.slice(this.at + 2, this.at + 6))) this.fail('expected four hexadecimal digits after \\u');
      return 6;
    }
    if (kind === undefined || !'"\\/bfnrt'.includes(kind)) this.fail('unknown escape sequence; a backslash itself is written \\\\');
    return 2;
  }

  number() {
    const match = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/.exec(this.text.slice(this.at, this.at + 400));
    const [run] = /** @type {RegExpExecArray} */ (/^[-+.\w]*/.exec(this.text.slice(this.at, this.at + 400)));
    if (!match || match[0].length !== run.length) this.fail(`"${run.slice(0, 30)}" is not a JSON number`);
    this.at += run.length;
  }

  word() {
    const match = /^[A-Za-z_]\w*/.exec(this.text.slice(this.at, this.at + 100));
    if (match && ['true', 'false', 'null'].includes(match[0])) {
      this.at += match[0].length;
      return;
    }
    if (match) this.fail(`expected a value, found ${match[0]}: text needs double quotes`);
    this.fail(`expected a value, found ${this.found()}`);
  }

  found() {
    const rest = this.text.slice(this.at, this.at + 2);
    if (rest === '') return 'the end';
    if (rest === '//' || rest === '/*') return 'a comment, which JSON does not have';
    if (rest[0] === "'") return 'a single quote: JSON uses double quotes';
    return `"${String.fromCodePoint(this.text.codePointAt(this.at) ?? 0)}"`;
  }

  commaBefore() {
    return this.text.lastIndexOf(',', this.at);
  }

  /** @param {string} character */
  take(character) {
    if (this.text[this.at] !== character) return false;
    this.at += 1;
    return true;
  }

  space() {
    while (' \t\n\r'.includes(this.text[this.at] ?? 'x')) this.at += 1;
  }

  /**
   * @param {string} message
   * @returns {never}
   */
  fail(message, offset = this.at) {
    throw new Malformed(message, offset);
  }
}
