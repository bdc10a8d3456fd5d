/** Between the fields of the form and the job document: pure, no elements. */

import { expand } from './destinations.js';
import { enclosed } from './format.js';
import { faultOf, print, read } from './json_text.js';

/** @typedef {Record<string, string>} Values what stands in the fields, as text */
/** @typedef {{name: string, lines: string[]}} NamedFile */

/** The fields in their order, each with the path of its value in the job document. */
export const PATHS = /** @type {Record<string, string>} */ ({
  method: 'batch.0.method',
  resource: 'batch.0.resource',
  data: 'batch.0.data',
  commandLine: 'batch.0.data.commandLine',
  destinations: 'batch.0.__request.destination',
  targetLabels: 'targets.labels',
  targetConnection: 'targets.connection',
  sample: 'targets.sample',
  offline: 'offline',
  name: 'name',
  labels: 'labels',
  startAt: 'startAt',
  priority: 'priority',
  requestTimeout: 'requestTimeout',
  timeout: 'timeout',
  concurrency: 'concurrency',
  ratePerMinute: 'rate.perMinute',
  rateFactor: 'rate.factor',
  rateEvery: 'rate.every',
  rateMax: 'rate.max',
  retryLimit: 'retry.limit',
  retryDelay: 'retry.delay',
  retryFactor: 'retry.factor',
  retryMaxDelay: 'retry.maxDelay',
  retryJitter: 'retry.jitter',
  retryOn: 'retry.on',
  abortPercent: 'abort.errorPercent',
  abortMinimum: 'abort.minimum',
});

const COMMANDS = '/agent/commands';

/** The choice of all devices that are known. */
export const ANY = 'any';

const NUMBERS = Object.keys(PATHS)
  .slice(Object.keys(PATHS).indexOf('priority'))
  .filter((name) => name !== 'retryOn');

/** What refines another field, and is nothing without it. */
const NEEDS = /** @type {[RegExp, string, string][]} */ ([
  [/^rate(Factor|Every|Max)$/, 'ratePerMinute', 'the rate itself'],
  [/^abortMinimum$/, 'abortPercent', 'the share of failed requests'],
]);

/**
 * @typedef {object} Built
 * @property {Record<string, any> | null} document null when a field can't be read
 * @property {Map<string, string>} faults by field
 * @property {string[]} missing the fields without which there is no job
 * @property {{count: number, repeated: number}} destinations
 */

/**
 * The job document that the fields describe.
 *
 * @param {Values} values
 * @param {NamedFile[]} files
 * @param {Set<string>} [unreadable] fields whose text the browser takes for no number or time
 * @returns {Built}
 */
export function build(values, files, unreadable = new Set()) {
  /** @type {Map<string, string>} */
  const faults = new Map();
  /** @type {Record<string, any>} */
  const document = {};
  const filled = (/** @type {string} */ name) => (values[name] ?? '').trim() !== '';

  const destinations = expand(
    values.destinations ?? '',
    files.map((file) => file.lines),
  );
  if (destinations.fault) faults.set('destinations', destinations.fault);
  /** @type {Record<string, any>} */
  const message = isCommand(values) ? commandOf(values) : messageOf(values, filled, faults);
  const targets = targetsOf(values, filled, faults);
  if (destinations.names.length || !targets) message.__request = { destination: destinations.names };

  if (filled('name')) document.name = values.name.trim();
  const labels = (values.labels ?? '')
    .split(',')
    .map((label) => label.trim())
    .filter(Boolean);
  if (labels.length) document.labels = labels;
  document.batch = [message];
  if (targets) document.targets = targets;
  if (filled('offline')) document.offline = values.offline;
  readLimits(values, unreadable, filled, faults, document);

  const missing = [];
  const wanted = isCommand(values) ? 'commandLine' : 'resource';
  if (!filled(wanted)) missing.push(wanted);
  if (!destinations.names.length && !destinations.fault && !targets) missing.push('destinations');
  return {
    document: faults.size ? null : document,
    faults,
    missing,
    destinations: { count: destinations.names.length, repeated: destinations.repeated },
  };
}

