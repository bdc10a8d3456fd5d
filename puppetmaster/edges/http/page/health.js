/** Looks whether the server is ready, and says when it is not: an idle page would not notice. */

import { address } from './api.js';
import { distrust } from './live.js';

const INTERVAL = 15_000;
const PATIENCE = 8_000;

/**
 * @typedef {object} Health
 * @property {boolean} ready
 * @property {string} broker
 * @property {string} controller
 * @property {string} store
 * @property {string} [registry]
 * @property {string} [memory]
 * @property {string} [version]
 * @property {string} [instance]
 */

/** @param {(health: Health | null) => void} onHealth null: it does not answer */
export function watchHealth(onHealth) {
  const look = async () => {
    if (document.hidden) return;
    const health = await fetchHealth();
    if (!health) distrust();
    onHealth(health);
  };
  setInterval(look, INTERVAL);
  document.addEventListener('visibilitychange', look);
  window.addEventListener('offline', () => distrust());
  void look();
}

/** @returns {Promise<Health | null>} */
async function fetchHealth() {
  const control = new AbortController();
  const timer = setTimeout(() => control.abort(), PATIENCE);
  try {
    // 503 has the same body: it is an answer too.
    const answer = await fetch(address('health'), { signal: control.signal, cache: 'no-store' });
    const health = await answer.json();
    return typeof health?.ready === 'boolean' ? health : null;
  } catch {
    return null;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * What is wrong, in words; empty when nothing is.
 *
 * @param {Health} health
 * @returns {string[]}
 */
export function troubles(health) {
  const found = [];
  if (health.broker !== 'connected')
    found.push('The broker is not connected: nothing is sent and no answer comes until it is back.');
  if (health.store !== 'ok') found.push(`The store can’t write (${health.store}): no new job is taken.`);
  if ((health.registry ?? 'ok') !== 'ok')
    found.push(`What is known of devices can’t be saved (${health.registry}): changes to them are refused.`);
  if ((health.memory ?? 'ok') !== 'ok')
    found.push(`Memory is short (${health.memory}): no new job is taken until some have ended or are removed.`);
  if (health.controller !== 'registered')
    found.push('The controller does not know puppetmaster: calls over the bus get no answer. Jobs go on.');
  return found;
}
