/** How far a job is: the bar, its legend, the pace. */

import { progressBar } from '../bar.js';
import { fill, h, setText } from '../dom.js';
import { fullTime, moment, number, pace, roughly, share, tookOf } from '../format.js';
import { icon } from '../icons.js';
import { Pace, meanRate } from '../pace.js';
import { REQUEST_MEANING, REQUEST_STATUSES, hasEnded, isUnmade } from '../states.js';
import { serverNow } from '../clock.js';

const ENOUGH = 3; // seconds that a job has to run before its mean pace foretells anything

/** @typedef {import('../states.js').Job} Job */

export function progressPanel() {
  const bar = progressBar({ large: true });
  const percent = h('span', { class: 'big-number', data: { testid: 'job-progress' } });
  const done = h('span', { class: 'big-words' });
  const figures = ['Pace', 'Time left', 'Took'].map((name) => {
    const title = h('dt', {}, name);
    const value = h('dd');
    return { title, value, node: h('div', { class: 'figure' }, title, value) };
  });
  const [speed, left, took] = figures;

  const legend = REQUEST_STATUSES.map((status) => {
    const count = h('span', { class: 'legend-count' });
    const part = h('span', { class: 'legend-share' });
    const node = h(
      'li',
      { class: 'legend-item', data: { tone: status } },
      h('span', { class: 'swatch', data: { tone: status } }),
      h('span', { class: 'legend-name', title: REQUEST_MEANING[status] }, icon(status), status),
      count,
      part,
    );
    return { status, node, count, part };
  });

  const seen = new Pace();
  /** @type {Job} */
  let job;

  const node = h(
    'section',
    { class: 'card progress', 'aria-label': 'Progress' },
    h(
      'div',
      { class: 'progress-top' },
      h('p', { class: 'progress-words' }, percent, done),
      h('dl', { class: 'figures' }, ...figures.map((figure) => figure.node)),
    ),
    bar.node,
    h('ul', { class: 'legend' }, ...legend.map((item) => item.node)),
  );

  /** @param {number} now */
  const tick = (now) => {
    setText(took.value, tookOf(job, now));
    const remaining = job.totalCount - job.doneCount;
    const ended = hasEnded(job);
    setText(speed.title, ended ? 'Mean pace' : 'Pace');
    setText(took.title, ended || !job.startedAt ? 'Took' : 'Running for');
    const mean = meanRate(job, now);
    if (ended) {
      setText(speed.value, mean ? pace(mean) : '–');
      setText(left.title, 'Ended');
      fillOnce(left.value, job.finishedAt, now);
      return;
    }
    if (job.status !== 'dispatching') seen.forget();
    else seen.add(job.doneCount);
    const rate = job.status === 'dispatching' ? (seen.rate() ?? meanRate(job, now, ENOUGH)) : null;
    setText(speed.value, rate === null ? '–' : rate > 0 ? pace(rate) : 'nothing lately');
    if (job.status === 'pending' && job.startAt) {
      setText(left.title, 'Starts');
      fillOnce(left.value, job.startAt, now);
    } else {
      setText(left.title, 'Time left');
      setText(left.value, rate && remaining ? roughly(remaining / rate) : '–');
    }
  };

  return {
    node,
    tick,
    /** @param {Job} next */
    show(next) {
      job = next;
      if (job.status === 'dispatching') seen.add(job.doneCount);
      bar.show(job);
      setText(percent, `${job.progress} %`);
      setText(done, doneWords(job));
      for (const item of legend) {
        const count = job.counts[item.status] ?? 0;
        setText(item.count, number(count));
        setText(item.part, share(count, job.totalCount));
        item.node.classList.toggle('none', count === 0);
      }
      tick(serverNow());
    },
  };
}

/** @param {Job} job */
function doneWords(job) {
  if (isUnmade(job)) return 'no requests yet';
  return job.totalCount ? `${number(job.doneCount)} of ${number(job.totalCount)} done` : 'no requests';
}

/**
 * @param {Element} node
 * @param {string | null} iso
 * @param {number} now
 */
function fillOnce(node, iso, now) {
  const text = iso ? moment(iso, now) : '–';
  if (node.textContent !== text) fill(node, iso ? h('time', { datetime: iso, title: fullTime(iso) }, text) : text);
}
