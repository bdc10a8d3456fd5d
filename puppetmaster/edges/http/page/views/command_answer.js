/** What came of a command: how it ended, and what it printed. */

import { address } from '../api.js';
import { copyButton } from '../clipboard.js';
import { shown } from '../command.js';
import { h } from '../dom.js';
import { counted, duration } from '../format.js';

/** @typedef {import('../command.js').CommandAnswer} CommandAnswer */

/**
 * How it ended, as a list of details.
 *
 * @param {CommandAnswer} answer
 */
export function outcomeList(answer) {
  const { outcome, exitCode, signal, duration: took, command, message } = answer;
  const rows = /** @type {[string, string | null][]} */ ([
    ['Outcome', outcome],
    ['Exit code', typeof exitCode === 'number' ? String(exitCode) : null],
    ['Signal', typeof signal === 'number' ? String(signal) : null],
    ['Last run', typeof command === 'number' ? `command ${command + 1}` : null],
    ['Ran for', typeof took === 'number' ? duration(took) : null],
    ['Message', message && message !== outcome && message !== `exit code ${exitCode}` ? String(message) : null],
  ]);
  return h(
    'dl',
    { class: 'details', data: { testid: 'outcome' } },
    ...rows.map(([name, value]) => (value === null ? null : h('div', {}, h('dt', {}, name), h('dd', {}, value)))),
  );
}

/**
 * What it printed, as it is.
 *
 * @param {CommandAnswer} answer
 */
export function outputBlocks(answer) {
  const blocks = /** @type {const} */ (['stdout', 'stderr'])
    .map((stream) => ({ stream, text: shown(String(answer[stream] ?? '')) }))
    .filter(({ text }) => text);
  const cut = answer.cutBytes
    ? h('p', { class: 'hint' }, `${counted(answer.cutBytes, 'byte')} in the middle of it are not shown here.`)
    : null;
  if (!blocks.length) return [h('p', { class: 'quiet-words inline' }, 'It printed nothing.'), cut];
  return [
    ...blocks.map(({ stream, text }) =>
      h(
        'div',
        { class: 'json' },
        h('pre', { class: 'output', role: 'group', tabindex: 0, 'aria-label': stream, data: { stream } }, text),
        h('div', { class: 'json-tools' }, h('span', { class: 'hint output-name' }, stream), copyButton(() => text)),
      ),
    ),
    cut,
  ];
}

/**
 * The way to all of the output, as bytes.
 *
 * @param {number} id of the request
 * @param {string} words
 */
export function rawLink(id, words) {
  const href = address(`requests/${id}/output/raw`).href;
  return h('a', { href, download: `output-${id}.txt`, title: 'stdout and stderr, byte for byte' }, words);
}
