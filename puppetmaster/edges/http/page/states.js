/** The statuses of jobs and requests: their order, their icons, and badges that show them. */

import { h, setAttribute, setText } from './dom.js';
import { enclosed } from './format.js';
import { icon } from './icons.js';

/** In the order in which a bar shows them: what is done first. */
export const REQUEST_STATUSES = ['resolved', 'error', 'timeout', 'canceled', 'running', 'sent', 'created'];

/** Those with which a request has ended. */
export const REQUEST_FINAL = ['resolved', 'error', 'timeout', 'canceled'];

export const JOB_STATUSES = ['pending', 'dispatching', 'paused', 'resolved', 'canceled', 'aborted', 'timeout'];

export const JOB_FINAL = ['resolved', 'canceled', 'aborted', 'timeout'];

/** What a status of a request means, for whoever points at it. */
export const REQUEST_MEANING = /** @type {Record<string, string>} */ ({
  created: 'waits for its turn, or for its next attempt',
  sent: 'the broker has it',
  running: 'the device reported progress',
  resolved: 'the device answered with a code of 200 to 299',
  error: 'the device answered with another final code',
  timeout: 'no answer came in time',
  canceled: 'it was called off',
});

export const JOB_MEANING = /** @type {Record<string, string>} */ ({
  pending: 'waits for its start time',
  dispatching: 'sends its requests and takes their answers',
  paused: 'sends nothing; what is out is still answered',
  resolved: 'all its requests ended, whichever way',
  canceled: 'it was called off',
  aborted: 'too many of its requests failed',
  timeout: 'its deadline came first',
});

/** @typedef {Record<string, number>} Counts */

/**
 * @typedef {object} Job
 * @property {number} id
 * @property {string | null} name
 * @property {string[]} labels
 * @property {string} createdAt
 * @property {string | null} startAt
 * @property {string | null} startedAt
 * @property {string | null} finishedAt
 * @property {number | null} timeout
 * @property {number} priority
 * @property {number | null} concurrency
 * @property {{limit: number, delay: number, factor: number, maxDelay: number, on: (number | string)[]}} retry
 * @property {{perMinute: number, factor: number, every: number, max: number | null} | null} rate
 * @property {{errorPercent: number, minimum: number} | null} abort
 * @property {{labels?: Record<string, string[]>, facts?: Record<string, any[]>, connection?: string[],
 *   sample?: string | number} | null} targets
 * @property {string | null} offline
 * @property {string} status
 * @property {string | null} reason
 * @property {number} progress
 * @property {number} totalCount
 * @property {number} finishCount
 * @property {number} errorCount
 * @property {number} doneCount
 * @property {Counts} counts
 * @property {true} [removed]
 */

/** @param {Job} job */
export const hasEnded = (job) => JOB_FINAL.includes(job.status);

/** @param {Job} job */
export const titleOf = (job) => job.name ?? `Job ${job.id}`;

/**
 * Whether its requests are still to be made: who its targets are is found out when it starts.
 *
 * @param {Job} job
 */
export const isUnmade = (job) => !job.totalCount && !hasEnded(job);

/**
 * The title inside of a sentence.
 *
 * @param {Job} job
 */
export const titleInside = (job) => enclosed(titleOf(job));

/**
 * How many requests failed: what was canceled was called off, it did not fail.
 *
 * @param {Job} job
 */
export const failedCount = (job) => job.counts.error + job.counts.timeout;

/**
 * How a job looks: one that ended with failed requests must not look like one without.
 *
 * @param {Job} job
 */
export function toneOf(job) {
  return job.status === 'resolved' && failedCount(job) > 0 ? 'mixed' : job.status;
}

/**
 * A word with an icon in the colour of the status.
 *
 * @param {'job' | 'request'} kind
 */
export function badge(kind) {
  const word = h('span');
  const node = h('span', { class: 'badge' }, word);
  let shown = '';
  return {
    node,
    /**
     * @param {string} status
     * @param {string} [tone]
     */
    show(status, tone = status) {
      if (shown === `${status} ${tone}`) return;
      shown = `${status} ${tone}`;
      const drawing = kind === 'job' && tone === 'mixed' ? 'alert' : status;
      node.querySelector('svg')?.remove();
      node.prepend(icon(drawing));
      setText(word, status);
      setAttribute(node, 'data-tone', tone);
      setAttribute(node, 'title', (kind === 'job' ? JOB_MEANING : REQUEST_MEANING)[status] ?? null);
    },
  };
}
