/** One job: how far it is, what the devices said, and its requests. */

import { announce } from '../announce.js';
import { GivenUp, Refused, ask } from '../api.js';
import { everySecond, serverNow } from '../clock.js';
import { closeAll } from '../dialog.js';
import { fill, h, setAttribute, setText } from '../dom.js';
import { Live } from '../live.js';
import { messagePlace } from '../message.js';
import { link } from '../router.js';
import { badge, hasEnded, titleInside, titleOf, toneOf } from '../states.js';
import { answersPanel } from './answers.js';
import { actionBar } from './actions.js';
import { detailsPanel } from './details.js';
import { missing } from './missing.js';
import { progressPanel } from './progress.js';
import { requestsPanel } from './requests.js';

/** @typedef {import('../states.js').Job} Job */

/**
 * @param {number} id
 * @param {URLSearchParams} query
 * @returns {import('../router.js').View}
 */
export function jobView(id, query) {
  return new JobView(id, query).view();
}

class JobView {
  /**
   * @param {number} id
   * @param {URLSearchParams} query
   */
  constructor(id, query) {
    this.id = id;
    this.query = query;
    /** @type {Job | null} */
    this.job = null;
    /** @type {ReturnType<JobView['build']> | null} */
    this.parts = null;
    this.over = false;
    this.calls = new AbortController();
    document.title = `Job ${id} – puppetmaster`;
    this.place = messagePlace();
    this.title = h('h1', { tabindex: -1 }, `Job ${id}`);
    const waiting = h(
      'div',
      { class: 'card', 'aria-hidden': true },
      h('div', { class: 'skeleton' }),
      h('div', { class: 'skeleton' }),
    );
    this.node = h('div', { class: 'view' }, this.crumbs(), this.title, this.place.node, waiting);
    this.live = new Live(`jobs/${id}/ws`, {
      onOpen: () => {
        this.parts?.answers.catchUp();
        this.parts?.requests.catchUp();
      },
      onJobs: ([job]) => this.take(job),
      onRefused: () => void this.load(),
    });
    void this.load();
    this.stopClock = everySecond(() => this.tick());
  }

  view() {
    return {
      node: this.node,
      update: (/** @type {URLSearchParams} */ query) => {
        this.query = query;
        this.parts?.requests.filter(query);
      },
      close: () => this.close(),
    };
  }

  close() {
    this.over = true;
    this.live.close();
    this.calls.abort();
    this.stopClock();
    this.parts?.answers.close();
    this.parts?.requests.close();
  }

  crumbs() {
    return h(
      'nav',
      { class: 'crumbs', 'aria-label': 'Where this is' },
      h('a', { href: link('/jobs') }, 'Jobs'),
      h('span', { 'aria-hidden': true }, '/'),
      h('span', { 'aria-current': 'page' }, String(this.id)),
    );
  }

  /** Ask for the job itself: the stream can't say why it was refused. */
  async load() {
    const before = this.job;
    try {
      const job = await ask('GET', `jobs/${this.id}`, { query: { limit: 0 }, signal: this.calls.signal });
      this.place.clear();
      // What the stream told meanwhile is newer, and may be the last that it tells.
      if (this.job === before) this.take(job);
    } catch (error) {
      if (error instanceof GivenUp || this.over) return;
      if (error instanceof Refused && error.code === 404) this.showMissing(this.job ? 'removed' : 'unknown');
      else if (!this.job || error instanceof Refused) this.place.error(error);
    }
  }

  /** @param {Job} job */
  take(job) {
    if (this.over) return;
    if (job.removed) {
      this.showMissing('removed');
      return;
    }
    const before = this.job;
    this.job = job;
    this.show(job);
    if (before && before.status !== job.status) announce(`${titleInside(job)} is ${job.status}: ${job.reason ?? ''}`);
  }

  /** @param {'removed' | 'unknown'} why */
  showMissing(why) {
    const name = this.job?.name ? ` (${titleInside(this.job)})` : '';
    this.close();
    closeAll(); // whatever was asked about it is settled
    document.title = `Job ${this.id} – puppetmaster`;
    this.replace(() => [
      why === 'removed'
        ? missing('This job was removed', `Job ${this.id}${name} and its requests are no longer there.`)
        : missing(`There is no job ${this.id}`, 'It may have been removed: finished jobs are kept for a while only.'),
    ]);
    if (why === 'removed') announce('This job was removed');
  }

  /**
   * Put something else in the place of all that is shown. A focus inside would be lost with it; it goes to the title.
   *
   * @param {() => import('../dom.js').Child[]} make may take parts of what is shown
   */
  replace(make) {
    const focused = this.node.contains(document.activeElement);
    fill(this.node, ...make());
    if (focused) /** @type {HTMLElement | null} */ (this.node.querySelector('h1'))?.focus({ preventScroll: true });
  }

  /** Once it is known what there is to show. */
  build() {
    const parts = {
      status: badge('job'),
      reason: h('span', { class: 'reason', data: { testid: 'job-reason' } }),
      number: h('span', { class: 'job-id' }),
      labels: h('span', { class: 'labels' }),
      actions: actionBar((job) => this.take(job)),
      progress: progressPanel(),
      answers: answersPanel(this.id),
      requests: requestsPanel(this.id, this.query),
      details: detailsPanel(),
    };
    const sub = h('p', { class: 'job-sub' }, parts.status.node, parts.reason, parts.number, parts.labels);
    this.replace(() => [
      this.crumbs(),
      h('div', { class: 'view-head job-head' }, h('div', { class: 'job-title' }, this.title, sub), parts.actions.node),
      this.place.node,
      parts.actions.message,
      parts.progress.node,
      h('div', { class: 'columns' }, parts.answers.node, parts.details.node),
      parts.requests.node,
    ]);
    return parts;
  }

  /** @param {Job} job */
  show(job) {
    this.parts ??= this.build();
    const { status, reason, number, labels, actions, progress, details, answers, requests } = this.parts;
    setText(this.title, titleOf(job));
    document.title = `${hasEnded(job) ? job.status : `${job.progress} %`} · ${titleInside(job)} – puppetmaster`;
    status.show(job.status, toneOf(job));
    setText(reason, job.reason ?? '');
    setText(number, job.name ? String(job.id) : '');
    if (labels.dataset.shown !== job.labels.join('\n')) {
      setAttribute(labels, 'data-shown', job.labels.join('\n'));
      const all = (/** @type {string} */ label) =>
        h('a', { class: 'label', href: link('/jobs', { label }), title: `All jobs with the label ${label}` }, label);
      fill(labels, ...job.labels.map(all));
    }
    for (const part of [actions, progress, details, answers, requests]) part.show(job);
    this.tick();
  }

  tick() {
    if (this.job && !this.over) this.parts?.progress.tick(serverNow());
  }
}
