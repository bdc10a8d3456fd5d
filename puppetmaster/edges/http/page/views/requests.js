/** The requests of a job: a table with pages of the server's, filtered by status and destination. */

import { announce } from '../announce.js';
import { GivenUp, Refused, Unreachable, ask } from '../api.js';
import { arrange, debounced, fill, freshId, h, setText } from '../dom.js';
import { number } from '../format.js';
import { icon } from '../icons.js';
import { messagePlace } from '../message.js';
import { Refresher } from '../refresher.js';
import { go, link } from '../router.js';
import { REQUEST_STATUSES, hasEnded, isUnmade } from '../states.js';
import { requestRow } from './request_row.js';

/** @typedef {import('../states.js').Job} Job */

const INTERVAL = 1000; // milliseconds
const PAGE = 100;
const SMALLER = [25, 5, 1]; // rows of a page, when the answers are so large that a page of them is refused
const OPEN = 20; // rows that may be open at once

/**
 * @typedef {object} Filter
 * @property {string[]} status
 * @property {string} destination
 * @property {number} offset
 */

/**
 * @param {URLSearchParams} query
 * @returns {Filter}
 */
function filterOf(query) {
  return {
    status: query.getAll('status').filter((status) => REQUEST_STATUSES.includes(status)),
    destination: query.get('destination') ?? '',
    offset: Math.max(0, Math.floor(Number(query.get('offset')) || 0)),
  };
}

/**
 * @param {number} id
 * @param {URLSearchParams} query
 */
export function requestsPanel(id, query) {
  return new RequestsPanel(id, query);
}

class RequestsPanel {
  /**
   * @param {number} id
   * @param {URLSearchParams} query
   */
  constructor(id, query) {
    this.id = id;
    this.wanted = filterOf(query);
    this.page = PAGE;
    /** @type {Job | null} */
    this.job = null;
    this.counts = '';
    /** @type {Map<number, ReturnType<typeof requestRow>>} */
    this.rows = new Map();
    /** Which filter the rows in the table belong to. */
    this.shownFor = '';
    this.count = 0;
    this.more = false;
    this.missed = false;
    this.calls = new AbortController();
    this.place = messagePlace();
    const parts = this.build();
    this.parts = parts;
    this.node = parts.node;
    this.applyDestination = debounced(
      () => this.change({ destination: asPattern(parts.input.value), offset: 0 }, true),
      300,
    );
    parts.input.addEventListener('input', () => this.applyDestination());
    this.refresher = new Refresher(() => this.load(), INTERVAL);
    this.refresher.want();
  }

  close() {
    this.refresher.close();
    this.calls.abort();
    this.applyDestination.cancel();
    for (const row of this.rows.values()) row.letGo();
  }

  build() {
    const inputId = freshId('destination');
    const hintId = freshId('hint');
    const input = h('input', {
      id: inputId,
      type: 'search',
      class: 'mono',
      placeholder: 'device-00*',
      autocomplete: 'off',
      autocapitalize: 'none',
      spellcheck: 'false',
      'aria-describedby': hintId,
      value: this.wanted.destination,
    });
    const allCount = h('span', { class: 'chip-count' });
    const allChip = h(
      'button',
      {
        type: 'button',
        class: 'chip',
        data: { status: 'all' },
        on: { click: () => this.change({ status: [], offset: 0 }) },
      },
      'all',
      allCount,
    );
    const chips = REQUEST_STATUSES.map((status) => {
      const count = h('span', { class: 'chip-count' });
      const node = h(
        'button',
        { type: 'button', class: 'chip', data: { tone: status, status }, on: { click: () => this.toggle(status) } },
        icon(status),
        status,
        count,
      );
      return { status, node, count };
    });

    const body = h('tbody', { role: 'rowgroup' });
    const table = h(
      'table',
      { class: 'requests', role: 'table' },
      h('caption', { class: 'unseen' }, 'Requests of this job'),
      h(
        'thead',
        { role: 'rowgroup' },
        h(
          'tr',
          { role: 'row' },
          ...[
            ['Destination', 'col-destination'],
            ['Status', 'col-status'],
            ['Code', 'col-code'],
            ['Answer', 'col-answer'],
            ['Attempts', 'col-attempts'],
            ['Took', 'col-took'],
          ].map(([text, name]) => h('th', { scope: 'col', role: 'columnheader', class: name }, text)),
        ),
      ),
      body,
    );
    const empty = h('p', { class: 'quiet-words', role: 'status', hidden: true });
    const pager = h('nav', { class: 'pager', 'aria-label': 'Pages of requests' });
    const node = h(
      'section',
      { class: 'card flush', 'aria-labelledby': 'requests-title', id: 'requests' },
      h(
        'div',
        { class: 'card-head' },
        h('h2', { id: 'requests-title' }, 'Requests'),
        h(
          'div',
          { class: 'filter filter-destination' },
          h('label', { for: inputId }, 'Destination'),
          h('div', { class: 'with-icon' }, icon('search'), input),
          h('span', { id: hintId, class: 'unseen' }, 'A part of its name, or * for any characters'),
        ),
        h(
          'div',
          { class: 'chips', role: 'group', 'aria-label': 'Status of the requests' },
          allChip,
          ...chips.map((chip) => chip.node),
        ),
      ),
      h('div', { class: 'padded' }, this.place.node),
      table,
      empty,
      pager,
    );
    return { node, input, allCount, allChip, chips, body, table, empty, pager, ...this.buildPager(pager) };
  }

