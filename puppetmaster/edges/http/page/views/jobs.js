/** The jobs: a live list, newest first. */

import { announce } from '../announce.js';
import { GivenUp, Refused, ask } from '../api.js';
import { everySecond, serverNow } from '../clock.js';
import { arrange, debounced, fill, freshId, h } from '../dom.js';
import { counted, number } from '../format.js';
import { icon } from '../icons.js';
import { Live } from '../live.js';
import { messagePlace } from '../message.js';
import { go, link } from '../router.js';
import { session } from '../session.js';
import { JOB_STATUSES } from '../states.js';
import { jobRow } from './job_row.js';

/** @typedef {import('../states.js').Job} Job */

const PAGE = 100;
const SEARCHED = 1000; // jobs that a text is looked for in: the server can't, and keeps about so many
const KEPT = 300; // jobs in memory while the first page is shown

/** What was shown last, so that Back shows it at once. @type {{filter: string, jobs: Map<number, Job>} | null} */
let remembered = null;

/**
 * @typedef {object} Filter
 * @property {string[]} status
 * @property {string[]} label
 * @property {string} text
 * @property {number} offset
 */

/**
 * @param {URLSearchParams} query
 * @returns {Filter}
 */
function filterOf(query) {
  return {
    status: query.getAll('status').filter((status) => JOB_STATUSES.includes(status)),
    label: query.getAll('label'),
    text: query.get('text') ?? '',
    offset: Math.max(0, Math.floor(Number(query.get('offset')) || 0)),
  };
}

/** @param {Filter} filter */
const addressOf = ({ status, label, text, offset }) => link('/jobs', { status, label, text, offset });

/** @param {Filter} filter what the server filters by */
const serverPart = ({ status, label }) => JSON.stringify([status, label]);

/**
 * @param {URLSearchParams} query
 * @returns {import('../router.js').View}
 */
export function jobsView(query) {
  return new JobsView(query).view();
}

class JobsView {
  /** @param {URLSearchParams} query */
  constructor(query) {
    this.filter = filterOf(query);
    /** @type {Map<number, Job>} */
    this.jobs = new Map();
    /** @type {Map<number, ReturnType<typeof jobRow>>} */
    this.rows = new Map();
    this.loaded = false;
    this.more = false;
    /** @type {AbortController | null} */
    this.loading = null;
    /** @type {Job[] | null} what the stream tells while a list is on its way */
    this.meanwhile = null;
    /** @type {Live | null} */
    this.live = null;
    this.place = messagePlace();
    const parts = this.build();
    this.parts = parts;
    this.node = parts.node;
    this.applyText = debounced(() => this.change({ text: parts.text.value.trim(), offset: 0 }, true), 250);
    parts.text.addEventListener('input', () => this.applyText());
    if (remembered && remembered.filter === addressOf(this.filter)) {
      this.jobs = remembered.jobs;
      this.loaded = true;
    }
    this.listen();
    this.render();
    this.stopClock = everySecond(() => this.tick());
  }

  view() {
    return {
      node: this.node,
      update: (/** @type {URLSearchParams} */ query) => this.update(filterOf(query)),
      close: () => this.close(),
    };
  }

  close() {
    remembered = this.loaded ? { filter: addressOf(this.filter), jobs: this.jobs } : null;
    this.live?.close();
    this.loading?.abort();
    this.stopClock();
    this.applyText.cancel();
  }

  // What it consists of

  build() {
    document.title = 'Jobs – puppetmaster';
    const filters = this.buildFilters();
    const summary = h('p', { class: 'summary', data: { testid: 'jobs-summary' } });
    const body = h('tbody', { role: 'rowgroup' });
    const table = h(
      'table',
      { class: 'jobs', role: 'table' },
      h('caption', { class: 'unseen' }, 'Jobs, newest first'),
      h(
        'thead',
        { role: 'rowgroup' },
        h(
          'tr',
          { role: 'row' },
          ...[
            ['Job', 'col-job'],
            ['Status', 'col-status'],
            ['Progress', 'col-progress'],
            ['Done', 'col-done'],
            ['Created', 'col-age'],
            ['Took', 'col-took'],
          ].map(([text, name]) => h('th', { scope: 'col', role: 'columnheader', class: name }, text)),
        ),
      ),
      body,
    );
    const empty = h('div', { class: 'empty', hidden: true });
    const waiting = h(
      'div',
      { class: 'skeletons', 'aria-hidden': true },
      ...Array.from({ length: 6 }, () => h('div', { class: 'skeleton' })),
    );
    const pager = h('nav', { class: 'pager', 'aria-label': 'Pages of jobs' });
    const node = h(
      'div',
      { class: 'view' },
      h(
        'div',
        { class: 'view-head' },
        h('div', {}, h('h1', { tabindex: -1 }, 'Jobs'), summary),
        session.canWrite ? h('a', { class: 'button primary', href: link('/new') }, icon('plus'), 'New job') : null,
      ),
      filters.node,
      this.place.node,
      h('div', { class: 'card flush' }, waiting, table, empty),
      pager,
    );
    return { ...filters, node, summary, body, table, empty, waiting, pager };
  }

