/** One request in the table, and what opens below it. */

import { ask } from '../api.js';
import { copyButton } from '../clipboard.js';
import { answerOf, isCommand } from '../command.js';
import { fill, freshId, h, setAttribute, setText } from '../dom.js';
import { duration, fullTime } from '../format.js';
import { icon } from '../icons.js';
import { print } from '../json_text.js';
import { messagePlace } from '../message.js';
import { session } from '../session.js';
import { REQUEST_FINAL, badge } from '../states.js';
import { words } from './answers.js';
import { outcomeList, outputBlocks, rawLink } from './command_answer.js';
import { liveOutput } from './live_output.js';

/**
 * @typedef {object} RequestDocument
 * @property {number} id
 * @property {string} method
 * @property {string} resource
 * @property {any} data
 * @property {{job: number, destination: string, createdAt: string, sentAt: string | null, finishedAt: string | null,
 *   timeout: number, attempt: number, status: string, reason: string, progress: number, code: number | null,
 *   result: any}} __request
 */

/**
 * @param {number} id
 * @param {{onOpen: () => void, onChange: () => void}} hooks
 */
export function requestRow(id, { onOpen, onChange }) {
  const moreId = freshId('request');
  const destination = h('span', { class: 'mono' });
  const opener = h(
    'button',
    { type: 'button', class: 'opener', 'aria-expanded': 'false', on: { click: () => toggle() } },
    icon('chevron', 'turn'),
    destination,
  );
  const status = badge('request');
  const progress = h('span', { class: 'hint' });
  const code = h('span');
  const answer = h('span', { class: 'request-answer' });
  const attempts = h('span');
  const took = h('span');
  const node = h(
    'tr',
    { role: 'row', data: { requestId: id } },
    h('th', { scope: 'row', role: 'rowheader', class: 'col-destination' }, opener),
    h('td', { role: 'cell', class: 'col-status' }, status.node, progress),
    h('td', { role: 'cell', class: 'col-code' }, code),
    h('td', { role: 'cell', class: 'col-answer' }, answer),
    h('td', { role: 'cell', class: 'col-attempts' }, attempts),
    h('td', { role: 'cell', class: 'col-took' }, took),
  );
  node.addEventListener('click', (event) => {
    if (event.target instanceof Element && event.target.closest('a, button')) return;
    if (!window.getSelection()?.toString()) toggle();
  });

  /** @type {RequestDocument} */
  let request;
  let text = '';
  /** What a command prints, while it is looked at. @type {ReturnType<typeof liveOutput> | null} */
  let output = null;

  const row = {
    id,
    node,
    /** @type {HTMLTableRowElement | null} what is open below it */
    more: null,

    /** @param {RequestDocument} next */
    show(next) {
      const nextText = print(next);
      if (nextText === text) return;
      text = nextText;
      request = next;
      const told = request.__request;
      setText(destination, told.destination);
      setAttribute(destination, 'title', told.destination.length > 24 ? told.destination : null);
      status.show(told.status);
      setText(progress, told.status === 'running' && told.progress ? `${told.progress} %` : '');
      setText(code, told.code === null ? '–' : String(told.code));
      setAttribute(code, 'class', told.code === null ? 'faint' : 'number');
      setText(
        answer,
        words({ status: told.status, result: told.result }) ||
          (REQUEST_FINAL.includes(told.status) && told.code === null ? told.reason : ''),
      );
      setText(attempts, told.attempt ? String(told.attempt) : '–');
      setAttribute(attempts, 'class', told.attempt > 1 ? 'number strong' : 'number faint');
      setText(
        took,
        told.sentAt && told.finishedAt
          ? duration(Math.max(0, (Date.parse(told.finishedAt) - Date.parse(told.sentAt)) / 1000))
          : '–',
      );
      setAttribute(took, 'class', told.finishedAt ? 'number' : 'faint');
      if (row.more) fillMore(row.more);
    },

    /** The row goes away, or what is open below it. */
    letGo() {
      output?.close();
      output = null;
    },

    close() {
      row.letGo();
      row.more = null;
      opener.setAttribute('aria-expanded', 'false');
      opener.removeAttribute('aria-controls');
      node.classList.remove('open');
      onChange();
    },
  };

  function toggle() {
    if (row.more) {
      row.close();
      return;
    }
    row.more = h('tr', { role: 'row', id: moreId, class: 'more' }, h('td', { colspan: 6, role: 'cell' }));
    fillMore(row.more);
    opener.setAttribute('aria-expanded', 'true');
    opener.setAttribute('aria-controls', moreId);
    node.classList.add('open');
    onOpen();
    onChange();
  }

  /** @param {HTMLTableRowElement} place */
  function fillMore(place) {
    if (!speaks(request)) row.letGo();
    else output ??= liveOutput(request.id);
    fill(/** @type {Element} */ (place.firstElementChild), moreOf(request, row.show, output?.node ?? null));
    output?.settle();
  }

  return row;
}