  // Filters

  /** @param {string} status */
  toggle(status) {
    const { status: chosen } = this.wanted;
    this.change({
      status: chosen.includes(status) ? chosen.filter((one) => one !== status) : [...chosen, status],
      offset: 0,
    });
  }

  /**
   * @param {Partial<Filter>} part
   * @param {boolean} [replace]
   */
  change(part, replace = false) {
    go(this.address(part), { replace });
  }

  /** @param {Partial<Filter>} part */
  address(part) {
    const { status, destination, offset } = { ...this.wanted, ...part };
    return link(`/jobs/${this.id}`, { status, destination, offset });
  }

  /** @param {URLSearchParams} query */
  filter(query) {
    const before = this.wanted;
    this.wanted = filterOf(query);
    if (JSON.stringify(before) === JSON.stringify(this.wanted)) return;
    const { input } = this.parts;
    if (asPattern(input.value) !== this.wanted.destination) input.value = this.wanted.destination;
    this.calls.abort();
    this.calls = new AbortController();
    this.refresher.now();
    this.renderChips();
    // What led here may stand far above or below: an answer's example, the pager.
    if (before.offset !== this.wanted.offset || document.activeElement?.closest('.answer')) this.reveal();
  }

  reveal() {
    const { top } = this.node.getBoundingClientRect();
    if (top < 0 || top > window.innerHeight - 160) this.node.scrollIntoView();
  }

  // Requests

  /** @param {Job} job */
  show(job) {
    this.job = job;
    const counts = `${job.status} ${job.progress} ${Object.values(job.counts).join(' ')}`;
    if (counts === this.counts) return;
    this.counts = counts;
    this.renderChips();
    if (hasEnded(job)) this.refresher.now();
    else this.refresher.want();
  }

  /** The connection is there again: what could not be asked for meanwhile is asked for now. */
  catchUp() {
    if (this.missed) this.refresher.now();
  }

  async load() {
    const filter = this.wanted;
    const { status, destination, offset } = filter;
    const loading = setTimeout(() => this.node.setAttribute('aria-busy', 'true'), 300);
    try {
      const job = await ask('GET', `jobs/${this.id}`, {
        // One more than is shown tells whether there is a next page.
        query: { limit: this.page + (this.page === PAGE ? 1 : 0), offset: offset || null, status, destination },
        signal: this.calls.signal,
      });
      if (filter !== this.wanted) return;
      this.missed = false;
      this.place.clear();
      this.render(job.requests, filter);
    } catch (error) {
      this.missed = error instanceof Unreachable;
      if (error instanceof GivenUp) {
        this.refresher.want(); // the filter has changed meanwhile
      } else if (error instanceof Refused && error.code === 413 && this.page > 1) {
        this.page = SMALLER.find((size) => size < this.page) ?? 1;
        this.refresher.now();
      } else if (!(error instanceof Refused && error.code === 404)) {
        this.place.error(error); // a job that is gone is told by its view
      }
    } finally {
      clearTimeout(loading);
      this.node.removeAttribute('aria-busy');
    }
  }

  /**
   * @param {import('./request_row.js').RequestDocument[]} requests
   * @param {Filter} filter
   */
  render(requests, filter) {
    const shown = requests.slice(0, this.page);
    this.more = requests.length > this.page || (this.page < PAGE && requests.length === this.page);
    this.count = shown.length;
    const ids = new Set(shown.map((request) => request.id));
    for (const [id, row] of [...this.rows]) {
      if (ids.has(id)) continue;
      row.letGo();
      this.rows.delete(id);
    }
    /** @type {Element[]} */
    const nodes = [];
    for (const request of shown) {
      let row = this.rows.get(request.id);
      if (!row) {
        row = requestRow(request.id, { onOpen: () => this.opened(), onChange: () => this.order() });
        this.rows.set(request.id, row);
      }
      row.show(request);
      nodes.push(row.node);
    }
    this.order();
    const { table, empty } = this.parts;
    table.hidden = !shown.length;
    empty.hidden = shown.length > 0;
    setText(
      empty,
      filter.offset
        ? 'There are no more requests.'
        : filter.status.length || filter.destination
          ? 'No request matches.'
          : this.job && isUnmade(this.job)
            ? 'Its requests are made when it starts: only then it is known who its targets are.'
            : 'This job has no requests.',
    );
    this.renderPager(filter);
    const key = JSON.stringify(filter);
    if (this.shownFor && this.shownFor !== key) announce(this.rangeText(filter));
    this.shownFor = key;
  }

