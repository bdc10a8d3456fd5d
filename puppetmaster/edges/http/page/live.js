/** Jobs as they change: a WebSocket that comes back by itself. */

import { address } from './api.js';
import { oncePerFrame } from './dom.js';

const FIRST_DELAY = 500; // milliseconds until the first new try; doubled by each that fails
const LONGEST_DELAY = 15_000;
const BETWEEN = 90; // milliseconds between two times of drawing: a job is told of ten times a second at most
const STEADY = 5_000; // milliseconds after which a connection counts as a good one, though nothing came
const PATIENCE = 10_000; // milliseconds for a connection to come about

/** @typedef {import('./states.js').Job} Job */

/**
 * @typedef {object} Connection how it stands with the stream of the view that is open
 * @property {'none' | 'connecting' | 'open' | 'away'} phase
 * @property {number} [retryAt] when the next try is, `Date.now()`
 * @property {() => void} [retry] tries at once
 */

/** @type {Connection} */
let connection = { phase: 'none' };
/** @type {Set<(connection: Connection) => void>} */
const listeners = new Set();

/**
 * Hear how it stands, now and at every change.
 *
 * @param {(connection: Connection) => void} listener
 */
export function onConnection(listener) {
  listeners.add(listener);
  listener(connection);
}

/** @param {Connection} next */
function tell(next) {
  connection = next;
  for (const listener of listeners) listener(connection);
}

/** The streams that are open now. */
const streams = /** @type {Set<Live>} */ (new Set());

/** The server was found to be away: no stream is worth waiting for, though its socket may not know yet. */
export function distrust() {
  for (const stream of streams) stream.restart();
}

/**
 * One stream. Messages are gathered, the newest of each job, and handed over together at a frame: however many come,
 * the page draws no more than an eye can follow.
 */
export class Live {
  /**
   * @param {string} path such as `jobs/ws`
   * @param {object} hooks
   * @param {(jobs: Job[]) => void} hooks.onJobs what has changed, in the order in which it came
   * @param {() => void} [hooks.onOpen] it is there, or there again: what was missed has to be asked for
   * @param {() => void} [hooks.onRefused] the server would not have it; a call can tell why, a WebSocket can't
   * @param {import('./api.js').Query} [query]
   */
  constructor(path, hooks, query = {}) {
    this.url = address(path, query);
    this.url.protocol = this.url.protocol.replace('http', 'ws');
    this.hooks = hooks;
    this.failures = 0;
    this.over = false;
    /** @type {number | null} */
    this.openedAt = null;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {Map<number, Job>} */
    this.pending = new Map();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.flush = oncePerFrame(() => this.handOver(), BETWEEN);
    this.wake = () => {
      if (connection.phase === 'away' && !document.hidden) this.connect();
    };
    window.addEventListener('online', this.wake);
    document.addEventListener('visibilitychange', this.wake);
    streams.add(this);
    this.connect();
  }

  close() {
    this.over = true;
    streams.delete(this);
    clearTimeout(this.timer);
    window.removeEventListener('online', this.wake);
    document.removeEventListener('visibilitychange', this.wake);
    this.drop();
    this.pending.clear();
    tell({ phase: 'none' });
  }

  restart() {
    if (!this.over && connection.phase === 'open') this.lost(false);
  }

  connect() {
    if (this.over) return;
    clearTimeout(this.timer);
    this.drop();
    // While it is away a try is no news.
    if (connection.phase !== 'away') tell({ phase: 'connecting' });
    this.openedAt = null;
    const socket = new WebSocket(this.url);
    this.socket = socket;
    this.timer = setTimeout(() => this.lost(false), PATIENCE);
    socket.onopen = () => {
      this.openedAt = performance.now();
      clearTimeout(this.timer);
      tell({ phase: 'open' });
      this.hooks.onOpen?.();
    };
    socket.onmessage = (event) => {
      this.failures = 0;
      this.take(event.data);
    };
    socket.onclose = (event) => {
      if (event.code === 1000 && event.reason === 'removed') this.end();
      else this.lost(this.openedAt === null);
    };
  }

  /** @param {string} text */
  take(text) {
    let job;
    try {
      job = JSON.parse(text);
    } catch {
      return; // not ours
    }
    this.pending.delete(job.id); // so that it stands last
    this.pending.set(job.id, job);
    this.flush();
  }

  handOver() {
    if (this.over || !this.pending.size) return;
    const jobs = [...this.pending.values()];
    this.pending.clear();
    this.hooks.onJobs(jobs);
  }

  /** @param {boolean} refused it never came about */
  lost(refused) {
    if (this.over) return;
    this.drop();
    if (this.openedAt !== null && performance.now() - this.openedAt > STEADY) this.failures = 0;
    const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.failures) * (0.75 + Math.random() / 2);
    this.failures += 1;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), delay);
    tell({ phase: 'away', retryAt: Date.now() + delay, retry: () => this.connect() });
    if (refused) this.hooks.onRefused?.();
  }

  /** The job was removed: nothing will come any more. */
  end() {
    this.handOver();
    this.drop();
    tell({ phase: 'none' });
  }

  /** Let go of the socket without hearing of its end. */
  drop() {
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    // A browser complains when a socket is closed before it is there.
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket.close();
  }
}
