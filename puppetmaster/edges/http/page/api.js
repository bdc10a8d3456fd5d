/** Calls of the HTTP API, and what goes wrong with them in words. */

import { learn } from './clock.js';
import { read } from './json_text.js';

const TIMEOUT = 30_000; // milliseconds: longer than any call takes, shorter than a person's patience

/**
 * @typedef {object} Fault
 * @property {string} path
 * @property {string} message
 */

/** The server refused a call. */
export class Refused extends Error {
  /**
   * @param {number} code
   * @param {string} message
   * @param {Fault[]} [faults]
   * @param {number | null} [retryAfter] seconds
   */
  constructor(code, message, faults = [], retryAfter = null) {
    super(message);
    this.code = code;
    this.faults = faults;
    this.retryAfter = retryAfter;
  }
}

/** No answer came: nobody knows whether the call was carried out. */
export class Unreachable extends Error {}

/** The call was given up by the page itself. Nothing to tell anybody. */
export class GivenUp extends Error {}

/** @type {() => void} */
let onLoginNeeded = () => {};

/**
 * What to do when the server asks for a login.
 *
 * @param {() => void} listener
 */
export function whenLoginIsNeeded(listener) {
  onLoginNeeded = listener;
}

/**
 * The address of a path of the API, beside the page wherever that is served.
 *
 * @param {string} path such as `jobs/1000000`
 * @param {Query} [query]
 */
export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  url.hash = '';
  for (const [name, value] of Object.entries(query)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== undefined && item !== null && item !== '') url.searchParams.append(name, String(item));
    }
  }
  return url;
}

/** @typedef {Record<string, string | number | string[] | null | undefined>} Query */

/**
 * @typedef {object} Call
 * @property {Query} [query]
 * @property {unknown} [body] sent as JSON
 * @property {string} [text] sent as it is, for JSON that must not lose a digit
 * @property {string} [key] the idempotency key
 * @property {AbortSignal} [signal]
 */

/**
 * Make a call.
 *
 * @param {'GET' | 'POST' | 'PUT' | 'DELETE'} method
 * @param {string} path
 * @param {Call} [call]
 * @returns {Promise<any>} the document of the answer
 * @throws {Refused | Unreachable | GivenUp}
 */
export async function ask(method, path, { query, body, text, key, signal } = {}) {
  const sent = text ?? (body === undefined ? undefined : JSON.stringify(body));
  const control = new AbortController();
  const timer = setTimeout(() => control.abort(), TIMEOUT);
  const giveUp = () => control.abort();
  signal?.addEventListener('abort', giveUp);
  if (signal?.aborted) giveUp();
  const asked = Date.now();
  let answer;
  let content;
  try {
    answer = await fetch(address(path, query), {
      method,
      body: sent,
      headers: {
        ...(sent === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...(key ? { 'Idempotency-Key': key } : {}),
      },
      signal: control.signal,
      cache: 'no-cache',
    });
    content = await answer.text();
  } catch {
    if (signal?.aborted) throw new GivenUp();
    const late = `The server did not answer within ${TIMEOUT / 1000} s.`;
    throw new Unreachable(control.signal.aborted ? late : 'The server can’t be reached.');
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', giveUp);
  }
  learn(answer.headers.get('Date'), asked);
  const document = documentOf(content);
  if (answer.ok) return document;
  if (answer.status === 401 && path !== 'login') onLoginNeeded();
  throw new Refused(
    answer.status,
    sentence(document?.message ?? `The server answered ${answer.status} ${answer.statusText}`.trim()),
    Array.isArray(document?.errors) ? document.errors : [],
    Number(answer.headers.get('Retry-After')) || null,
  );
}

/** @param {string} content */
function documentOf(content) {
  try {
    return content ? read(content) : null;
  } catch {
    return null; // some proxy's page
  }
}

/**
 * A message of the server as a sentence of the page.
 *
 * @param {string} message
 */
function sentence(message) {
  const text = String(message);
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…)]$/.test(text) ? '' : '.');
}

/** A key that no other form has. `crypto.randomUUID` is there on secure origins only. */
export function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}
