/** What is shown where there is nothing to show. */

import { h } from '../dom.js';
import { link } from '../router.js';

/**
 * @param {string} title
 * @param {string} text
 * @returns {import('../router.js').View}
 */
export function missingView(title, text) {
  document.title = `${title} – puppetmaster`;
  return { node: missing(title, text) };
}

/**
 * @param {string} title
 * @param {string} text
 */
export function missing(title, text) {
  return h(
    'div',
    { class: 'empty' },
    h('h1', { tabindex: -1 }, title),
    h('p', {}, text),
    h('p', {}, h('a', { class: 'button', href: link('/jobs') }, 'To the jobs')),
  );
}
