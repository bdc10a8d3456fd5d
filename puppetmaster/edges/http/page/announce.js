/** What a screen reader is told: changes that matter, not every tick. */

const place = /** @type {HTMLElement} */ (document.getElementById('announcer'));

/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

/** @param {string} text */
export function announce(text) {
  if (!text) return;
  // The same text twice is no change, and would not be read.
  place.textContent = place.textContent === text ? `${text}\u00a0` : text;
  // Nobody should come upon it later, out of its time.
  clearTimeout(timer);
  timer = setTimeout(() => place.replaceChildren(), 3000);
}
