/** Small line drawings. They never stand alone: a word or a label is always beside them. */

const SVG = 'http://www.w3.org/2000/svg';

/** Paths on a grid of 16; a path that begins with `fill:` is filled. */
const PATHS = /** @type {Record<string, string[]>} */ ({
  // Requests
  created: ['M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Z'],
  sent: ['M2.5 8h10', 'M8.5 4l4 4-4 4'],
  running: ['M8 2.5A5.5 5.5 0 1 1 2.5 8', 'fill:M8 6a2 2 0 1 1 0 4 2 2 0 0 1 0-4Z'],
  resolved: ['M3 8.8l3.3 3.4L13 4.5'],
  error: ['M4 4l8 8', 'M12 4l-8 8'],
  timeout: ['M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Z', 'M8 5v3.2l2.2 1.6'],
  canceled: ['M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Z', 'M4.2 4.2l7.6 7.6'],
  // Jobs
  pending: [
    'M4.5 2.5h7',
    'M4.5 13.5h7',
    'M5.2 2.5c0 3.2 2.8 3.5 2.8 5.5s-2.8 2.3-2.8 5.5',
    'M10.8 2.5c0 3.2-2.8 3.5-2.8 5.5s2.8 2.3 2.8 5.5',
  ],
  dispatching: ['fill:M4.5 3v10l8.5-5Z'],
  paused: ['M5.5 3.5v9', 'M10.5 3.5v9'],
  aborted: ['M5.6 2.3h4.8l3.3 3.3v4.8l-3.3 3.3H5.6l-3.3-3.3V5.6Z', 'M8 5v3.4', 'M8 10.9v.1'],
  // The page
  plus: ['M8 3v10', 'M3 8h10'],
  chevron: ['M6 3.5 10.5 8 6 12.5'],
  close: ['M4 4l8 8', 'M12 4l-8 8'],
  again: ['M13 8a5 5 0 1 1-1.6-3.7', 'M13.2 2v3h-3'],
  trash: ['M3 4.5h10', 'M6.5 4.5v-2h3v2', 'M4.5 4.5l.6 9h5.8l.6-9'],
  sliders: ['M2.5 5h6', 'M12.5 5h1', 'M2.5 11h1', 'M7.5 11h6', 'M10.5 3.4v3.2', 'M5.5 9.4v3.2'],
  search: ['M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9Z', 'M10.3 10.3l3.2 3.2'],
  light: [
    'M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6Z',
    'M8 1.5v1.3M8 13.2v1.3M1.5 8h1.3M13.2 8h1.3M3.4 3.4l.9.9M11.7 11.7l.9.9M12.6 3.4l-.9.9M4.3 11.7l-.9.9',
  ],
  dark: ['M13.2 9.6A5.7 5.7 0 0 1 6.4 2.8a5.7 5.7 0 1 0 6.8 6.8Z'],
  system: ['M2.5 3h11v7.5h-11Z', 'M6 13.5h4', 'M8 10.5v3'],
  copy: ['M5.5 5.5h8v8h-8Z', 'M10.5 5.5v-3h-8v8h3'],
  file: ['M4 2.5h5l3 3v8H4Z', 'M9 2.5v3h3'],
  user: ['M8 2.5a2.7 2.7 0 1 0 0 5.4 2.7 2.7 0 0 0 0-5.4Z', 'M3 13.5c.5-2.7 2.5-3.8 5-3.8s4.5 1.1 5 3.8'],
  alert: ['M8 2.3 14.3 13.2H1.7Z', 'M8 6.3v3', 'M8 11.2v.1'],
  unplugged: ['M2.5 13.5l11-11', 'M5 7 3.8 8.2a2.8 2.8 0 0 0 4 4L9 11', 'M11 9l1.2-1.2a2.8 2.8 0 0 0-4-4L7 5'],
});

/**
 * An icon that says nothing to a screen reader.
 *
 * @param {string} name
 * @param {string} [className]
 * @returns {SVGElement}
 */
export function icon(name, className = '') {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('class', `icon ${className}`.trim());
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('focusable', 'false');
  for (const path of PATHS[name] ?? []) {
    const filled = path.startsWith('fill:');
    const node = document.createElementNS(SVG, 'path');
    node.setAttribute('d', filled ? path.slice(5) : path);
    if (filled) node.setAttribute('class', 'filled');
    svg.append(node);
  }
  return svg;
}

/** The mark of the page: a control bar with three figures on strings. */
export function mark() {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 32 32');
  svg.setAttribute('class', 'mark');
  svg.setAttribute('aria-hidden', 'true');
  const parts = [
    ['rect', { width: '32', height: '32', rx: '7', class: 'mark-ground' }],
    ['path', { d: 'M7 8.5h18M16 5.5v6', class: 'mark-bar' }],
    ['path', { d: 'M8.5 9v9M16 11.5v11M23.5 9v9', class: 'mark-string' }],
    ['path', { d: 'M8.5 20h.01M16 24.5h.01M23.5 20h.01', class: 'mark-figure' }],
  ];
  for (const [tag, attributes] of /** @type {[string, Record<string, string>][]} */ (parts)) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    svg.append(node);
  }
  return svg;
}
