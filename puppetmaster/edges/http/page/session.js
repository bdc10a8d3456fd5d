/** Who is logged in, and what that role may do. */

import { Refused, ask } from './api.js';

/**
 * @typedef {object} Account
 * @property {string | null} name
 * @property {'admin' | 'operator' | 'viewer'} role
 * @property {boolean} loginRequired
 */

/** @type {Account | null} */
let account = null;
/** @type {Set<() => void>} */
const listeners = new Set();

export const session = {
  /** Null when a login is needed. */
  get account() {
    return account;
  },

  get canWrite() {
    return account !== null && account.role !== 'viewer';
  },

  /** @param {() => void} listener */
  onChange(listener) {
    listeners.add(listener);
  },

  /**
   * Ask the server who this is.
   *
   * @throws {Refused | import('./api.js').Unreachable}
   */
  async load() {
    try {
      become(await ask('GET', 'account'));
    } catch (error) {
      if (error instanceof Refused && error.code === 401) become(null);
      else throw error;
    }
  },

  /**
   * The token comes as a cookie that no script can read; the page keeps none.
   *
   * @param {string} name
   * @param {string} password
   */
  async logIn(name, password) {
    const answer = await ask('POST', 'login', { body: { name, password } });
    become({ name: answer.name, role: answer.role, loginRequired: true });
  },

  async logOut() {
    try {
      await ask('POST', 'logout');
    } catch (error) {
      // The token had ended already: logged out is logged out.
      if (!(error instanceof Refused && error.code === 401)) throw error;
    }
    become(null);
  },

  /** The server said 401: whoever it was, they are no more. */
  ended() {
    become(null);
  },
};

/** @param {Account | null} next */
function become(next) {
  if (account === null && next === null) return;
  account = next;
  for (const listener of listeners) listener();
}
