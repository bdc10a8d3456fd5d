/** One device in the list. */

import { fill, h, setAttribute, setText } from '../dom.js';
import { age, fullTime } from '../format.js';
import { icon } from '../icons.js';
import { link } from '../router.js';

/**
 * @typedef {object} Device
 * @property {string} id
 * @property {string} channel
 * @property {string} connection
 * @property {string | null} connectionChangedAt
 * @property {string | null} lastSeenAt
 * @property {Record<string, string>} labels
 * @property {Record<string, string | number | boolean>} facts
 * @property {number | null} currentRequest
 */

/** How each connection looks: its tone and its icon. */
export const CONNECTIONS = /** @type {Record<string, [string, string]>} */ ({
  online: ['resolved', 'resolved'],
  offline: ['error', 'unplugged'],
  unknown: ['created', 'created'],
});

const LABELS = 4; // shown; the others are counted

/**
 * @param {string} id
 * @param {(label: string) => void} onLabel
 */
export function deviceRow(id, onLabel) {
  const connection = h('span', { class: 'badge' });
  const seen = h('time');
  const labels = h('span', { class: 'labels' });
  const request = h('span', { class: 'device-request' });
  const facts = ['hostname', 'system', 'version'].map((name) => ({ name, node: h('span') }));
  const node = h(
    'tr',
    { role: 'row', data: { device: id } },
    h('th', { scope: 'row', role: 'rowheader', class: 'col-device mono' }, id),
    h('td', { role: 'cell', class: 'col-connection' }, connection),
    h('td', { role: 'cell', class: 'col-seen' }, seen),
    h('td', { role: 'cell', class: 'col-labels' }, labels),
    h('td', { role: 'cell', class: 'col-request' }, request),
    ...facts.map((fact) => h('td', { role: 'cell', class: `col-${fact.name}` }, fact.node)),
  );

  /** @type {Device} */
  let device;
  let shown = '';

  /** @param {number} now */
  const tick = (now) => {
    const { channel, lastSeenAt } = device;
    setText(seen, channel === 'local' ? 'here' : lastSeenAt ? age(lastSeenAt, now) : '–');
  };

  return {
    node,
    tick,
    /**
     * @param {Device} next
     * @param {number} now
     */
    show(next, now) {
      device = next;
      tick(now);
      setAttribute(seen, 'datetime', device.lastSeenAt);
      setAttribute(seen, 'title', device.lastSeenAt && fullTime(device.lastSeenAt));
      // When it was seen changes all the time, the rest hardly ever.
      const rest = JSON.stringify([device.connection, device.labels, device.facts, device.currentRequest]);
      if (shown === rest) return;
      shown = rest;
      const [tone, drawing] = CONNECTIONS[device.connection] ?? CONNECTIONS.unknown;
      setAttribute(connection, 'data-tone', tone);
      fill(connection, icon(drawing), h('span', {}, device.connection));
      const since = device.connectionChangedAt ? `since ${fullTime(device.connectionChangedAt)}` : null;
      setAttribute(connection, 'title', since);
      fill(labels, ...labelNodes(device.labels, onLabel));
      fill(request, requestNode(device.currentRequest));
      for (const fact of facts) {
        const text = String(device.facts[fact.name] ?? '–');
        setText(fact.node, text);
        setAttribute(fact.node, 'title', text.length > 20 ? text : null);
      }
    },
  };
}

/** @param {number | null} id */
const requestNode = (id) =>
  id === null
    ? '–'
    : h('a', { href: link(`/requests/${id}`), title: 'The request that is out to it, and its job' }, String(id));

/**
 * @param {Record<string, string>} labels
 * @param {(label: string) => void} onLabel
 */
function labelNodes(labels, onLabel) {
  const all = Object.entries(labels).map(([name, value]) => `${name}=${value}`);
  const more = all.slice(LABELS);
  return [
    ...all.slice(0, LABELS).map((label) => {
      const title = `Filter by the label ${label}`;
      return h('button', { type: 'button', class: 'label', title, on: { click: () => onLabel(label) } }, label);
    }),
    more.length ? h('span', { class: 'label-more', title: more.join(', ') }, `+${more.length}`) : null,
  ];
}
