/** Asks for something again when it has changed, but not too often, and never for a tab that nobody looks at. */
export class Refresher {
  /**
   * @param {() => Promise<void>} load handles its own errors
   * @param {number} interval milliseconds between two loads at least
   */
  constructor(load, interval) {
    this.load = load;
    this.interval = interval;
    this.wanted = false;
    this.running = false;
    this.over = false;
    this.next = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.shown = () => this.check();
    document.addEventListener('visibilitychange', this.shown);
  }

  /** It has changed. */
  want() {
    this.wanted = true;
    this.check();
  }

  /** Somebody asked for it by hand: now, if it is not on its way already. */
  now() {
    this.next = 0;
    this.want();
  }

  close() {
    this.over = true;
    clearTimeout(this.timer);
    document.removeEventListener('visibilitychange', this.shown);
  }

  check() {
    if (this.over || !this.wanted || this.running || document.hidden) return;
    clearTimeout(this.timer);
    const wait = this.next - performance.now();
    if (wait > 0) this.timer = setTimeout(() => this.check(), wait);
    else void this.run();
  }

  async run() {
    this.wanted = false;
    this.running = true;
    const begun = performance.now();
    try {
      await this.load();
    } finally {
      this.running = false;
      // What is slow is asked for less often: at most a fifth of the time is spent on it.
      this.next = performance.now() + Math.max(this.interval, 4 * (performance.now() - begun));
      this.check();
    }
  }
}
