/** The devices that are known: who is there, and what they say of themselves. */

import { announce } from '../announce.js';
import { GivenUp, Refused, ask } from '../api.js';
import { everySecond, serverNow } from '../clock.js';
import { arrange, debounced, fill, freshId, h, setText } from '../dom.js';
import { number } from '../format.js';
import { icon } from '../icons.js';
import { messagePlace } from '../message.js';
import { Refresher } from '../refresher.js';
import { go, link } from '../router.js';
import { session } from '../session.js';
import { CONNECTIONS, deviceRow } from './device_row.js';

/** @typedef {import('./device_row.js').Device} Device */

const PAGE = 100;
const INTERVAL = 3000; // milliseconds

/**
 * @typedef {object} Filter
 * @property {string} id
 * @property {string[]} connection
 * @property {string[]} label
 * @property {number} offset
 */

/**
 * @param {URLSearchParams} query
 * @returns {Filter}
 */
function filterOf(query) {
  return {
    id: query.get('id') ?? '',
    connection: query.getAll('connection').filter((word) => word in CONNECTIONS),
    label: query.getAll('label'),
    offset: Math.max(0, Math.floor(Number(query.get('offset')) || 0)),
  };
}

/** @param {Filter} filter */
const addressOf = (filter) => link('/devices', { ...filter });

/**
 * @param {URLSearchParams} query
 * @returns {import('../router.js').View}
 */
export function devicesView(query) {
  return new DevicesView(query).view();
}

class DevicesView {
  /** @param {URLSearchParams} query */
  constructor(query) {
    this.filter = filterOf(query);
    /** Null until they have been asked for. @type {Device[] | null} */
    this.devices = null;
    this.more = false;
    this.announced = this.filter;
    /** @type {Map<string, ReturnType<typeof deviceRow>>} */
    this.rows = new Map();
    this.calls = new AbortController();
    this.place = messagePlace();
    const parts = this.build();
    this.parts = parts;
    this.node = parts.node;
    this.applyTexts = debounced(() => this.change({ ...this.texts(), offset: 0 }, true), 300);
    for (const input of [parts.id, parts.label]) input.addEventListener('input', () => this.applyTexts());
    this.refresher = new Refresher(() => this.load(), INTERVAL);
    this.refresher.want();
    this.stopClock = everySecond(() => {
      this.tick();
      this.refresher.want();
    });
    this.render();
  }

  view() {
    return {
      node: this.node,
      update: (/** @type {URLSearchParams} */ query) => this.update(filterOf(query)),
      close: () => this.close(),
    };
  }

  close() {
    this.refresher.close();
    this.calls.abort();
    this.stopClock();
    this.applyTexts.cancel();
  }

  // What it consists of