  buildFilters() {
    const chips = JOB_STATUSES.map((status) =>
      h(
        'button',
        {
          type: 'button',
          class: 'chip',
          data: { tone: status, status },
          on: { click: () => this.toggleStatus(status) },
        },
        icon(status),
        status,
      ),
    );
    const textId = freshId('text');
    const text = h('input', {
      id: textId,
      type: 'search',
      placeholder: 'Name, id, label',
      autocomplete: 'off',
      spellcheck: 'false',
      value: this.filter.text,
    });
    const labelId = freshId('label');
    const listId = freshId('labels');
    const labelList = h('datalist', { id: listId });
    const label = h('input', {
      id: labelId,
      list: listId,
      placeholder: 'site=berlin',
      autocomplete: 'off',
      spellcheck: 'false',
      maxlength: 128,
    });
    const tokens = h('div', { class: 'tokens', hidden: true });
    const addLabel = (/** @type {Event} */ event) => {
      event.preventDefault();
      if (label.value.trim()) this.addLabel(label.value.trim());
      label.value = '';
    };
    // An entry that was taken from the list needs no Enter.
    label.addEventListener('input', (event) => {
      if (!('inputType' in event) || event.inputType === 'insertReplacementText') addLabel(event);
    });
    const node = h(
      'search',
      { class: 'filters', 'aria-label': 'Filter the jobs' },
      h(
        'div',
        { class: 'filter filter-text' },
        h('label', { for: textId }, 'Find'),
        h('div', { class: 'with-icon' }, icon('search'), text),
      ),
      h(
        'form',
        { class: 'filter filter-label', on: { submit: addLabel } },
        h('label', { for: labelId }, 'Label'),
        label,
        labelList,
      ),
      h(
        'div',
        { class: 'filter filter-status', role: 'group', 'aria-label': 'Status' },
        h('span', { class: 'filter-name', 'aria-hidden': true }, 'Status'),
        h('div', { class: 'chips' }, ...chips),
      ),
      tokens,
    );
    return { node, chips, text, labelList, tokens };
  }

  // Filters

  /** @param {string} status */
  toggleStatus(status) {
    const { status: chosen } = this.filter;
    this.change({
      status: chosen.includes(status) ? chosen.filter((one) => one !== status) : [...chosen, status],
      offset: 0,
    });
  }

  /** @param {string} label */
  addLabel(label) {
    if (!this.filter.label.includes(label)) this.change({ label: [...this.filter.label, label], offset: 0 });
  }

  /**
   * @param {Partial<Filter>} part
   * @param {boolean} [replace]
   */
  change(part, replace = false) {
    // What was typed goes along; by itself, a moment later, it could undo this change.
    this.applyText.cancel();
    go(addressOf({ ...this.filter, text: this.parts.text.value.trim(), ...part }), { replace });
  }

  /** @param {Filter} next */
  update(next) {
    const before = this.filter;
    this.filter = next;
    const { text } = this.parts;
    if (text.value.trim() !== next.text) {
      this.applyText.cancel();
      text.value = next.text;
    }
    const otherJobs = serverPart(before) !== serverPart(next);
    if (otherJobs) {
      this.jobs = new Map();
      this.loaded = false;
      this.listen();
    } else if (before.offset !== next.offset && !next.text) {
      this.jobs = new Map();
      this.loaded = false;
      void this.load();
    } else if (Boolean(before.text) !== Boolean(next.text)) {
      void this.load();
    }
    if (before.offset !== next.offset) window.scrollTo(0, 0);
    this.render();
    if (this.loaded && before.text !== next.text) announce(this.parts.summary.textContent ?? '');
  }

  // Jobs

