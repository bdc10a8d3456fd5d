/** How fast a job goes, from what was seen of it, and when it may be done. */

const SPAN = 15_000; // milliseconds that are looked back
const ENOUGH = 1_500; // milliseconds before what was seen says anything

export class Pace {
  constructor() {
    /** @type {{at: number, done: number}[]} */
    this.seen = [];
  }

  /**
   * @param {number} done how many requests have ended
   * @param {number} [at] milliseconds
   */
  add(done, at = performance.now()) {
    const last = this.seen[this.seen.length - 1];
    if (last && at - last.at < 250) last.done = done;
    else this.seen.push({ at, done });
    while (this.seen.length > 2 && at - this.seen[1].at > SPAN) this.seen.shift();
  }

  /** It stood still on purpose: what was before says nothing about what comes. */
  forget() {
    this.seen = [];
  }

  /**
   * Requests a second lately, or null when too little was seen.
   *
   * @param {number} [now]
   */
  rate(now = performance.now()) {
    const [oldest] = this.seen;
    const newest = this.seen[this.seen.length - 1];
    if (!oldest || now - oldest.at < ENOUGH) return null;
    return ((newest.done - oldest.done) / (now - oldest.at)) * 1000;
  }
}

/**
 * How fast a job went from its start up to now or its end, or null.
 *
 * @param {import('./states.js').Job} job
 * @param {number} now milliseconds
 * @param {number} [least] seconds that it has to have run
 */
export function meanRate(job, now, least = 0) {
  if (!job.startedAt) return null;
  const end = job.finishedAt ? Date.parse(job.finishedAt) : now;
  const seconds = (end - Date.parse(job.startedAt)) / 1000;
  return seconds > least ? job.doneCount / seconds : null;
}
