/** Copying a text, also on an origin that is not secure, where the clipboard has no API. */

import { announce } from './announce.js';
import { h, setText } from './dom.js';
import { icon } from './icons.js';

/**
 * @param {string} text
 * @param {Element} [near] an element inside an open dialog, outside of which nothing can be selected
 */
export async function copy(text, near = document.body) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h('textarea', { class: 'unseen', value: text, 'aria-hidden': true, tabindex: -1 });
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    (near.closest('dialog') ?? document.body).append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    focused?.focus();
    return done;
  }
}

/**
 * A button that copies.
 *
 * @param {() => string} text
 * @param {string} [label]
 */
export function copyButton(text, label = 'Copy') {
  const word = h('span', {}, label);
  /** @type {HTMLButtonElement} */
  const button = h(
    'button',
    {
      type: 'button',
      class: 'button small quiet',
      on: {
        click: async () => {
          const done = await copy(text(), button);
          setText(word, done ? 'Copied' : 'Select it and press Ctrl C');
          announce(done ? 'Copied' : 'It could not be copied');
          setTimeout(() => setText(word, label), 2000);
        },
      },
    },
    icon('copy'),
    word,
  );
  return button;
}
