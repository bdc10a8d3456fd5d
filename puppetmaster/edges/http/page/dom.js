/** Making and changing elements. Data only ever becomes text, never markup. */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * @typedef {object} Special
 * @property {Record<string, (event: any) => void>} [on] listeners
 * @property {Record<string, string | number>} [data] data attributes
 */

/**
 * Make an element.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Special & Record<string, any>} [props] attributes; true is an empty one, false and null leave it out;
 *   `value` and `checked` are set as properties
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === 'on') {
      for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    } else if (name === 'data') {
      for (const [key, text] of Object.entries(value)) node.dataset[key] = String(text);
    } else if (name === 'value' || name === 'checked') {
      /** @type {any} */ (node)[name] = value;
    } else if (name.startsWith('aria-')) {
      node.setAttribute(name, String(value)); // true and false are words here
    } else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value === true ? '' : String(value));
    }
  }
  node.append(...kept(children));
  return node;
}

/**
 * The children that are there, numbers as text.
 *
 * @param {(Child | Child[])[]} children
 * @returns {(Node | string)[]}
 */
function kept(children) {
  return /** @type {any[]} */ (children.flat())
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (typeof child === 'number' ? String(child) : child));
}

/**
 * Put new children in the place of the old ones.
 *
 * @param {Element} node
 * @param {...(Child | Child[])} children
 */
export function fill(node, ...children) {
  node.replaceChildren(...kept(children));
}

/**
 * Set a text only where it differs: the browser then has nothing to lay out again.
 *
 * @param {Node} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Set an attribute only where it differs; null takes it away.
 *
 * @param {Element} node
 * @param {string} name
 * @param {string | number | null} value
 */
export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

/**
 * Make a parent hold exactly these children, in this order, and leave those alone that stand right: a node that is
 * taken out and put back loses its focus.
 *
 * @param {Element} parent
 * @param {Element[]} nodes
 */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) {
    if (!wanted.has(child)) child.remove();
  }
  nodes.forEach((node, place) => {
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
  });
}

/**
 * Call something at the next frame, however often it is asked for until then, and not sooner than `least` after the
 * last time. A hidden tab has no frames; there a timer does it once a second, so that the title goes on.
 *
 * @param {() => void} work
 * @param {number} [least] milliseconds
 */
export function oncePerFrame(work, least = 0) {
  let waiting = false;
  let last = -Infinity;
  const run = () => {
    if (!waiting) return;
    waiting = false;
    last = performance.now();
    work();
  };
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(run, 1000); // the tab is hidden, or will be before the frame comes
    const wait = last + least - performance.now();
    if (wait > 0) setTimeout(() => requestAnimationFrame(run), wait);
    else requestAnimationFrame(run);
  };
}

/**
 * Call something when nothing new came for a while.
 *
 * @template {any[]} A
 * @param {(...args: A) => void} work
 * @param {number} delay milliseconds
 */
export function debounced(work, delay) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @param {A} args */
  const later = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), delay);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

let lastId = 0;

/**
 * An id for an element that another one refers to.
 *
 * @param {string} prefix
 */
export function freshId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}
