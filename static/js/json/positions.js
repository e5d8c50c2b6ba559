// Reads JSON as strictly as JSON.parse and remembers where each value stands, so that a fault with a JSON pointer
// (RFC 6901) can be shown at its line.

const DEEPEST = 120;

/**
 * The places of a document: `{error: null | {message, offset}, places: Map<pointer, {start, end}>}`. A place covers
 * the value and, for a member of an object, its key. After an error, `places` holds what came before it.
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

/** Where a pointer leads; for one that leads nowhere, such as a missing field, the closest object around it. */
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

/** Line and column of an offset, both from 1. */
export function position(text, offset) {
  const before = text.slice(0, offset);
  const line = before.split('\n').length;
  return { line, column: offset - before.lastIndexOf('\n') };
}

/** A key or an index as one part of a pointer. */
export function escapePart(part) {
  return String(part).replaceAll('~', '~0').replaceAll('/', '~1');
}

class Malformed extends Error {
  constructor(message, offset) {
    super(message);
    this.offset = offset;
  }
}

class Scanner {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.places = new Map();
  }

  document() {
    this.space();
    if (this.at >= this.text.length) this.fail('the document is empty');
    this.value('', this.at, 0);
    this.space();
    if (this.at < this.text.length) this.fail(`the document ends before ${this.found()}`);
  }

  value(pointer, start, depth) {
    if (depth > DEEPEST) this.fail('nested too deeply');
    const first = this.text[this.at];
    if (first === '{') this.object(pointer, depth);
    else if (first === '[') this.array(pointer, depth);
    else if (first === '"') this.string();
    else if (first === '-' || (first >= '0' && first <= '9')) this.number();
    else this.word();
    this.places.set(pointer, { start, end: this.at });
  }

  object(pointer, depth) {
    this.at += 1;
    this.space();
    if (this.take('}')) return;
    for (;;) {
      const start = this.at;
      if (this.text[this.at] === '}') this.fail('a comma stands before the closing brace: remove it', this.commaBefore());
      if (this.text[this.at] !== '"') this.fail(`expected a name in double quotes, found ${this.found()}`);
      const key = this.string();
      this.space();
      if (!this.take(':')) this.fail(`expected a colon after "${key}", found ${this.found()}`);
      this.space();
      this.value(`${pointer}/${escapePart(key)}`, start, depth + 1);
      if (this.next('}', 'brace')) return;
    }
  }

  array(pointer, depth) {
    this.at += 1;
    this.space();
    if (this.take(']')) return;
    for (let index = 0; ; index += 1) {
      if (this.text[this.at] === ']') this.fail('a comma stands before the closing bracket: remove it', this.commaBefore());
      this.value(`${pointer}/${index}`, this.at, depth + 1);
      if (this.next(']', 'bracket')) return;
    }
  }

  /** After an element: true at the end, false after a comma. */
  next(closing, name) {
    const end = this.at;
    this.space();
    if (this.take(closing)) return true;
    if (!this.take(',')) {
      // The comma that is missing belongs after the value, not before whatever comes lines later.
      const missing = this.at >= this.text.length ? `the closing ${name} is missing` : `expected a comma or the closing ${name} here, found ${this.found()}`;
      this.fail(missing, this.at >= this.text.length ? this.at : end);
    }
    this.space();
    return false;
  }

  string() {
    const start = this.at;
    this.at += 1;
    for (;;) {
      const character = this.text[this.at];
      if (character === undefined || character === '\n') this.fail('the closing double quote is missing', start);
      if (character < ' ') this.fail('a control character stands in a string: write it as \\u00XX');
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
    const run = /^[-+.\w]*/.exec(this.text.slice(this.at, this.at + 400))[0];
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
    return `"${String.fromCodePoint(this.text.codePointAt(this.at))}"`;
  }

  commaBefore() {
    return this.text.lastIndexOf(',', this.at);
  }

  take(character) {
    if (this.text[this.at] !== character) return false;
    this.at += 1;
    return true;
  }

  space() {
    while (' \t\n\r'.includes(this.text[this.at] ?? 'x')) this.at += 1;
  }

  fail(message, offset = this.at) {
    throw new Malformed(message, offset);
  }
}
