/** Numbers, durations and times as people read them. */

const NUMBER = new Intl.NumberFormat('en');
const DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const FULL = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });

/** @param {number} value */
export const number = (value) => NUMBER.format(value);

/**
 * A number and its noun: 1 request, 2 requests.
 *
 * @param {number} count
 * @param {string} noun
 */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? '' : 's'}`;

const RIGHT_TO_LEFT = /[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc]/;

/**
 * A name inside of a sentence: one that is written from right to left must not turn the words around it.
 *
 * @param {string} name
 */
export const enclosed = (name) => (RIGHT_TO_LEFT.test(name) ? `\u2068${name}\u2069` : name);

/**
 * A share as a percentage that is 0 or 100 only when it is exactly that.
 *
 * @param {number} part
 * @param {number} whole
 */
export function share(part, whole) {
  if (!whole || !part) return '0 %';
  const percent = (100 * part) / whole;
  if (percent < 1) return percent < 0.1 ? '< 0.1 %' : `${percent.toFixed(1)} %`;
  return `${part < whole ? Math.min(99, Math.round(percent)) : 100} %`;
}

/**
 * A duration: < 0.01 s, 0.42 s, 7.3 s, 42 s, 5 min 3 s, 2 h 5 min, 3 d 4 h.
 *
 * @param {number} seconds
 */
export function duration(seconds) {
  if (seconds < 0.005) return '< 0.01 s';
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return pair(Math.floor(whole / 60), 'min', whole % 60, 's');
  if (whole < 86400) return pair(Math.floor(whole / 3600), 'h', Math.floor((whole % 3600) / 60), 'min');
  return pair(Math.floor(whole / 86400), 'd', Math.floor((whole % 86400) / 3600), 'h');
}

/**
 * A duration that is only guessed, in coarse steps, so that it does not jump about.
 *
 * @param {number} seconds
 */
export function roughly(seconds) {
  if (seconds < 5) return 'a few seconds';
  if (seconds < 58) return `about ${Math.ceil(seconds / 5) * 5} s`;
  if (seconds < 3600) return `about ${Math.ceil(seconds / 60)} min`;
  if (seconds < 86400) {
    return `about ${pair(Math.floor(seconds / 3600), 'h', Math.floor((seconds % 3600) / 600) * 10, 'min')}`;
  }
  return `about ${pair(Math.floor(seconds / 86400), 'd', Math.floor((seconds % 86400) / 3600), 'h')}`;
}

/**
 * @param {number} first
 * @param {string} unit
 * @param {number} second
 * @param {string} smaller
 */
function pair(first, unit, second, smaller) {
  return second ? `${first} ${unit} ${second} ${smaller}` : `${first} ${unit}`;
}

/**
 * How long ago something was; long ago it is a date.
 *
 * @param {string} iso
 * @param {number} now milliseconds
 */
export function age(iso, now) {
  const seconds = (now - Date.parse(iso)) / 1000;
  if (seconds < -1) return moment(iso, now);
  if (seconds < 5) return 'just now';
  if (seconds < 60) return `${Math.floor(seconds / 5) * 5} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return moment(iso, now);
}

/**
 * A time of the day, with its day when that is not today.
 *
 * @param {string} iso
 * @param {number} now milliseconds
 */
export function moment(iso, now) {
  const time = new Date(iso);
  const today = time.toDateString() === new Date(now).toDateString();
  const year = time.getFullYear() === new Date(now).getFullYear() ? '' : ` ${time.getFullYear()}`;
  return today ? CLOCK.format(time) : `${DAY.format(time)}${year}, ${CLOCK.format(time)}`;
}

/** @param {string} iso */
export const fullTime = (iso) => FULL.format(new Date(iso));

/**
 * Requests a second, as a person would say it.
 *
 * @param {number} perSecond
 */
export function pace(perSecond) {
  if (perSecond >= 10) return `${number(Math.round(perSecond))} a second`;
  if (perSecond >= 1) return `${perSecond.toFixed(1)} a second`;
  return `${(perSecond * 60).toFixed(perSecond * 60 < 10 ? 1 : 0)} a minute`;
}

/**
 * How long a job took, or has taken until now, in whole seconds as long as it goes on.
 *
 * @param {{startedAt: string | null, finishedAt: string | null}} job
 * @param {number} now milliseconds
 */
export function tookOf({ startedAt, finishedAt }, now) {
  if (!startedAt) return '–';
  if (finishedAt) return duration((Date.parse(finishedAt) - Date.parse(startedAt)) / 1000);
  const seconds = Math.max(0, Math.floor((now - Date.parse(startedAt)) / 1000));
  return seconds < 60 ? `${seconds} s` : duration(seconds);
}