  build() {
    document.title = 'Devices – puppetmaster';
    const filters = this.buildFilters();
    const body = h('tbody', { role: 'rowgroup' });
    const table = h(
      'table',
      { class: 'devices', role: 'table', hidden: true },
      h('caption', { class: 'unseen' }, 'Devices, by their names'),
      h(
        'thead',
        { role: 'rowgroup' },
        h(
          'tr',
          { role: 'row' },
          ...[
            ['Device', 'col-device'],
            ['Connection', 'col-connection'],
            ['Seen', 'col-seen'],
            ['Labels', 'col-labels'],
            ['Request', 'col-request'],
            ['Hostname', 'col-hostname'],
            ['System', 'col-system'],
            ['Version', 'col-version'],
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
    const pager = h('nav', { class: 'pager', 'aria-label': 'Pages of devices' });
    const run = h('a', { class: 'button', hidden: true }, icon('plus'), 'New job for these');
    const node = h(
      'div',
      { class: 'view' },
      h('div', { class: 'view-head' }, h('h1', { tabindex: -1 }, 'Devices'), run),
      filters.node,
      this.place.node,
      h('div', { class: 'card flush' }, waiting, table, empty),
      pager,
    );
    return { ...filters, node, body, table, empty, waiting, pager, run };
  }

  buildFilters() {
    const line = (/** @type {string} */ name, /** @type {Record<string, any>} */ props) => {
      const id = freshId(name);
      const input = h('input', { id, type: 'search', autocomplete: 'off', autocapitalize: 'none', ...props });
      input.spellcheck = false;
      return { id, input };
    };
    const id = line('device', { class: 'mono', placeholder: 'device-00*', value: this.filter.id });
    const label = line('label', { placeholder: 'site=berlin, rack', value: this.filter.label.join(', ') });
    const chips = Object.entries(CONNECTIONS).map(([word, [tone, drawing]]) =>
      h(
        'button',
        { type: 'button', class: 'chip', data: { tone, connection: word }, on: { click: () => this.toggle(word) } },
        icon(drawing),
        word,
      ),
    );
    const node = h(
      'search',
      { class: 'filters', 'aria-label': 'Filter the devices' },
      h(
        'div',
        { class: 'filter filter-text' },
        h('label', { for: id.id }, 'Name'),
        h('div', { class: 'with-icon' }, icon('search'), id.input),
      ),
      h('div', { class: 'filter filter-text' }, h('label', { for: label.id }, 'Labels'), label.input),
      h(
        'div',
        { class: 'filter filter-status', role: 'group', 'aria-label': 'Connection' },
        h('span', { class: 'filter-name', 'aria-hidden': true }, 'Connection'),
        h('div', { class: 'chips' }, ...chips),
      ),
    );
    return { node, id: id.input, label: label.input, chips };
  }

  // Filters

  /** What is typed, though it may not be asked for yet; a part of a name stands for all names with it. */
  texts() {
    const { id, label } = this.parts;
    const part = id.value.trim();
    return { id: !part || part.includes('*') ? part : `*${part}*`, label: labelsOf(label.value) };
  }

  /** @param {string} word */
  toggle(word) {
    const { connection } = this.filter;
    const next = connection.includes(word) ? connection.filter((one) => one !== word) : [...connection, word];
    this.change({ ...this.texts(), connection: next, offset: 0 });
  }

  /** @param {string} label */
  addLabel(label) {
    const typed = this.texts();
    if (!typed.label.includes(label)) this.change({ ...typed, label: [...typed.label, label], offset: 0 });
  }

  /**
   * @param {Partial<Filter>} part
   * @param {boolean} [replace]
   */
  change(part, replace = false) {
    go(addressOf({ ...this.filter, ...part }), { replace });
  }

  /** @param {Filter} next */
  update(next) {
    const before = this.filter;
    this.filter = next;
    this.applyTexts.cancel();
    const { id, label } = this.parts;
    const typed = this.texts();
    if (typed.id !== next.id) id.value = next.id;
    if (JSON.stringify(typed.label) !== JSON.stringify(next.label)) label.value = next.label.join(', ');
    if (before.offset !== next.offset) window.scrollTo(0, 0);
    this.calls.abort();
    this.calls = new AbortController();
    this.refresher.now();
    this.render();
  }

  // Devices

  async load() {
    const filter = this.filter;
    const { id, connection, label, offset } = filter;
    try {
      /** @type {Device[]} */
      const found = await ask('GET', 'devices', {
        // One more than is shown tells whether there is a next page.
        query: { limit: PAGE + 1, offset: offset || null, id, connection, label },
        signal: this.calls.signal,
      });
      if (filter !== this.filter) return;
      this.devices = found.slice(0, PAGE);
      this.more = found.length > PAGE;
      this.place.clear();
      this.render();
      if (this.announced !== filter) announce(this.rangeText() || 'No device matches');
      this.announced = filter;
    } catch (error) {
      if (error instanceof GivenUp) this.refresher.want(); // the filter has changed meanwhile
      else if (error instanceof Refused || this.devices === null) this.place.error(error);
      else this.place.say('The server can’t be reached, and what you see may be old.');
    }
  }

  // Drawing

  render() {
    const { table, empty, waiting, chips, run } = this.parts;
    const { id, connection, label, offset } = this.filter;
    for (const chip of chips)
      chip.setAttribute('aria-pressed', String(connection.includes(chip.dataset.connection ?? '')));
    const chosen = connection.length ? connection : label.length ? [] : ['any'];
    run.setAttribute('href', link('/new', { label, connection: chosen }));
    // The form has no place for a pattern of names, for several connections, nor for a label of any value.
    run.hidden = !session.canWrite || id !== '' || connection.length > 1 || !label.every(isPair);
    waiting.hidden = this.devices !== null;
    const devices = this.devices ?? [];
    table.hidden = !devices.length;
    empty.hidden = this.devices === null || devices.length > 0;
    this.renderEmpty(Boolean(id || connection.length || label.length || offset));
    this.renderRows(devices);
    this.renderPager();
  }

  /** @param {Device[]} devices */
  renderRows(devices) {
    const now = serverNow();
    const ids = new Set(devices.map((device) => device.id));
    for (const id of [...this.rows.keys()]) if (!ids.has(id)) this.rows.delete(id);
    const nodes = devices.map((device) => {
      let row = this.rows.get(device.id);
      if (!row) {
        row = deviceRow(device.id, (label) => this.addLabel(label));
        this.rows.set(device.id, row);
      }
      row.show(device, now);
      return row.node;
    });
    arrange(this.parts.body, nodes);
  }

  /** @param {boolean} filtered */
  renderEmpty(filtered) {
    const { empty } = this.parts;
    const kind = filtered ? 'filtered' : 'none';
    if (empty.hidden || empty.dataset.kind === kind) return;
    empty.dataset.kind = kind;
    fill(
      empty,
      h('h2', {}, filtered ? 'No device matches' : 'No devices yet'),
      h(
        'p',
        {},
        filtered
          ? 'Devices that come to match appear here by themselves.'
          : 'A device is known as soon as it says that it is there, or answers.',
      ),
      filtered ? h('p', {}, h('a', { class: 'button', href: link('/devices') }, 'Show all devices')) : null,
    );
  }

  rangeText() {
    const count = this.devices?.length ?? 0;
    const { offset } = this.filter;
    if (!count) return '';
    return `${number(offset + 1)} – ${number(offset + count)} of ${this.more ? 'more' : number(offset + count)}`;
  }

  renderPager() {
    const { pager } = this.parts;
    const { offset } = this.filter;
    const text = this.rangeText();
    const state = JSON.stringify([this.filter, text, this.more]);
    pager.hidden = !text && !offset;
    if (pager.hidden || pager.dataset.shown === state) return;
    pager.dataset.shown = state;
    const page = (/** @type {number} */ from) => addressOf({ ...this.filter, offset: from });
    const previous = { class: 'button', href: page(Math.max(0, offset - PAGE)), rel: 'prev' };
    const next = { class: 'button', href: page(offset + PAGE), rel: 'next' };
    fill(
      pager,
      offset > 0 ? h('a', previous, icon('chevron', 'back'), 'Previous') : h('span'),
      h('span', { class: 'pager-text', data: { testid: 'devices-range' } }, text),
      this.more ? h('a', next, 'Next', icon('chevron')) : h('span'),
    );
  }

  tick() {
    const now = serverNow();
    for (const row of this.rows.values()) row.tick(now);
  }
}

/**
 * `site=berlin, rack`: the labels of a text.
 *
 * @param {string} text
 */
const labelsOf = (text) =>
  text
    .split(',')
    .map((label) => label.trim())
    .filter(Boolean);

/** @param {string} label */
const isPair = (label) => label.indexOf('=') > 0;
