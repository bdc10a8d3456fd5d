/** What a job was told: its times and limits, in words. */

import { fill, h } from '../dom.js';
import { counted, duration, fullTime, number } from '../format.js';

/** @typedef {import('../states.js').Job} Job */

export function detailsPanel() {
  const list = h('dl', { class: 'details' });
  let shown = '';
  return {
    node: h(
      'section',
      { class: 'card', 'aria-labelledby': 'details-title' },
      h('h2', { id: 'details-title' }, 'Limits and times'),
      list,
    ),
    /** @param {Job} job */
    show(job) {
      const rows = rowsOf(job);
      if (shown === JSON.stringify(rows)) return;
      shown = JSON.stringify(rows);
      fill(list, ...rows.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
    },
  };
}

/**
 * @param {Job} job
 * @returns {[string, string][]}
 */
function rowsOf(job) {
  const times = /** @type {[string, string | null][]} */ ([
    ['Created', job.createdAt],
    ['Start time', job.startAt],
    ['Started', job.startedAt],
    ['Ended', job.finishedAt],
  ]);
  return [
    .../** @type {[string, string][]} */ (job.targets ? [['Targets', targetWords(job.targets)]] : []),
    ['If away', OFFLINE[job.offline ?? ''] ?? String(job.offline)],
    ['Priority', String(job.priority)],
    ['Concurrency', job.concurrency === null ? 'no limit of its own' : `${number(job.concurrency)} at once`],
    ['Rate', rateWords(job.rate)],
    ['Timeout', job.timeout === null ? 'none' : `${duration(job.timeout)} for the whole job`],
    ['Retry', retryWords(job.retry)],
    [
      'Gives up',
      job.abort
        ? `when ${job.abort.errorPercent} % failed of at least ${counted(job.abort.minimum, 'ended request')}`
        : 'never',
    ],
    .../** @type {[string, string][]} */ (
      times.filter(([, time]) => time).map(([name, time]) => [name, fullTime(/** @type {string} */ (time))])
    ),
  ];
}

/** What becomes of requests to devices that are away. */
const OFFLINE = /** @type {Record<string, string>} */ ({
  '': 'sent all the same',
  wait: 'waits until the device is online',
  skip: 'left out',
  fail: 'fails at once',
});

/** @param {NonNullable<Job['targets']>} targets */
export function targetWords({ labels = {}, facts = {}, connection, sample }) {
  const pairs = [...Object.entries(labels), ...Object.entries(facts)];
  const words = pairs.map(([name, values]) => `${name} = ${[values].flat().join(' or ')}`);
  if (connection) words.push([connection].flat().join(' or '));
  const who = words.join(', ') || 'all devices';
  if (sample === undefined || sample === null) return who;
  return `${typeof sample === 'number' ? number(sample) : sample.replace('%', ' %')} at random of: ${who}`;
}

/** @param {Job['rate']} rate */
function rateWords(rate) {
  if (!rate) return 'no limit';
  const base = `${number(rate.perMinute)} a minute`;
  if (rate.factor === 1) return base;
  const most = rate.max === null ? '' : `, up to ${number(rate.max)}`;
  return `${base}, × ${rate.factor} after every ${number(rate.every)} resolved${most}`;
}

/** @param {Job['retry']} retry */
function retryWords(retry) {
  if (!retry?.limit) return 'none';
  const growth = retry.factor === 1 ? '' : `, then × ${retry.factor} up to ${duration(retry.maxDelay)}`;
  return `${counted(retry.limit, 'time')}, first after ${seconds(retry.delay)}${growth}; on ${retry.on.join(', ')}`;
}

/** @param {number} value */
const seconds = (value) => (Number.isInteger(value) && value < 60 ? `${value} s` : duration(value));
