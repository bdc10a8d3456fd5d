/** A stacked bar of a job's counts. */

import { h, setAttribute } from './dom.js';
import { number, share } from './format.js';
import { REQUEST_STATUSES } from './states.js';

/** @typedef {import('./states.js').Job} Job */

/**
 * @param {object} [options]
 * @param {boolean} [options.large]
 */
export function progressBar({ large = false } = {}) {
  const parts = REQUEST_STATUSES.map((status) =>
    h('span', { class: 'bar-part', data: { tone: status }, hidden: true }),
  );
  const node = h(
    'div',
    { class: large ? 'bar bar-large' : 'bar', role: 'progressbar', 'aria-valuemin': 0, 'aria-valuemax': 100 },
    ...parts,
  );
  /** @type {Record<string, number>} */
  const shown = {};
  return {
    node,
    /** @param {Job} job */
    show(job) {
      REQUEST_STATUSES.forEach((status, place) => {
        const count = job.counts[status] ?? 0;
        if (shown[status] === count && shown.total === job.totalCount) return;
        shown[status] = count;
        const part = parts[place];
        part.hidden = count === 0;
        // A single failure among 20,000 is still to be seen; the style sheet gives each part a least width.
        part.style.setProperty('flex-grow', String(count / (job.totalCount || 1)));
        if (large) part.title = `${status}: ${number(count)} (${share(count, job.totalCount)})`;
      });
      shown.total = job.totalCount;
      setAttribute(node, 'aria-valuenow', job.progress);
      setAttribute(node, 'aria-label', `Progress of ${job.name ?? `job ${job.id}`}`);
      setAttribute(node, 'aria-valuetext', `${job.progress} %, ${countsInWords(job)}`);
    },
  };
}

/**
 * `4,825 resolved, 87 error`: the counts that are not 0.
 *
 * @param {Job} job
 */
export function countsInWords(job) {
  return REQUEST_STATUSES.filter((status) => job.counts[status])
    .map((status) => `${number(job.counts[status])} ${status}`)
    .join(', ');
}
