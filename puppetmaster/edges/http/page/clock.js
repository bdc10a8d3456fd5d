/** The server's clock: ages are told by it, for the two machines need not agree. */

let offset = 0;

/**
 * Learn from an answer what time it is over there.
 *
 * @param {string | null} date its `Date` header
 * @param {number} asked when it was asked for, `Date.now()`
 */
export function learn(date, asked) {
  const there = date ? Date.parse(date) + 500 : NaN; // the header has whole seconds
  const here = (asked + Date.now()) / 2;
  // Within the header's own coarseness the two agree.
  if (!Number.isNaN(there)) offset = Math.abs(there - here) > 2000 ? there - here : 0;
}

/** Now, on the server, in milliseconds. */
export const serverNow = () => Date.now() + offset;

/**
 * Call something every second while the tab is looked at.
 *
 * @param {() => void} work
 * @returns {() => void} ends it
 */
export function everySecond(work) {
  const timer = setInterval(() => document.hidden || work(), 1000);
  const shown = () => document.hidden || work();
  document.addEventListener('visibilitychange', shown);
  return () => {
    clearInterval(timer);
    document.removeEventListener('visibilitychange', shown);
  };
}
