/** Errors and notes, in place. */

import { GivenUp, Refused } from './api.js';
import { fill, h } from './dom.js';
import { icon } from './icons.js';

/**
 * A place for a message; empty it takes no room. What is put there is read aloud.
 */
export function messagePlace() {
  const node = h('div', { class: 'message-place', role: 'alert' });
  return {
    node,
    /** @param {unknown} error */
    error(error) {
      if (error instanceof GivenUp) return;
      // A login is on its way; there is nobody to read this.
      if (error instanceof Refused && error.code === 401) return;
      fill(node, note('error', wordsOf(error)));
    },
    /** @param {string} text */
    say(text) {
      fill(node, note('error', text));
    },
    clear() {
      if (node.firstChild) fill(node);
    },
  };
}

/**
 * What went wrong, for people.
 *
 * @param {unknown} error
 */
export function wordsOf(error) {
  if (error instanceof Refused && error.retryAfter) return `${error.message} Try again in ${error.retryAfter} s.`;
  return error instanceof Error && error.message ? error.message : 'Something went wrong in the page. Load it again.';
}

/**
 * @param {'error' | 'warning' | 'plain'} tone
 * @param {...import('./dom.js').Child} content
 */
export function note(tone, ...content) {
  return h('div', { class: 'note', data: { tone } }, tone === 'plain' ? null : icon('alert'), h('div', {}, ...content));
}
