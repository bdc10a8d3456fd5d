/** A request by its number alone: leads to its job. */

import { GivenUp, Refused, ask } from '../api.js';
import { h } from '../dom.js';
import { messagePlace } from '../message.js';
import { go, link } from '../router.js';
import { missing } from './missing.js';

/**
 * @param {number} id
 * @returns {import('../router.js').View}
 */
export function requestView(id) {
  document.title = `Request ${id} – puppetmaster`;
  const place = messagePlace();
  const node = h('div', { class: 'view' }, h('h1', { tabindex: -1 }, `Request ${id}`), place.node);
  const calls = new AbortController();
  const lead = async () => {
    try {
      const { __request: told } = await ask('GET', `requests/${id}`, { signal: calls.signal });
      go(link(`/jobs/${told.job}`, { destination: told.destination }), { replace: true });
    } catch (error) {
      if (error instanceof GivenUp) return;
      if (error instanceof Refused && error.code === 404)
        node.replaceChildren(missing(`There is no request ${id}`, 'Its job may have been removed.'));
      else place.error(error);
    }
  };
  void lead();
  return { node, close: () => calls.abort() };
}
