/** The login. */

import { announce } from '../announce.js';
import { Refused } from '../api.js';
import { h } from '../dom.js';
import { mark } from '../icons.js';
import { messagePlace } from '../message.js';
import { go } from '../router.js';
import { session } from '../session.js';

/**
 * @param {URLSearchParams} query
 * @returns {import('../router.js').View}
 */
export function loginView(query) {
  document.title = 'Log in – puppetmaster';
  // Only a view of this page, whatever a link says.
  const asked = query.get('next') ?? '';
  const next = /^\/(?!login)/.test(asked) ? `#${asked}` : '#/jobs';
  if (session.account) queueMicrotask(() => go(next, { replace: true }));

  const place = messagePlace();
  const name = h('input', {
    id: 'login-name',
    name: 'username',
    autocomplete: 'username',
    autocapitalize: 'none',
    spellcheck: 'false',
    required: true,
    maxlength: 128,
  });
  const password = h('input', {
    id: 'login-password',
    name: 'password',
    type: 'password',
    autocomplete: 'current-password',
    required: true,
  });
  const button = h('button', { type: 'submit', class: 'button primary wide' }, 'Log in');

  let busy = false;
  /** @param {Event} event */
  const submit = async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    place.clear();
    try {
      await session.logIn(name.value, password.value);
      announce(`Logged in as ${session.account?.name}`);
      go(next, { replace: true });
    } catch (error) {
      password.value = '';
      if (error instanceof Refused && error.code === 401) place.say(error.message);
      else place.error(error);
      password.focus();
    } finally {
      busy = false;
    }
  };

  const node = h(
    'div',
    { class: 'login' },
    h(
      'form',
      { class: 'card login-card', on: { submit }, novalidate: true },
      h('div', { class: 'login-mark' }, mark()),
      h('h1', { tabindex: -1 }, 'Log in to puppetmaster'),
      h('div', { class: 'field' }, h('label', { for: 'login-name' }, 'Name'), name),
      h('div', { class: 'field' }, h('label', { for: 'login-password' }, 'Password'), password),
      place.node,
      button,
    ),
  );
  queueMicrotask(() => name.focus());
  return { node };
}