  /** Put the rows, and those below the open ones, in their order. */
  order() {
    const nodes = [...this.rows.values()]
      .sort((a, b) => a.id - b.id)
      .flatMap((row) => (row.more ? [row.node, row.more] : [row.node]));
    arrange(this.parts.body, nodes);
  }

  /** Keep the document small however many rows are opened. */
  opened() {
    const open = [...this.rows.values()].filter((row) => row.more);
    if (open.length > OPEN) open[0].close();
  }

  renderChips() {
    const job = this.job;
    if (!job) return;
    const { status: chosen } = this.wanted;
    const { allChip, allCount, chips } = this.parts;
    allChip.setAttribute('aria-pressed', String(!chosen.length));
    setText(allCount, number(job.totalCount));
    for (const { status, node, count } of chips) {
      const some = job.counts[status] ?? 0;
      const pressed = chosen.includes(status);
      setText(count, number(some));
      node.setAttribute('aria-pressed', String(pressed));
      node.hidden = !some && !pressed;
    }
  }

  /** @param {Filter} filter how many match, or null when only the server knows */
  total({ status, destination }) {
    if (destination || !this.job) return null;
    const counts = this.job.counts;
    return status.length ? status.reduce((sum, one) => sum + counts[one], 0) : this.job.totalCount;
  }

  /** @param {Filter} filter */
  rangeText(filter) {
    if (!this.count) return '';
    const total = this.total(filter);
    const range = `${number(filter.offset + 1)} – ${number(filter.offset + this.count)}`;
    if (total !== null) return `${range} of ${number(Math.max(total, filter.offset + this.count))}`;
    return this.more ? `${range} of more` : `${range} of ${number(filter.offset + this.count)}`;
  }

  /** @param {Filter} filter */
  renderPager(filter) {
    const { pager, links, range } = this.parts;
    const total = this.total(filter);
    const last = total === null ? null : Math.floor(Math.max(0, total - 1) / this.page) * this.page;
    const text = this.rangeText(filter);
    const state = JSON.stringify([filter, text, this.more, last]);
    pager.hidden = !this.count && !filter.offset;
    if (pager.dataset.shown === state) return;
    pager.dataset.shown = state;
    // The links are changed, not made anew: whoever stands on one keeps standing there.
    const aim = (/** @type {keyof typeof links} */ name, /** @type {number | null} */ offset) => {
      const node = links[name];
      if (offset === null) node.removeAttribute('href');
      else node.setAttribute('href', this.address({ offset }));
      node.setAttribute('aria-disabled', String(offset === null));
    };
    aim('first', filter.offset > 0 ? 0 : null);
    aim('previous', filter.offset > 0 ? Math.max(0, filter.offset - this.page) : null);
    aim('next', this.more ? filter.offset + this.page : null);
    aim('last', last !== null && last > filter.offset ? last : null);
    setText(range, text);
    links.first.hidden = links.last.hidden = !filter.offset && !this.more;
    links.previous.hidden = links.next.hidden = !filter.offset && !this.more;
  }

  /** @param {HTMLElement} pager */
  buildPager(pager) {
    const range = h('span', { class: 'pager-text', data: { testid: 'requests-range' } });
    const links = {
      first: h('a', { class: 'button small' }, 'First'),
      previous: h('a', { class: 'button small', rel: 'prev' }, icon('chevron', 'back'), 'Previous'),
      next: h('a', { class: 'button small', rel: 'next' }, 'Next', icon('chevron')),
      last: h('a', { class: 'button small' }, 'Last'),
    };
    fill(
      pager,
      h('span', { class: 'pager-links' }, links.first, links.previous),
      range,
      h('span', { class: 'pager-links' }, links.next, links.last),
    );
    return { range, links };
  }
}

/**
 * What is typed is a part of a name; with a * it is a pattern already.
 *
 * @param {string} text
 */
function asPattern(text) {
  const part = text.trim();
  return !part || part.includes('*') ? part : `*${part}*`;
}
