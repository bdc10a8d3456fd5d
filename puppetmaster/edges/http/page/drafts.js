/** What was typed into the form, kept for this tab: a login that ended must not cost an operator a list of devices. */

const KEY = 'puppetmaster.draft';

/** @returns {any} */
export function readDraft() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? 'null');
  } catch {
    return null;
  }
}

/** @param {unknown} draft */
export function keepDraft(draft) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(draft));
  } catch {
    dropDraft(); // too large, or forbidden: an old draft would be worse than none
  }
}

export function dropDraft() {
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // There is none then.
  }
}
