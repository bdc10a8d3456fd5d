/** Destinations as people write them: lists, ranges and files. The same rules as those of the command line. */

/** More than any job may have; a range that is longer is a slip of the fingers. */
const MOST = 1_000_000;
const RANGE = /\[([0-9]{1,12})-([0-9]{1,12})\]/;

/**
 * @typedef {object} Expanded
 * @property {string[]} names each destination once, in order
 * @property {number} repeated how many stood there again
 * @property {string | null} fault why it can't be used
 */

/**
 * Expand a text: one on each line or with commas between them, in which `device-[0001-0050]` stands for 50 names with
 * their zeros. Lines that begin with # are left out.
 *
 * @param {string} text
 * @param {string[][]} [files] the lines of files, taken as they are
 * @returns {Expanded}
 */
export function expand(text, files = []) {
  /** @type {Set<string>} */
  const found = new Set();
  let seen = 0;
  const add = (/** @type {string} */ name) => {
    seen += 1;
    found.add(name);
    if (found.size > MOST) throw new RangeError(`these are more than ${MOST.toLocaleString('en')} destinations`);
  };
  try {
    for (const line of lines(text)) {
      for (const part of line.split(',')) if (part.trim()) expandRange(part.trim(), add);
    }
    for (const file of files) file.forEach(add);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { names: [], repeated: 0, fault: error.message };
  }
  return { names: [...found], repeated: seen - found.size, fault: null };
}

/**
 * The lines of a text or a file that name something.
 *
 * @param {string} text
 */
export function lines(text) {
  return text
    .replace(/^\uFEFF/, '')
    .split(/\r\n|[\r\n]/)
    .map((line) => line.trim())
    .filter((line) => line && !line.startsWith('#'));
}

/**
 * @param {string} text
 * @param {(name: string) => void} add
 */
function expandRange(text, add) {
  const pieces = text.split(new RegExp(RANGE, 'g')); // text, low, high, text, low, high, ..., text
  if (pieces.some((piece, place) => place % 3 === 0 && /[[\]]/.test(piece))) {
    throw new RangeError(`“${short(text)}” has a bad range: write [1-50], or [0001-0050] to keep the zeros`);
  }
  walk(pieces, 0, '', add);
}

/**
 * All names of these pieces, the last range counting fastest.
 *
 * @param {string[]} pieces
 * @param {number} at
 * @param {string} before
 * @param {(name: string) => void} add
 */
function walk(pieces, at, before, add) {
  const text = before + pieces[at];
  if (at + 1 >= pieces.length) {
    add(text);
    return;
  }
  const [low, high] = [pieces[at + 1], pieces[at + 2]];
  const [first, last] = [Number(low), Number(high)];
  if (last < first) throw new RangeError(`the range [${low}-${high}] runs backwards`);
  if (last - first >= MOST)
    throw new RangeError(`the range [${low}-${high}] has more than ${MOST.toLocaleString('en')} numbers`);
  for (let value = first; value <= last; value += 1) {
    walk(pieces, at + 3, text + String(value).padStart(low.length, '0'), add);
  }
}

/** @param {string} text */
const short = (text) => (text.length > 80 ? `${text.slice(0, 79)}…` : text);