/** @param {Values} values */
const isCommand = (values) => values.kind === 'command';

/**
 * @param {Values} values
 * @returns {Record<string, any>}
 */
const commandOf = ({ commandLine = '' }) => ({ method: 'post', resource: COMMANDS, data: { commandLine } });

/**
 * @param {Values} values
 * @param {(name: string) => boolean} filled
 * @param {Map<string, string>} faults
 */
function messageOf(values, filled, faults) {
  /** @type {Record<string, any>} */
  const message = { method: values.method, resource: (values.resource ?? '').trim() };
  if (filled('data')) {
    const fault = faultOf(values.data);
    if (fault) faults.set('data', `line ${fault.line}, column ${fault.column}: ${fault.message}`);
    else message.data = read(values.data);
  }
  return message;
}

/**
 * The devices that are meant by what is known of them, or null when none are.
 *
 * @param {Values} values
 * @param {(name: string) => boolean} filled
 * @param {Map<string, string>} faults
 */
function targetsOf(values, filled, faults) {
  /** @type {Record<string, any>} */
  const targets = {};
  if (filled('targetLabels')) {
    /** @type {Record<string, string | string[]>} */
    const labels = {};
    for (const pair of values.targetLabels.split(',').map((one) => one.trim())) {
      if (!pair) continue;
      const [name, value] = [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)];
      if (!name) faults.set('targetLabels', `“${pair.slice(0, 40)}” is no label: write such as site=berlin`);
      // The same label again means any of the values.
      else if (Object.hasOwn(labels, name)) labels[name] = [labels[name], value].flat();
      else labels[name] = value;
    }
    targets.labels = labels;
  }
  const connection = values.targetConnection ?? '';
  if (connection && connection !== ANY) targets.connection = connection;
  const given = targets.labels || connection;
  if (filled('sample')) {
    const sample = values.sample.replaceAll(/\s/g, '');
    if (!/^\d+(\.\d+%|%)?$/.test(sample)) faults.set('sample', 'write how many, or a share such as 10%');
    targets.sample = sample.endsWith('%') ? sample : Number(sample);
    if (!given) faults.set('targetConnection', 'this is needed too: a sample of which devices?');
  }
  return given || filled('sample') ? targets : null;
}

/**
 * @param {Values} values
 * @param {Set<string>} unreadable
 * @param {(name: string) => boolean} filled
 * @param {Map<string, string>} faults
 * @param {Record<string, any>} document
 */
function readLimits(values, unreadable, filled, faults, document) {
  if (unreadable.has('startAt')) faults.set('startAt', 'give the day and the time');
  else if (filled('startAt')) document.startAt = new Date(values.startAt).toISOString();
  for (const name of NUMBERS) {
    if (unreadable.has(name)) faults.set(name, 'write a number');
    else if (filled(name)) put(document, PATHS[name], Number(values[name]));
  }
  for (const [pattern, needed, words] of NEEDS) {
    const given = NUMBERS.find((name) => pattern.test(name) && filled(name));
    if (given && !filled(needed)) faults.set(needed, `this is needed too: another field refines ${words}`);
  }
  if (filled('retryOn')) {
    const reasons = values.retryOn.split(/[\s,]+/).filter(Boolean);
    const bad = reasons.find((reason) => reason !== 'timeout' && !/^[1-9]\d\d$/.test(reason));
    if (bad)
      faults.set('retryOn', `“${bad.slice(0, 40)}” is neither a code nor timeout; write such as 423, 503, timeout`);
    else
      put(
        document,
        PATHS.retryOn,
        reasons.map((reason) => (reason === 'timeout' ? reason : Number(reason))),
      );
  }
}

/**
 * @param {Record<string, any>} document
 * @param {string} path
 * @param {unknown} value
 */
function put(document, path, value) {
  const [outer, inner] = path.split('.');
  if (inner === undefined) document[outer] = value;
  else (document[outer] ??= {})[inner] = value;
}

