/** JSON as text: read without losing digits, printed compactly, and its first fault in words. */

const LONG_NUMBER = /\d{16}/;
const DEEPEST = 100; // levels, as on the server

/**
 * Read JSON. Whole numbers too long for JavaScript become bigints where the browser can do that: a serial number must
 * not be shown with other digits than the device gave.
 *
 * @param {string} text
 */
export function read(text) {
  if (!LONG_NUMBER.test(text)) return JSON.parse(text);
  return JSON.parse(
    text,
    /** @type {any} */ (
      (/** @type {string} */ _key, /** @type {unknown} */ value, /** @type {{source?: string}} */ context) =>
        typeof value === 'number' && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? '')
          ? BigInt(/** @type {string} */ (context.source))
          : value
    ),
  );
}

/**
 * Print a value for reading: what is short stays on its line.
 *
 * @param {unknown} value
 * @param {number} [width]
 * @returns {string}
 */
export function print(value, width = 88) {
  return printAt(value, '', width);
}

/**
 * @param {any} value
 * @param {string} indent
 * @param {number} width
 * @returns {string}
 */
function printAt(value, indent, width) {
  if (value === null || typeof value !== 'object') return scalar(value);
  const list = Array.isArray(value);
  const entries = list
    ? value.map((item) => ['', item])
    : Object.entries(value).map(([name, item]) => [`${text(name)}: `, item]);
  const [open, close] = list ? '[]' : '{}';
  if (!entries.length) return open + close;
  const inner = `${indent}  `;
  const parts = entries.map(([name, item]) => name + printAt(item, inner, width));
  const flat = parts.every((part) => !part.includes('\n'));
  const line = `${open}${parts.join(', ')}${close}`;
  if (flat && indent.length + line.length <= width) return line;
  const lines = list && flat ? wrapped(parts, width - inner.length) : parts;
  return `${open}\n${lines.map((part) => inner + part).join(',\n')}\n${indent}${close}`;
}

/**
 * Short items together on lines.
 *
 * @param {string[]} parts
 * @param {number} width
 */
function wrapped(parts, width) {
  /** @type {string[]} */
  const lines = [];
  for (const part of parts) {
    const last = lines.length - 1;
    if (last >= 0 && lines[last].length + part.length + 2 <= width) lines[last] += `, ${part}`;
    else lines.push(part);
  }
  return lines;
}

/** @param {unknown} value */
function scalar(value) {
  return typeof value === 'bigint' ? value.toString() : text(value);
}

/**
 * JSON in which characters that turn the direction of what follows, and would show it as what it is not, are escaped.
 *
 * @param {unknown} value
 */
function text(value) {
  const escape = (/** @type {string} */ char) => `\\u${char.charCodeAt(0).toString(16)}`;
  return (JSON.stringify(value) ?? 'null').replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, escape);
}

/**
 * A value in a few words: `version v2.1`, `a: 1, b: 2`. It stops when it has enough, however large the value is.
 *
 * @param {any} value
 * @param {number} [most] characters
 * @returns {string}
 */
