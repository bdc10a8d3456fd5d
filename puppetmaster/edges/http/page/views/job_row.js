/** One job in the list. */

import { progressBar, countsInWords } from '../bar.js';
import { fill, h, setAttribute, setText } from '../dom.js';
import { age, fullTime, number, tookOf } from '../format.js';
import { go, link } from '../router.js';
import { badge, failedCount, isUnmade, titleOf, toneOf } from '../states.js';

/** @typedef {import('../states.js').Job} Job */

const LABELS = 3; // shown; the others are counted

/**
 * @param {number} id
 * @param {(label: string) => void} onLabel
 */
export function jobRow(id, onLabel) {
  const address = link(`/jobs/${id}`);
  const name = h('a', { class: 'job-name', href: address });
  const number_ = h('span', { class: 'job-id' });
  const labels = h('span', { class: 'labels' });
  const status = badge('job');
  const reason = h('span', { class: 'job-reason' });
  const bar = progressBar();
  const percent = h('span', { class: 'percent' });
  const words = h('span', { class: 'bar-words' });
  const done = h('span', { class: 'done' });
  const total = h('span', { class: 'of' });
  const created = h('time');
  const took = h('span');

  const node = h(
    'tr',
    { role: 'row', data: { jobId: id } },
    h(
      'th',
      { scope: 'row', role: 'rowheader', class: 'col-job' },
      h('div', { class: 'job-line' }, name),
      h('div', { class: 'job-line small' }, number_, labels),
    ),
    h('td', { role: 'cell', class: 'col-status' }, status.node, reason),
    h('td', { role: 'cell', class: 'col-progress' }, h('div', { class: 'bar-line' }, bar.node, percent), words),
    h('td', { role: 'cell', class: 'col-done' }, done, ' ', total),
    h('td', { role: 'cell', class: 'col-age' }, created),
    h('td', { role: 'cell', class: 'col-took' }, took),
  );
  // The whole row leads to the job, for a mouse; the link in it does for everybody.
  node.addEventListener('click', (event) => {
    if (event.target instanceof Element && event.target.closest('a, button')) return;
    if (!window.getSelection()?.toString()) go(address);
  });

  /** @type {Job} */
  let job;
  let shownLabels = '';

  /** @param {number} now */
  const tick = (now) => {
    setText(created, age(job.createdAt, now));
    setText(took, tookOf(job, now));
  };

  return {
    node,
    tick,
    /**
     * @param {Job} next
     * @param {number} now
     */
    show(next, now) {
      if (next === job) return;
      job = next;
      setText(name, titleOf(job));
      setAttribute(name, 'title', job.name && job.name.length > 40 ? job.name : null);
      setText(number_, job.name ? String(id) : '');
      if (shownLabels !== job.labels.join('\n')) {
        shownLabels = job.labels.join('\n');
        fill(
          labels,
          ...job.labels.slice(0, LABELS).map((label) =>
            h(
              'button',
              {
                type: 'button',
                class: 'label',
                title: `Filter by the label ${label}`,
                on: { click: () => onLabel(label) },
              },
              label,
            ),
          ),
          job.labels.length > LABELS
            ? h(
                'span',
                { class: 'label-more', title: job.labels.slice(LABELS).join(', ') },
                `+${job.labels.length - LABELS}`,
              )
            : null,
        );
      }
      status.show(job.status, toneOf(job));
      // What went as it should needs no words.
      const telling = ['paused', 'aborted', 'timeout', 'pending'].includes(job.status);
      setText(reason, telling ? (job.reason ?? '') : '');
      setAttribute(reason, 'title', telling ? job.reason : null);
      bar.show(job);
      setText(percent, `${job.progress} %`);
      setText(words, countsInWords(job));
      setAttribute(words, 'data-failed', failedCount(job) ? '' : null);
      setText(done, isUnmade(job) ? '–' : number(job.doneCount));
      setText(total, isUnmade(job) ? '' : `of ${number(job.totalCount)}`);
      setAttribute(created, 'datetime', job.createdAt);
      setAttribute(created, 'title', fullTime(job.createdAt));
      tick(now);
    },
  };
}
