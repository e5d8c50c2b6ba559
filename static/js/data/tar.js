// Packs files as a tar without reading them: the browser reads each when its bytes are sent.

/**
 * @typedef {object} PackedFile
 * @property {string} path in the archive
 * @property {File} file
 */

const BLOCK = 512;
/** Longest path in the header of an entry, in bytes of UTF-8. */
const LONGEST_PATH = 100;
/** Sizes from here on do not fit into eleven octal digits. */
const LARGE = 8 ** 11;

/**
 * A tar of files, in the order of their paths, so that the same files give the same bytes.
 * @param {readonly PackedFile[]} files
 */
export function packTar(files) {
  /** @type {BlobPart[]} */
  const parts = [];
  for (const { path, file } of files.toSorted((one, other) => (one.path < other.path ? -1 : 1))) {
    const name = new TextEncoder().encode(path);
    if (name.length > LONGEST_PATH) {
      const long = new Uint8Array(padded(name.length + 1));
      long.set(name);
      parts.push(header(new TextEncoder().encode('././@LongLink'), name.length + 1, 'L'), long);
    }
    parts.push(header(name.slice(0, LONGEST_PATH), file.size, '0'), file, new Uint8Array(padded(file.size) - file.size));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts);
}

/** @param {number} size */
function padded(size) {
  return Math.ceil(size / BLOCK) * BLOCK;
}

/**
 * The header of an entry in GNU's format, without owner and time.
 * @param {Uint8Array} name
 * @param {number} size
 * @param {string} type
 */
function header(name, size, type) {
  const block = new Uint8Array(BLOCK);
  const write = (/** @type {string} */ text, /** @type {number} */ at) => block.set(new TextEncoder().encode(text), at);
  block.set(name);
  write('0000644\0', 100);
  write('0000000\0', 108);
  write('0000000\0', 116);
  block.set(sizeField(size), 124);
  write('00000000000\0', 136);
  // The checksum is computed with blanks in its own place.
  write('        ', 148);
  write(type, 156);
  write('ustar  \0', 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

/**
 * The twelve bytes that say the size of a file: octal digits or, of a large one, base 256, marked by the first bit.
 * @param {number} size
 */
export function sizeField(size) {
  if (size < LARGE) return new TextEncoder().encode(`${size.toString(8).padStart(11, '0')}\0`);
  const field = new Uint8Array(12);
  field[0] = 0x80;
  for (let place = 11, rest = size; rest > 0; place -= 1, rest = Math.floor(rest / 256)) field[place] = rest % 256;
  return field;
}