export function brief(value, most = 140) {
  const text = briefly(value, most, 0);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/**
 * @param {any} value
 * @param {number} most
 * @param {number} depth
 * @returns {string}
 */
function briefly(value, most, depth) {
  if (typeof value === 'string') return value.slice(0, most + 1).replace(/\s+/g, ' ');
  if (value === null || typeof value !== 'object') return scalar(value);
  if (depth > 3) return '…';
  const list = Array.isArray(value);
  const entries = Object.entries(value);
  if (!entries.length) return list ? '[]' : '{}';
  if (!list && entries.length === 1 && depth === 0 && typeof entries[0][1] !== 'object') {
    return `${entries[0][0]} ${briefly(entries[0][1], most, 1)}`;
  }
  let text = '';
  for (const [name, item] of entries) {
    if (text.length > most) break;
    text += `${text ? ', ' : ''}${list ? '' : `${name}: `}${briefly(item, most, depth + 1)}`;
  }
  if (depth === 0) return text;
  return list ? `[${text}]` : `{${text}}`;
}

/**
 * @typedef {object} JsonFault
 * @property {number} at where it is, in characters
 * @property {number} line from 1
 * @property {number} column from 1
 * @property {string} message
 */

/**
 * The first fault of a text that should be JSON, or null. `JSON.parse` knows one too, but each browser says it in
 * other words, often without the place, and none minds a name that stands twice, which the server refuses.
 *
 * @param {string} text
 * @returns {JsonFault | null}
 */
export function faultOf(text) {
  try {
    new Scanner(text).document();
  } catch (found) {
    if (found instanceof Scanned) return placed(text, found.at, found.message);
    throw found;
  }
  return null;
}

/**
 * @param {string} text
 * @param {number} at
 * @param {string} message
 * @returns {JsonFault}
 */
function placed(text, at, message) {
  const before = text.slice(0, at);
  return { at, line: before.split('\n').length, column: at - before.lastIndexOf('\n'), message };
}

class Scanned extends Error {
  /**
   * @param {number} at
   * @param {string} message
   */
  constructor(at, message) {
    super(message);
    this.at = at;
  }
}

/** Walks over JSON only to find where it stops being JSON. */
class Scanner {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.depth = 0;
  }

  document() {
    this.space();
    if (this.at === this.text.length) this.fail('there is nothing here');
    this.value();
    if (this.at < this.text.length) this.fail(`the value has ended, and ${this.here()} follows`);
  }

  value() {
    if (++this.depth > DEEPEST) this.fail(`it is nested more than ${DEEPEST} levels deep`);
    const char = this.text[this.at];
    if (char === '{') this.members();
    else if (char === '[') this.items();
    else if (char === '"') this.string();
    else if (char === '-' || (char >= '0' && char <= '9')) this.number();
    else this.word();
    this.depth -= 1;
    this.space();
  }

  members() {
    /** @type {Set<string>} */
    const names = new Set();
    const start = this.at++;
    this.space();
    if (this.take('}')) return;
    for (;;) {
      if (this.text[this.at] === '}') this.fail('there is a comma too many before }');
      if (this.text[this.at] !== '"') {
        if (this.at === this.text.length) this.fail('the object is not closed: } is missing', start);
        this.fail(`a name in double quotes is wanted here, not ${this.here()}`);
      }
      const begin = this.at;
      this.string();
      const name = JSON.parse(this.text.slice(begin, this.at));
      if (names.has(name)) this.fail(`the name “${name}” stands twice in this object`, begin);
      names.add(name);
      this.space();
      if (!this.take(':')) this.fail(`after a name comes a colon, not ${this.here()}`);
      this.space();
      this.value();
      if (this.take('}')) return;
      if (!this.take(',')) {
        if (this.at === this.text.length) this.fail('the object is not closed: } is missing', start);
        this.fail(`a comma or } is wanted here, not ${this.here()}`);
      }
      this.space();
    }
  }

  items() {
    const start = this.at++;
    this.space();
    if (this.take(']')) return;
    for (;;) {
      if (this.text[this.at] === ']') this.fail('there is a comma too many before ]');
      if (this.at === this.text.length) this.fail('the list is not closed: ] is missing', start);
      this.value();
      if (this.take(']')) return;
      if (!this.take(',')) {
        if (this.at === this.text.length) this.fail('the list is not closed: ] is missing', start);
        this.fail(`a comma or ] is wanted here, not ${this.here()}`);
      }
      this.space();
    }
  }

  string() {
    const start = this.at++;
    for (;;) {
      const char = this.text[this.at];
      if (char === undefined) this.fail('the text is not closed: a " is missing', start);
      if (char < ' ') this.fail('a text can\'t have a line break in it: write \\n, or close it with "', start);
      this.at += 1;
      if (char === '"') return;
      if (char === '\\') this.escape();
    }
  }

  escape() {
    const found = /^(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/.exec(this.text.slice(this.at, this.at + 5));
    if (!found) this.fail('a backslash here has to be written \\\\', this.at - 1);
    this.at += /** @type {RegExpExecArray} */ (found)[0].length;
  }

  number() {
    const found = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/.exec(this.text.slice(this.at, this.at + 400));
    if (!found) this.fail('this is no number that JSON knows');
    const length = /** @type {RegExpExecArray} */ (found)[0].length;
    if (/[\w.]/.test(this.text[this.at + length] ?? '')) this.fail('this is no number that JSON knows');
    this.at += length;
  }

  word() {
    const found = /^[A-Za-z_$][\w$]*/.exec(this.text.slice(this.at, this.at + 40))?.[0];
    if (found === 'true' || found === 'false' || found === 'null') {
      this.at += found.length;
      return;
    }
    if (this.text[this.at] === "'") this.fail('JSON writes texts in double quotes, not in single ones');
    if (found) this.fail(`${found} is no JSON; a text stands in double quotes: "${found}"`);
    this.fail(`a value is wanted here, not ${this.here()}`);
  }

  /** @param {string} char */
  take(char) {
    if (this.text[this.at] !== char) return false;
    this.at += 1;
    return true;
  }

  space() {
    while (this.at < this.text.length && ' \t\r\n'.includes(this.text[this.at])) this.at += 1;
  }

  here() {
    const code = this.text.codePointAt(this.at);
    return code === undefined ? 'the end' : `“${String.fromCodePoint(code)}”`;
  }

  /**
   * @param {string} message
   * @param {number} [at]
   * @returns {never}
   */
  fail(message, at = this.at) {
    throw new Scanned(at, message);
  }
}