/** Where a fault of a whole part of the document is shown. */
const WHOLE = /** @type {Record<string, string>} */ ({
  targets: 'targetConnection',
  rate: 'ratePerMinute',
  retry: 'retryLimit',
  abort: 'abortPercent',
});

/**
 * The field that a fault of the server belongs to, or null.
 *
 * @param {string} path
 */
export function fieldOf(path) {
  const found = Object.keys(PATHS)
    .filter((name) => path === PATHS[name] || path.startsWith(`${PATHS[name]}.`))
    .sort((a, b) => PATHS[b].length - PATHS[a].length);
  if (found.length) return found[0];
  if (path === 'batch.0.__request' || path === 'destination') return 'destinations';
  return WHOLE[path] ?? null;
}

/**
 * A fault's message with the value that it is about, where the path points into a list.
 *
 * @param {import('./api.js').Fault} fault
 * @param {Record<string, any> | null} document
 */
export function faultWords({ path, message }, document) {
  const field = fieldOf(path);
  const place = /\.(\d+)$/.exec(path);
  if (!field || !place || !path.startsWith(PATHS[field])) return message;
  const list = field === 'destinations' ? document?.batch?.[0]?.__request?.destination : document?.[field];
  const value = Array.isArray(list) ? list[Number(place[1])] : undefined;
  return value === undefined ? message : `“${enclosed(String(value).slice(0, 60))}”: ${message}`;
}

/**
 * The document of a dry run.
 *
 * @param {string} text an object as JSON
 */
export function asDryRun(text) {
  const begin = text.indexOf('{') + 1;
  const rest = text.slice(begin);
  return `${text.slice(0, begin)}"dryRun": true${/^\s*\}/.test(rest) ? '' : ', '}${rest}`;
}

/**
 * The fields that describe a document, or null when they can't: it has several messages, or something else that the
 * form does not know.
 *
 * @param {any} document
 * @returns {{values: Values, files: NamedFile[]} | null}
 */
