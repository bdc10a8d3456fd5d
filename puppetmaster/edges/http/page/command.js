/** What an agent answers to `post /agent/commands`, in the words of people. */

/**
 * @typedef {object} CommandAnswer
 * @property {string} outcome
 * @property {number | null} exitCode
 * @property {number | null} [signal]
 * @property {number} [duration]
 * @property {number} [command]
 * @property {string} [stdout]
 * @property {string} [stderr]
 * @property {number} [outputBytes]
 * @property {number} [cutBytes]
 * @property {string} [message]
 */

const ENDS = ['"}', '"}}'];
const ESCAPE = 6; // characters of the longest escape in a JSON text, which may have been cut in two

/** @param {{method: string, resource: string}} request */
export const isCommand = ({ method, resource }) => method === 'post' && resource === '/agent/commands';

/**
 * The data of the answer, of a request that ended in any way, or null when it is no command's.
 *
 * @param {any} result
 * @param {boolean} [cut] it is the beginning of the result's JSON text only
 * @returns {CommandAnswer | null}
 */
export function answerOf(result, cut = false) {
  let data = cut ? mended(String(result)) : result;
  if (isObject(data) && 'code' in data && 'resource' in data && 'data' in data) data = data.data;
  return isObject(data) && typeof data.outcome === 'string' && 'exitCode' in data ? data : null;
}

/**
 * How it ended.
 *
 * @param {CommandAnswer} answer
 */
export function ending({ outcome, exitCode, signal, message }) {
  const isOver = outcome === 'done' || outcome === 'failed';
  if (isOver && typeof exitCode === 'number' && !signal) return `exit ${exitCode}`;
  return typeof message === 'string' && message ? message : outcome;
}

/**
 * The first line of what it said; of what went wrong stderr tells more.
 *
 * @param {CommandAnswer} answer
 */
export function firstLine({ exitCode, stdout, stderr }) {
  for (const text of exitCode === 0 ? [stdout, stderr] : [stderr, stdout]) {
    const line = typeof text === 'string' ? shown(text).trim().split('\n', 1)[0].trimEnd() : '';
    if (line) return line;
  }
  return '';
}

/**
 * How it ended, and what it said, in a line.
 *
 * @param {CommandAnswer} answer
 */
export function headline(answer) {
  const line = firstLine(answer);
  return line ? `${ending(answer)}: ${line}` : ending(answer);
}

/* eslint-disable no-control-regex */
const SEQUENCES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;

/**
 * Output as a terminal would show it in the end, without what would drive the terminal.
 *
 * @param {string} text
 */
export function shown(text) {
  return text
    .replace(SEQUENCES, '')
    .replace(/\r+\n/g, '\n')
    .replace(/[^\n]*\r(?=[^\n])/g, '')
    .replace(/\r/g, '')
    .replace(CONTROLS, '\ufffd');
}

/** @param {any} value */
const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

/**
 * What a JSON text began to say that was cut, as it is nearly always, within the output.
 *
 * @param {string} text
 */
function mended(text) {
  for (let leftOut = 0; leftOut <= ESCAPE; leftOut += 1) {
    for (const end of ENDS) {
      try {
        return JSON.parse(text.slice(0, text.length - leftOut) + end);
      } catch {
        // another end, then
      }
    }
  }
  return null;
}