  listen() {
    this.live?.close();
    const { status, label } = this.filter;
    this.live = new Live(
      'jobs/ws',
      {
        onOpen: () => void this.load(),
        onRefused: () => void this.load(),
        onJobs: (jobs) => this.merge(jobs),
      },
      { status, label, limit: PAGE + 1 },
    );
    // The list need not wait for the stream.
    void this.load();
  }

  /** Ask for all that is shown; the stream then tells what changes. */
  async load() {
    this.loading?.abort();
    const loading = new AbortController();
    this.loading = loading;
    /** @type {Job[]} */
    const meanwhile = [];
    this.meanwhile = meanwhile;
    const { status, label, text, offset } = this.filter;
    try {
      /** @type {Job[]} */
      const jobs = await ask('GET', 'jobs', {
        query: { limit: text ? SEARCHED : PAGE + 1, offset: text ? 0 : offset || null, status, label },
        signal: loading.signal,
      });
      this.more = !text && jobs.length > PAGE;
      this.jobs = new Map(jobs.map((job) => [job.id, job]));
      this.loaded = true;
      this.place.clear();
      // What the stream told while the answer was on its way is newer, and may be the last that it tells.
      this.apply(meanwhile);
    } catch (error) {
      if (error instanceof GivenUp) return;
      // While the connection is away a notice says so already.
      if (error instanceof Refused || !this.loaded) this.place.error(error);
    } finally {
      if (this.meanwhile === meanwhile) this.meanwhile = null;
    }
    this.render();
  }

  /** @param {Job[]} changed */
  apply(changed) {
    for (const job of changed) {
      if (job.removed || !this.belongs(job)) this.jobs.delete(job.id);
      else if (this.jobs.has(job.id) || this.takesNew()) this.jobs.set(job.id, job);
    }
  }

  /** @param {Job[]} changed */
  merge(changed) {
    this.meanwhile?.push(...changed);
    this.apply(changed);
    if (!this.filter.text && this.jobs.size > KEPT) this.prune();
    if (this.loaded) this.render();
  }

  /** A page of older jobs keeps the jobs it has. */
  takesNew() {
    return this.loaded && (this.filter.offset === 0 || this.filter.text !== '');
  }

  /** @param {Job} job */
  belongs(job) {
    const { status, label } = this.filter;
    return (!status.length || status.includes(job.status)) && label.every((one) => job.labels.includes(one));
  }

  prune() {
    const ids = [...this.jobs.keys()].sort((a, b) => b - a);
    for (const id of ids.slice(PAGE + 1)) this.jobs.delete(id);
    this.more = true;
  }

  /** @param {Job} job */
  says(job) {
    const text = this.filter.text.toLowerCase();
    return (
      !text ||
      [job.name ?? '', String(job.id), job.reason ?? '', ...job.labels].some((part) =>
        part.toLowerCase().includes(text),
      )
    );
  }

  // Drawing

  render() {
    const { text, offset, status, label } = this.filter;
    const found = [...this.jobs.values()].filter((job) => this.says(job)).sort((a, b) => b.id - a.id);
    const from = text ? Math.min(offset, Math.floor(Math.max(0, found.length - 1) / PAGE) * PAGE) : 0;
    const shown = found.slice(from, from + PAGE);
    const more = found.length > from + PAGE || this.more;

    this.renderRows(shown);
    for (const chip of this.parts.chips)
      chip.setAttribute('aria-pressed', String(status.includes(chip.dataset.status ?? '')));
    this.renderTokens();
    this.parts.waiting.hidden = this.loaded;
    this.parts.table.hidden = !this.loaded || !shown.length;
    this.renderEmpty(this.loaded && !shown.length, Boolean(text || status.length || label.length));
    this.renderSummary(found.length, more);
    this.renderPager(text ? from : offset, shown.length, more);
  }

  /** @param {Job[]} shown */
  renderRows(shown) {
    const now = serverNow();
    const ids = new Set(shown.map((job) => job.id));
    for (const id of [...this.rows.keys()]) if (!ids.has(id)) this.rows.delete(id);
    const nodes = shown.map((job) => {
      let row = this.rows.get(job.id);
      if (!row) {
        row = jobRow(job.id, (label) => this.addLabel(label));
        this.rows.set(job.id, row);
      }
      row.show(job, now);
      return row.node;
    });
    arrange(this.parts.body, nodes);
  }