export function fieldsOf(document) {
  const one = single(document);
  if (!one) return null;
  const { message, destinations, rest } = one;
  const values = messageValues(message);
  const names = destinations.map(String);
  // A name that the text would read otherwise is kept as a line of a file.
  const plain = names.every((name) => !/[,[\]\n#]/.test(name) && name === name.trim());
  values.destinations = plain ? names.join('\n') : '';
  for (const [name, path] of Object.entries(PATHS)) {
    if (path.startsWith('batch.') || path.startsWith('targets.')) continue;
    const [outer, inner] = path.split('.');
    const value = inner === undefined ? rest[outer] : rest[outer]?.[inner];
    if (value === undefined || value === null) continue;
    if (name === 'startAt') values.startAt = localTime(value);
    else values[name] = Array.isArray(value) ? value.join(', ') : String(value);
  }
  Object.assign(values, targetValues(rest.targets));
  const files = plain ? [] : [{ name: 'from the JSON', lines: names }];
  // Only what comes back the same may be shown as fields.
  const again = build(values, files).document;
  return again && sameRest(again, rest) ? { values, files } : null;
}

/**
 * @param {any} message
 * @returns {Values}
 */
function messageValues({ method, resource, data }) {
  const isLine = typeof data?.commandLine === 'string' && Object.keys(data).length === 1;
  if (String(method).toLowerCase() === 'post' && resource === COMMANDS && isLine)
    return { kind: 'command', commandLine: data.commandLine };
  /** @type {Values} */
  const values = { method: String(method ?? '').toLowerCase(), resource: String(resource ?? '') };
  if (data !== undefined && data !== null) values.data = print(data);
  return values;
}

/**
 * @param {any} targets
 * @returns {Values}
 */
function targetValues(targets) {
  if (targets === null || typeof targets !== 'object') return {};
  const { labels = {}, connection, sample } = targets;
  const pairs = Object.entries(labels ?? {}).flatMap(([name, value]) =>
    [value].flat().map((/** @type {any} */ one) => `${name}=${one}`),
  );
  return {
    targetLabels: pairs.join(', '),
    targetConnection: String(connection ?? (pairs.length ? '' : ANY)),
    sample: String(sample ?? ''),
  };
}

/**
 * @param {any} document
 * @returns {{message: any, destinations: any[], rest: Record<string, any>} | null}
 */
function single(document) {
  if (document === null || typeof document !== 'object' || Array.isArray(document)) return null;
  const { batch, collection, destinations, message, ...rest } = document;
  const list = (/** @type {any} */ value) =>
    Array.isArray(value) ? value : value === undefined || value === null ? null : [value];
  if (message && (destinations || rest.targets) && !batch && !collection && !rest.options && plainMessage(message, []))
    return { message, destinations: list(destinations) ?? [], rest };
  const messages = batch ?? collection;
  if (!Array.isArray(messages) || messages.length !== 1 || message || destinations) return null;
  const [only] = messages;
  if (!plainMessage(only, ['__request', '__destination'])) return null;
  if (only.__request && !Object.keys(only.__request).every((name) => name === 'destination')) return null;
  const to = list(only.__request?.destination ?? only.__destination) ?? (rest.targets ? [] : null);
  return to ? { message: only, destinations: to, rest } : null;
}

/**
 * @param {any} message
 * @param {string[]} more
 */
function plainMessage(message, more) {
  return (
    message &&
    typeof message === 'object' &&
    Object.keys(message).every((name) => ['method', 'resource', 'data', ...more].includes(name)) &&
    ['get', 'post', 'put', 'delete'].includes(String(message.method).toLowerCase())
  );
}

/**
 * @param {Record<string, any>} built
 * @param {Record<string, any>} rest
 */
function sameRest(built, rest) {
  const { batch: _batch, ...mine } = built;
  const theirs = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null));
  if (theirs.targets) theirs.targets = unlisted(theirs.targets);
  if (typeof theirs.startAt === 'string') theirs.startAt = new Date(theirs.startAt).toISOString();
  const sorted = (/** @type {any} */ value) =>
    JSON.stringify(value, (_key, part) =>
      part && typeof part === 'object' && !Array.isArray(part)
        ? Object.fromEntries(Object.entries(part).sort())
        : typeof part === 'bigint'
          ? String(part)
          : part,
    );
  return sorted(mine) === sorted(theirs);
}

/**
 * Targets in which a list of one is that one, as the fields write it.
 *
 * @param {any} value
 * @returns {any}
 */
function unlisted(value) {
  if (Array.isArray(value)) return value.length === 1 ? value[0] : value;
  if (value === null || typeof value !== 'object') return value;
  const given = Object.entries(value).filter(([, one]) => one !== null);
  return Object.fromEntries(given.map(([name, one]) => [name, unlisted(one)]));
}

/**
 * A time as a field of the browser's wants it.
 *
 * @param {string} iso
 */
function localTime(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return '';
  const two = (/** @type {number} */ value) => String(value).padStart(2, '0');
  const day = [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join('-');
  const clock = [time.getHours(), time.getMinutes(), ...(time.getSeconds() ? [time.getSeconds()] : [])].map(two);
  return `${day}T${clock.join(':')}`;
}

/**
 * The same call on a command line.
 *
 * @param {string} url
 * @param {string} text the body
 * @param {boolean} token whether a login is needed
 */
export function asCurl(url, text, token) {
  const quoted = (/** @type {string} */ part) => `'${part.replaceAll("'", `'\\''`)}'`;
  return [
    `curl -X POST ${quoted(url)}`,
    ...(token ? ['  -H "Authorization: Bearer $PUPPETMASTER_TOKEN"'] : []),
    "  -H 'Content-Type: application/json'",
    text.length > LONGEST_ARGUMENT ? '  --data-binary @job.json' : `  -d ${quoted(text)}`,
  ].join(' \\\n');
}

/** Characters of the longest argument that every shell takes; Linux has 128 KiB for one. */
export const LONGEST_ARGUMENT = 100_000;
