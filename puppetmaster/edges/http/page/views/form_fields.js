/** The fields of the form: what each is called, and how it looks. */

import { h, setAttribute, setText } from '../dom.js';
import { ANY } from '../job_form.js';

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} control
 * @property {HTMLElement} node
 * @property {(message: string) => void} setFault an empty one takes it away
 * @property {() => string} fault
 */

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

/**
 * @typedef {object} About
 * @property {string} label
 * @property {string} [hint]
 * @property {'number' | 'area' | 'method' | 'time'} [kind] a line of text otherwise
 * @property {[string, string][]} [choices] values and what they are called
 * @property {string} [placeholder] for most what counts when it is left empty
 * @property {boolean} [mono]
 */

/** @type {Record<string, About>} */
const FIELDS = {
  kind: {
    label: 'What is sent',
    choices: [
      ['', 'a message'],
      ['command', 'a command'],
    ],
  },
  method: { label: 'Method', kind: 'method' },
  resource: { label: 'Resource', placeholder: '/system/reboot', mono: true },
  data: { label: 'Data', kind: 'area', placeholder: '{"enable": true}', hint: 'JSON; empty: none is sent', mono: true },
  commandLine: {
    label: 'Command line',
    kind: 'area',
    placeholder: 'df -h /',
    hint: 'for the shell of each device whose agent allows it',
    mono: true,
  },
  targetLabels: { label: 'Labels of devices', placeholder: 'site=berlin, rack=7', hint: 'all of them must fit' },
  targetConnection: {
    label: 'Connection',
    choices: [
      ['', '–'],
      [ANY, 'all that are known'],
      ['online', 'online'],
      ['offline', 'offline'],
      ['unknown', 'unknown'],
    ],
  },
  sample: { label: 'Sample of them', placeholder: 'all', hint: 'how many, or a share such as 10%' },
  offline: {
    label: 'Devices that are away',
    hint: 'when their turn comes',
    choices: [
      ['', 'are sent to all the same'],
      ['wait', 'get it when they are online'],
      ['skip', 'are left out'],
      ['fail', 'fail at once'],
    ],
  },
  destinations: {
    label: 'Destinations',
    kind: 'area',
    placeholder: 'device-[0001-0050]\ndevice-0815, localhost',
    mono: true,
  },
  name: { label: 'Name', placeholder: 'firmware 1.5' },
  labels: { label: 'Labels', placeholder: 'site=berlin, ring=canary', hint: 'with commas between them' },
  startAt: {
    label: 'Start time',
    kind: 'time',
    hint: zone ? `in your time zone, ${zone}; empty: at once` : 'in your time zone; empty: at once',
  },
  priority: { label: 'Priority', kind: 'number', placeholder: '50', hint: '0 to 100; a higher one sends first' },
  requestTimeout: { label: 'Request timeout', kind: 'number', placeholder: '3600', hint: 'seconds for each attempt' },
  timeout: { label: 'Job timeout', kind: 'number', placeholder: 'none', hint: 'seconds for the whole job' },
  concurrency: { label: 'Concurrency', kind: 'number', placeholder: 'no limit', hint: 'requests out at once' },
  ratePerMinute: { label: 'Requests a minute', kind: 'number', placeholder: 'no limit' },
  rateFactor: { label: 'Multiply the rate by', kind: 'number', placeholder: '1' },
  rateEvery: { label: 'After so many resolved', kind: 'number', placeholder: '1' },
  rateMax: { label: 'Up to so many a minute', kind: 'number', placeholder: 'no limit' },
  retryLimit: { label: 'Attempts after the first', kind: 'number', placeholder: '3' },
  retryDelay: { label: 'First delay', kind: 'number', placeholder: '1', hint: 'seconds' },
  retryFactor: { label: 'Each delay times', kind: 'number', placeholder: '2' },
  retryMaxDelay: { label: 'Longest delay', kind: 'number', placeholder: '60', hint: 'seconds' },
  retryJitter: {
    label: 'Jitter',
    kind: 'number',
    placeholder: '0.5',
    hint: '0 to 1: shortened at random by up to this share',
  },
  retryOn: { label: 'Try again on', placeholder: '423, 429, 503', hint: 'codes, and timeout for silence' },
  abortPercent: { label: 'Give up at % failed', kind: 'number', placeholder: 'never' },
  abortMinimum: { label: 'Of at least so many ended', kind: 'number', placeholder: '1' },
};

/** The optional ones, as they stand in groups. */
export const GROUPS = /** @type {[string, string[]][]} */ ([
  ['When and how urgent', ['startAt', 'priority']],
  ['Timeouts', ['requestTimeout', 'timeout']],
  ['Pace', ['concurrency', 'ratePerMinute', 'rateFactor', 'rateEvery', 'rateMax']],
  ['Giving up', ['abortPercent', 'abortMinimum']],
  ['Retry', ['retryLimit', 'retryOn', 'retryDelay', 'retryFactor', 'retryMaxDelay', 'retryJitter']],
]);

/**
 * @param {string} name
 * @param {...import('../dom.js').Child} below what stands below the control
 * @returns {Field}
 */
export function formField(name, ...below) {
  const about = FIELDS[name];
  const id = `field-${name}`;
  const hint = about.hint ? h('p', { class: 'hint', id: `${id}-hint` }, about.hint) : null;
  const faultNode = h('p', { class: 'fault', id: `${id}-fault` });
  const control = controlOf(name, id, `${hint ? `${id}-hint ` : ''}${id}-fault`);
  const node = h(
    'div',
    { class: `field field-${name}` },
    h('label', { for: id }, about.label),
    control,
    hint,
    ...below,
    faultNode,
  );
  return {
    name,
    control,
    node,
    setFault(message) {
      setText(faultNode, message && message.charAt(0).toUpperCase() + message.slice(1));
      setAttribute(control, 'aria-invalid', message ? 'true' : null);
    },
    fault: () => faultNode.textContent ?? '',
  };
}

/**
 * @param {string} name
 * @param {string} id
 * @param {string} described
 */
function controlOf(name, id, described) {
  const { kind, placeholder, mono, choices } = FIELDS[name];
  const shared = {
    id,
    name,
    'aria-describedby': described,
    placeholder,
    class: mono ? 'mono' : null,
    autocomplete: 'off',
    spellcheck: 'false',
    autocapitalize: 'none',
  };
  if (choices)
    return h(
      'select',
      { id, name, 'aria-describedby': described },
      ...choices.map(([value, text]) => h('option', { value }, text)),
    );
  if (kind === 'method')
    return h(
      'select',
      { id, name, 'aria-describedby': described },
      ...['get', 'post', 'put', 'delete'].map((method) => h('option', { value: method }, method)),
    );
  if (kind === 'area') return h('textarea', { ...shared, rows: name === 'destinations' ? 6 : 4 });
  if (kind === 'number') return h('input', { ...shared, type: 'number', step: 'any', inputmode: 'decimal' });
  if (kind === 'time') return h('input', { ...shared, type: 'datetime-local', step: 1 });
  return h('input', { ...shared, type: 'text' });
}