  renderTokens() {
    const { label } = this.filter;
    const { tokens: place, labelList: list } = this.parts;
    if (place.dataset.shown !== JSON.stringify(label)) {
      place.dataset.shown = JSON.stringify(label);
      place.hidden = !label.length;
      fill(
        place,
        ...label.map((one) =>
          h(
            'button',
            {
              type: 'button',
              class: 'token',
              'aria-label': `No longer filter by the label ${one}`,
              on: { click: () => this.change({ label: label.filter((other) => other !== one), offset: 0 }) },
            },
            h('span', {}, one),
            icon('close'),
          ),
        ),
      );
    }
    const known = new Set([...this.jobs.values()].flatMap((job) => job.labels));
    const options = [...known].sort().slice(0, 50);
    if (list.dataset.shown !== JSON.stringify(options)) {
      list.dataset.shown = JSON.stringify(options);
      fill(list, ...options.map((one) => h('option', { value: one })));
    }
  }

  /**
   * @param {boolean} empty
   * @param {boolean} filtered
   */
  renderEmpty(empty, filtered) {
    const node = this.parts.empty;
    node.hidden = !empty;
    const kind = filtered ? 'filtered' : this.filter.offset ? 'beyond' : 'none';
    if (!empty || node.dataset.kind === kind) return;
    node.dataset.kind = kind;
    if (kind === 'filtered') {
      fill(
        node,
        h('h2', {}, 'No job matches'),
        h('p', {}, 'Jobs that come to match appear here by themselves.'),
        h('p', {}, h('a', { class: 'button', href: link('/jobs') }, 'Show all jobs')),
      );
    } else if (kind === 'beyond') {
      fill(
        node,
        h('h2', {}, 'No older jobs'),
        h('p', {}, h('a', { class: 'button', href: link('/jobs') }, 'To the newest')),
      );
    } else {
      fill(
        node,
        h('h2', {}, 'No jobs yet'),
        h('p', {}, 'A job runs one command on many devices and shows how far it is.'),
        session.canWrite
          ? h('p', {}, h('a', { class: 'button primary', href: link('/new') }, icon('plus'), 'New job'))
          : null,
        h(
          'p',
          { class: 'hint' },
          'From a terminal: ',
          h('code', {}, "puppetmaster run -d 'device-[0001-0050]' get /system/firmware"),
        ),
      );
    }
  }

  /**
   * @param {number} count
   * @param {boolean} more
   */
  renderSummary(count, more) {
    const node = this.parts.summary;
    const { text, offset } = this.filter;
    let words = '';
    if (this.loaded && count) {
      if (text) {
        const all = this.jobs.size;
        const newest = all >= SEARCHED ? 'the newest ' : '';
        words = `${number(count)} of ${newest}${counted(all, 'job')}`;
      } else if (offset) {
        words = 'Older jobs';
      } else {
        const by = (/** @type {string} */ status) =>
          [...this.jobs.values()].filter((job) => job.status === status).length;
        const parts = ['dispatching', 'paused', 'pending']
          .map((status) => [by(status), status])
          .filter(([some]) => some);
        words = parts.length
          ? parts.map(([some, status]) => `${some} ${status}`).join(', ')
          : more
            ? 'All quiet'
            : `${counted(count, 'job')}, all ended`;
      }
    }
    if (node.textContent !== words) node.textContent = words;
  }

  /**
   * @param {number} from
   * @param {number} count
   * @param {boolean} more
   */
  renderPager(from, count, more) {
    const node = this.parts.pager;
    node.hidden = !this.loaded || (from === 0 && !more);
    const state = JSON.stringify([this.filter, from, count, more]);
    if (node.hidden || node.dataset.shown === state) return;
    node.dataset.shown = state;
    const page = (/** @type {number} */ offset) => addressOf({ ...this.filter, offset });
    fill(
      node,
      from > 0
        ? h(
            'a',
            { class: 'button', href: page(Math.max(0, from - PAGE)), rel: 'prev' },
            icon('chevron', 'back'),
            'Newer',
          )
        : h('span'),
      h('span', { class: 'pager-text' }, count ? `${number(from + 1)} – ${number(from + count)}` : ''),
      more ? h('a', { class: 'button', href: page(from + PAGE), rel: 'next' }, 'Older', icon('chevron')) : h('span'),
    );
  }

  tick() {
    const now = serverNow();
    for (const row of this.rows.values()) row.tick(now);
  }
}
