/** Which view is shown: `#/jobs`, `#/jobs/1000000?status=error`, `#/new`, `#/login`. */

/**
 * @typedef {object} View
 * @property {Element} node
 * @property {(query: URLSearchParams) => void} [update] the same view with another query
 * @property {() => void} [close]
 */

/**
 * @typedef {object} Route
 * @property {RegExp} pattern of the path
 * @property {(match: RegExpExecArray, query: URLSearchParams) => View} make
 */

/**
 * The address of a view, for a link.
 *
 * @param {string} path
 * @param {Record<string, string | number | string[] | undefined>} [query]
 */
export function link(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== undefined && item !== '' && item !== 0) parameters.append(name, String(item));
    }
  }
  const text = parameters.toString();
  return `#${path}${text ? `?${text}` : ''}`;
}

/** What the address bar says. */
export function here() {
  const [path, query = ''] = (location.hash.slice(1) || '/jobs').split(/\?(.*)/s);
  return { path, query: new URLSearchParams(query) };
}

/**
 * Go to a view. `replace` leaves no entry for the Back button.
 *
 * @param {string} address a link
 * @param {{replace?: boolean}} [how]
 */
export function go(address, { replace = false } = {}) {
  if (address === location.hash) return;
  if (replace) {
    history.replaceState(history.state, '', address);
    show();
  } else {
    location.hash = address;
  }
}

/** @type {Route[]} */
let routes = [];
/** @type {Element} */
let place;
/** @type {() => void} */
let onShown = () => {};
/** @type {View | null} */
let view = null;
let path = '';
let first = true;

/** Where each entry of the history was scrolled to. @type {Map<string, number>} */
const scrolled = new Map();
let entry = '';

/**
 * Begin.
 *
 * @param {Element} element where views are put
 * @param {Route[]} table
 * @param {() => void} shown called after a view was put there
 */
export function start(element, table, shown) {
  place = element;
  routes = table;
  onShown = shown;
  history.scrollRestoration = 'manual';
  window.addEventListener('hashchange', show);
  window.addEventListener('scroll', () => scrolled.set(entry, window.scrollY), { passive: true });
  show();
}

/** Show the view of the address bar, anew if need be: who is logged in has changed. */
export function again() {
  path = '';
  show();
}

function show() {
  const now = here();
  const back = keepEntry();
  if (now.path === path && view?.update) {
    view.update(now.query);
    onShown();
    return;
  }
  const moved = !first && path !== '';
  path = now.path;
  view?.close?.();
  view = make(now);
  place.replaceChildren(view.node);
  onShown();
  window.scrollTo(0, back);
  // So that a screen reader and the Tab key begin where the new content is; not at the first load.
  if (moved) /** @type {HTMLElement | null} */ (view.node.querySelector('h1'))?.focus({ preventScroll: true });
  first = false;
}

/** @param {{path: string, query: URLSearchParams}} now */
function make(now) {
  for (const route of routes) {
    const match = route.pattern.exec(now.path);
    if (match) return route.make(match, now.query);
  }
  throw new Error('the last route takes every path');
}

/** Know the entry of the history again when Back leads to it; answers where it was scrolled to. */
function keepEntry() {
  entry = history.state?.entry ?? '';
  if (!entry) {
    entry = Math.random().toString(36).slice(2);
    history.replaceState({ entry }, '');
  }
  return scrolled.get(entry) ?? 0;
}