/**
 * Whether it is a command whose output is not in its answer: it runs, or nobody has told how it ended.
 *
 * @param {RequestDocument} request
 */
function speaks(request) {
  const { attempt, code, result } = request.__request;
  return isCommand(request) && attempt > 0 && !answerOf(result) && (code === null || code === 102);
}

/**
 * Everything about a request.
 *
 * @param {RequestDocument} request
 * @param {(request: RequestDocument) => void} onChanged
 * @param {HTMLElement | null} output
 */
function moreOf(request, onChanged, output) {
  const told = request.__request;
  const answer = isCommand(request) ? answerOf(told.result) : null;
  const times = /** @type {[string, string | null][]} */ ([
    ['Sent', told.sentAt],
    ['Ended', told.finishedAt],
  ]);
  return h(
    'div',
    { class: 'request-more' },
    output || answer
      ? h('div', { class: 'wide' }, h('h3', {}, 'Output'), ...outputOf(request.id, answer, output))
      : null,
    h(
      'div',
      {},
      h('h3', {}, 'Sent'),
      h(
        'p',
        { class: 'mono message' },
        h('span', { class: 'method' }, request.method.toUpperCase()),
        ' ',
        request.resource,
      ),
      ...sentParts(request),
      h(
        'dl',
        { class: 'details' },
        detail('Request', String(request.id)),
        detail('Why', told.reason),
        ...times.map(([name, time]) => (time ? detail(name, fullTime(time)) : null)),
        detail('Timeout', `${duration(told.timeout)} for each attempt`),
        detail('Attempts', told.attempt ? String(told.attempt) : 'not sent yet'),
      ),
    ),
    h(
      'div',
      {},
      h('h3', {}, 'Answer'),
      answer
        ? outcomeList(answer)
        : json('The answer', told.result, told.code === null ? 'none' : `${told.code} with no data`),
      cancelPart(request, onChanged),
    ),
  );
}

/**
 * @param {number} id
 * @param {import('../command.js').CommandAnswer | null} answer
 * @param {HTMLElement | null} output
 */
function outputOf(id, answer, output) {
  if (!answer) return [output];
  const all = answer.outputBytes ? h('p', { class: 'hint' }, rawLink(id, 'All of it as a file')) : null;
  return [...outputBlocks(answer), all];
}

/**
 * What is sent; a command line as it is written, for as JSON its lines can't be read.
 *
 * @param {RequestDocument} request
 */
function sentParts({ method, resource, data }) {
  if (!isCommand({ method, resource }) || typeof data?.commandLine !== 'string')
    return [json('What is sent', data, 'with no data')];
  const { commandLine, ...rest } = data;
  return [
    h(
      'div',
      { class: 'json' },
      h('pre', { role: 'group', tabindex: 0, 'aria-label': 'Command line' }, commandLine),
      h(
        'div',
        { class: 'json-tools' },
        copyButton(() => commandLine),
      ),
    ),
    Object.keys(rest).length ? json('What else is sent', rest, '') : null,
  ];
}

/**
 * @param {string} name
 * @param {string} value
 */
const detail = (name, value) => h('div', {}, h('dt', {}, name), h('dd', {}, value));

/**
 * @param {string} label
 * @param {any} value
 * @param {string} nothing
 */
function json(label, value, nothing) {
  if (value === null || value === undefined) return h('p', { class: 'quiet-words inline' }, nothing);
  const text = print(value);
  return h(
    'div',
    { class: 'json' },
    h('pre', { role: 'group', tabindex: 0, 'aria-label': `${label} as JSON` }, text),
    h(
      'div',
      { class: 'json-tools' },
      copyButton(() => text),
    ),
  );
}

/**
 * @param {RequestDocument} request
 * @param {(request: RequestDocument) => void} onChanged
 */
function cancelPart(request, onChanged) {
  if (REQUEST_FINAL.includes(request.__request.status) || !session.canWrite) return null;
  const place = messagePlace();
  const cancel = async () => {
    place.clear();
    try {
      onChanged(await ask('DELETE', `requests/${request.id}`));
    } catch (error) {
      place.error(error);
    }
  };
  return h(
    'div',
    { class: 'request-cancel' },
    place.node,
    h(
      'button',
      { type: 'button', class: 'button small danger', on: { click: cancel } },
      icon('canceled'),
      'Cancel this request',
    ),
  );
}
